"""Films of the truth report: what the cameras saw above what was imagined, for the same actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.truth_metrics import Imagined
from benchmarks.truth_rollouts import Course, Proposals, repeat_in_cell
from benchmarks.truth_set import TruthSet
from benchmarks.truth_states import FreshStates
from rise_agents.reporting.compositions import imagined_film
from rise_agents.reporting.filming import write_video
from rise_agents.reporting.media import Film
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel

__all__ = ["all_frames", "chunk_films", "course_films", "flattering_films"]

_READ = "Above what truly happened, below what was imagined for the same actions; the bar is the imagined value. "


def chunk_films(folder: Path, truth: TruthSet, imagined: Imagined, fps: int, states: int = 2) -> list[Film]:
    """Films of different chunks from the same state, for some states spread over all of them."""
    chosen = np.unique(np.linspace(0, len(truth.seeds) - 1, states).round().astype(int))
    kinds = {str(kind): int(np.flatnonzero(truth.kinds == kind)[0]) for kind in dict.fromkeys(truth.kinds.tolist())}
    films = []
    for s in chosen:
        clips = [
            imagined_film(
                truth.frames[s, c], imagined.frames[s, c], f"same start, {kind} chunk", imagined.values[s, c].tolist()
            )
            for kind, c in kinds.items()
        ]
        path = write_video(folder / f"chunks-{truth.seeds[s]}.mp4", _paused(clips), fps)
        text = f"State {truth.seeds[s]}: different chunks from the same start, one after the other ({', '.join(kinds)})"
        films.append(
            Film(
                text,
                path,
                _READ
                + "The lower row has to go where the upper one goes, chunk by chunk: the arms, and what they hold.",
            )
        )
    return films


@torch.no_grad()
def all_frames(
    model: CompositionalWorldModel, history: History, actions: np.ndarray, seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Every imagined frame uint8 (S, n K, V, H, W, 3) of actions (S, n, chunk, D), and its value (S, n K)."""
    session, frames, values = model.open(history), [], []
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for number in range(actions.shape[1]):
        imagined = model.imagine(session, torch.from_numpy(actions[:, number]).to(model.device), generators)
        frames.append(imagined.frames(range(model.spec.frames_per_chunk)).cpu().numpy())
        values.append(imagined.values.float().cpu().numpy())
        model.close(session)
        session = imagined.session
    model.close(session)
    return np.concatenate(frames, axis=1), np.concatenate(values, axis=1)


def course_films(
    folder: Path,
    model: CompositionalWorldModel,
    fresh: FreshStates,
    name: str,
    imagined: Course,
    level: np.ndarray,
    fps: int,
) -> list[Film]:
    """Films of courses whose imagined end is nearest to the true one, in the middle, and furthest.

    Args:
        folder: Where to write them.
        model: Imagines.
        fresh: States, and the cell.
        name: Who acts.
        imagined: The courses in imagination.
        level: (S,), true progress at the end of the same actions.
        fps: Imagined frames per second of the episode.
    """
    off = np.abs(imagined.level[:, -1] - level)
    order = np.argsort(off, kind="stable")
    places = {0: "the end imagined best", len(order) // 2: "in the middle", len(order) - 1: "the end imagined worst"}
    rows = [int(order[place]) for place in places]
    return _filmed(
        folder,
        "course",
        model,
        fresh,
        rows,
        imagined.actions[rows],
        f"{name}, acting in imagination",
        fps,
        [
            f"{which}: imagined {imagined.level[row, -1]:.2f}, true {level[row]:.2f}"
            for which, row in zip(places.values(), rows, strict=True)
        ],
        "Each chunk goes on from imagined pictures. Look when the two begin to differ.",
    )


def flattering_films(
    folder: Path, model: CompositionalWorldModel, fresh: FreshStates, found: Proposals, fps: int, count: int = 2
) -> list[Film]:
    """Films of the chosen proposals that imagination flatters most."""
    states = np.arange(len(found.true))
    chosen = found.imagined.argmax(axis=1)
    guess, true = found.imagined[states, chosen], found.true[states, chosen]
    rows = np.argsort(true - guess, kind="stable")[:count].tolist()
    return _filmed(
        folder,
        "flattered",
        model,
        fresh,
        rows,
        found.actions[rows, chosen[rows]][:, None],
        "imagined best of its state",
        fps,
        [f"promised {guess[row]:+.2f}, kept {true[row]:+.2f}" for row in rows],
        "The choices that disappoint most: look for what is imagined and does not happen.",
    )


def _filmed(
    folder: Path,
    stem: str,
    model: CompositionalWorldModel,
    fresh: FreshStates,
    rows: list[int],
    actions: np.ndarray,
    label: str,
    fps: int,
    texts: Sequence[str],
    reading: str,
) -> list[Film]:
    """Run actions (n of `rows`, n, chunk, D) in both worlds, with every frame."""
    true = repeat_in_cell(fresh, actions, rows, every_frame=True).ends
    assert true is not None
    frames, values = all_frames(
        model, fresh.history(model.device, rows), actions, [fresh.states[row].seed for row in rows]
    )
    films = []
    for number, row in enumerate(rows):
        seed = fresh.states[row].seed
        pictures = imagined_film(true[number], frames[number], label, values[number].tolist())
        path = write_video(folder / f"{stem}-{seed}.mp4", pictures, fps)
        films.append(Film(f"State {seed}, {label}; {texts[number]}", path, _READ + reading))
    return films


def _paused(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Clips one after another; each stays on its last picture for a moment."""
    return np.concatenate([part for clip in clips for part in (clip, clip[-1:], clip[-1:])])
