"""The truth report on recordings alone: what real cameras saw, held out from training, takes the place of a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.truth_chunks import Chunks, calibration, fidelity
from benchmarks.truth_films import all_frames
from benchmarks.truth_ladder import Figure, Heading, bounded, chart, graded, needs, ranged, said
from benchmarks.truth_rollouts import imagine_course
from benchmarks.truth_worlds import Chain, closed_loop
from rise_agents.reporting.compositions import imagined_film
from rise_agents.reporting.filming import write_video
from rise_agents.reporting.media import Film
from rise_env.data import Dataset, Windows
from rise_env.envs.advantage import chunk_advantage
from rise_env.errors import DatasetError
from rise_env.metrics import psnr, rank_correlation
from rise_env.metrics.agreement import bootstrap, mean_over_groups
from rise_env.protocols import History
from rise_env.tasks import TaskSpec
from rise_env.value.evaluation import LEAST_CORRELATION, auroc, spearman
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Recorded", "measure_recordings"]

_TOGETHER, _EPISODES, _FRAMES, _FILMED = 16, 24, 48, 3
_CELL = ("policy_ranking", "optimisation_lift", "exploitability")


class Recorded(NamedTuple):
    """What recordings tell.

    Attributes:
        ladder: All headings.
        films: By heading.
        windows: Number of chunks that were imagined.
    """

    ladder: list[Heading]
    films: dict[str, list[Film]]
    windows: int


@torch.no_grad()
def measure_recordings(
    model: CompositionalWorldModel,
    dataset: Dataset,
    episodes: np.ndarray,
    *,
    states: int,
    chunks: int,
    seed: int,
    folder: Path | None,
    on_state: Callable[[int], object] = lambda count: None,
) -> Recorded:
    """All headings, from held-out episodes.

    Args:
        model: World model.
        dataset: Recordings, opened for its task.
        episodes: Those to measure on.
        states: Moments to imagine from, at most.
        chunks: Chunks in a row.
        seed: Seed of moments and noise.
        folder: Where to write films; None for none.
        on_state: Called with the number of moments imagined since the last call.

    Raises:
        DatasetError: If no chunk fits into these episodes.
    """
    spec = model.spec
    windows = Windows(dataset, spec, episodes=episodes)
    rng = np.random.default_rng(seed)
    index = np.sort(rng.choice(windows.index, min(states, len(windows)), replace=False))
    found = _chunks(model, windows, index, rng, seed, on_state)
    films: dict[str, list[Film]] = {}
    ladder = [fidelity(found)]
    count, starts = _long(dataset, spec, episodes, chunks)
    chosen = np.sort(rng.choice(starts, min(states, len(starts)), replace=False))
    history, actions, seeds = (
        _History(dataset, windows, chosen, model.device),
        _actions(dataset, chosen, count, spec.chunk),
        (seed + chosen).tolist(),
    )
    course = imagine_course(
        model, history, actions, seeds, count, float("inf"), looks=True, on_chunk=lambda n: on_state(0)
    )
    ends = chosen[:, None] + spec.chunk * np.arange(count + 1)  # (S, n + 1)
    true = dataset.frames(ends.ravel()).reshape(*ends.shape, len(spec.cameras), *spec.image_size, 3)
    level = np.concatenate(
        [
            model.score_frames(
                torch.from_numpy(true[i : i + _TOGETHER]).to(model.device), dataset.prompts(chosen[i : i + _TOGETHER])
            )
            .value.double()
            .cpu()
            .numpy()
            for i in range(0, len(chosen), _TOGETHER)
        ]
    )
    assert course.ends is not None
    ladder.append(
        closed_loop(
            Chain(
                list(spec.cameras),
                dataset.episode_of(chosen),
                "episodes",
                spec.chunk / spec.fps,
                true[:, 0],
                course.ends,
                true[:, 1:],
                course.level,
                level,
                "value of the true pictures",
                None,
            )
        )
    )
    ladder.append(_value(model, dataset, episodes, found))
    ladder += [needs("cell", key) for key in _CELL]
    ladder.append(calibration(found))
    if folder is not None:
        films["counterfactual_action_fidelity"] = _films(folder, model, dataset, windows, index, 1, rng)
        films["closed_loop_validity"] = _films(folder, model, dataset, windows, chosen, count, None)
    return Recorded(ladder, films, len(index))


class _History:
    """Histories of moments of a dataset, as `imagine_course` asks for them."""

    def __init__(self, dataset: Dataset, windows: Windows, index: np.ndarray, device: torch.device) -> None:
        self._dataset, self._device, self._batch = dataset, device, windows.at(index)

    def __call__(self, rows: Sequence[int]) -> History:
        chosen = list(rows)
        return History(
            torch.from_numpy(self._dataset.frames(self._batch.history_index[chosen])).to(self._device),
            torch.from_numpy(np.ascontiguousarray(self._batch.states[chosen])).to(self._device),
            [self._batch.prompts[row] for row in chosen],
        )


def _chunks(
    model: CompositionalWorldModel,
    windows: Windows,
    index: np.ndarray,
    rng: np.random.Generator,
    seed: int,
    on_state: Callable[[int], object],
) -> Chunks:
    """Chunks imagined with the recorded actions and with another moment's."""
    dataset, spec = windows.dataset, windows.spec
    batch = windows.at(index)
    history, other = _History(dataset, windows, index, model.device), _others(len(index), rng)
    ends: dict[str, list[np.ndarray]] = {"imagined": [], "true": [], "last": [], "other": []}
    numbers: dict[str, list[np.ndarray]] = {"imagined": [], "true": [], "doubt": []}
    for first in range(0, len(index), _TOGETHER):
        rows = np.arange(first, min(first + _TOGETHER, len(index)))
        start = history(rows.tolist())
        session = model.open(start)
        true = dataset.frames(batch.future_index[rows])
        moved = _moved(batch.actions[other[rows]], batch.states[other[rows], -1], batch.states[rows, -1], spec)
        for name, actions in (("imagined", batch.actions[rows]), ("other", moved)):
            generators = [torch.Generator().manual_seed(seed + int(index[row])) for row in rows]
            imagined = model.imagine(
                session, torch.from_numpy(np.ascontiguousarray(actions)).to(model.device), generators
            )
            ends[name].append(imagined.frames([-1])[:, 0].cpu().numpy())
            if name == "imagined":
                numbers["imagined"].append(chunk_advantage(imagined.values, session.value).double().cpu().numpy())
                numbers["doubt"].append(imagined.uncertainty.double().cpu().numpy())
            model.close(imagined.session)
        seen = model.score_frames(torch.from_numpy(true).to(model.device), start.prompts).value
        numbers["true"].append(chunk_advantage(seen, session.value).double().cpu().numpy())
        model.close(session)
        ends["true"].append(true[:, -1])
        ends["last"].append(start.frames[:, -1].cpu().numpy())
        on_state(len(rows))
    pictures = {name: np.concatenate(parts) for name, parts in ends.items()}
    told = {name: np.concatenate(parts) for name, parts in numbers.items()}
    return Chunks(
        list(spec.cameras),
        batch.episode,
        "episodes",
        pictures["imagined"],
        pictures["true"],
        pictures["last"],
        psnr(pictures["other"], pictures["true"]),
        told["imagined"],
        told["true"],
        None,
        told["doubt"],
    )


def _others(count: int, rng: np.random.Generator) -> np.ndarray:
    """For every moment another one, int64 (count,)."""
    order = rng.permutation(count)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def _moved(actions: np.ndarray, there: np.ndarray, here: np.ndarray, spec: TaskSpec) -> np.ndarray:
    """Chunks (n, chunk, D) of other moments, begun here: a jump to joints (n, D) far away would be no action at all."""
    return np.clip(actions + (here - there)[:, None], spec.layout.low, spec.layout.high).astype(np.float32)


def _long(dataset: Dataset, spec: TaskSpec, episodes: np.ndarray, chunks: int) -> tuple[int, np.ndarray]:
    """How many chunks in a row fit into these episodes, at most `chunks`, and the moments from which they do."""
    for count in range(chunks, 0, -1):
        parts = [
            np.arange(start, start + length - count * spec.chunk)
            for start, length in zip(dataset.starts[episodes].tolist(), dataset.lengths[episodes].tolist(), strict=True)
        ]
        if len(found := np.concatenate(parts)):
            return count, found
    raise DatasetError(
        f"{dataset.name}: no chunk of {spec.chunk} fits into the {len(episodes)} episodes that were kept aside"
    )


def _actions(dataset: Dataset, index: np.ndarray, count: int, chunk: int) -> np.ndarray:
    steps = index[:, None] + np.arange(count * chunk)
    return np.ascontiguousarray(dataset.action[steps]).reshape(len(index), count, chunk, -1)


def _value(model: CompositionalWorldModel, dataset: Dataset, episodes: np.ndarray, found: Chunks) -> Heading:
    """Whether values rise as recorded tasks advance, and imagined ones agree with those of true pictures."""
    some = episodes[np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), _EPISODES)).round().astype(int))]
    within, owners, last, outcomes = [], [], [], []
    curves: dict[str, list[np.ndarray]] = {}
    names = {True: "successes", False: "failures", None: "outcome unknown"}
    for episode in some.tolist():
        start, length = int(dataset.starts[episode]), int(dataset.lengths[episode])
        local = np.unique(np.linspace(0, length - 1, min(length, _FRAMES)).round().astype(np.int64))
        frames = torch.from_numpy(dataset.frames(start + local))[None].to(model.device)
        value = model.score_frames(frames, dataset.prompts(start + local[:1])).value[0].float().cpu().numpy()
        outcome = dataset.episodes[episode].success
        if outcome is not False and (rho := spearman(value, local)) is not None:
            within.append(rho)
            owners.append(episode)
        if outcome is not None:
            last.append(float(value[-1]))
            outcomes.append(bool(outcome))
        grid = np.linspace(0, 1, 21)
        curves.setdefault(names[outcome], []).append(np.interp(grid, local / max(length - 1, 1), value))
    time = bounded(mean_over_groups(np.array(within), np.array(owners))) if within else None
    both = bool(outcomes) and any(outcomes) and not all(outcomes)
    apart = (
        bootstrap(
            lambda rows: auroc(np.array(last)[rows], np.array(outcomes)[rows]) or float("nan"), np.arange(len(last))
        )
        if both
        else None
    )
    agree = bootstrap(lambda rows: rank_correlation(found.advantage[rows], found.seen_advantage[rows]), found.group)
    bias = mean_over_groups(found.advantage - found.seen_advantage, found.group)
    figures = [
        Figure(
            "Value against time",
            time,
            "mean rank correlation within held-out episodes that did not fail; 1 is right, 0 chance, below "
            f"{LEAST_CORRELATION:+.2f} it is of no use",
            "",
            2,
            "episodes",
        ),
        Figure(
            "Successes above failures",
            apart,
            "pairs in which the success ends with the higher value; 0.5 is chance"
            if both
            else "no successes beside failures among these episodes: a value that calls everything success looks good",
            "",
            2,
            "episodes",
        ),
        Figure(
            "Advantages, imagined against true pictures",
            agree,
            "rank correlation over recorded chunks: what imagination loses of the value",
            "",
            2,
            "episodes",
        ),
        Figure(
            "Bias of imagined advantages",
            bias,
            "imagined less that of the true pictures; above 0 imagination flatters",
            "",
            3,
            "episodes",
        ),
    ]
    answer, good = graded(time, LEAST_CORRELATION, LEAST_CORRELATION)
    if good:
        answer, good = ("in part", None) if agree.low <= 0 else ("yes, for recorded chunks", True)
    verdict = (
        f"Within held-out episodes the value follows time with a rank correlation of {ranged(time)}. Imagined "
        "advantages order recorded "
        f"chunks as those of the true pictures do with {ranged(agree)}, and are {said(bias.mean, 3, True)} off on "
        "average."
    )
    grid = np.linspace(0, 1, 21).tolist()
    shown = chart(
        "Value over the course of held-out episodes",
        "part of the episode",
        "mean value",
        {name: list(zip(grid, np.mean(lines, axis=0).tolist(), strict=True)) for name, lines in curves.items()},
        "It should rise as the task advances, and lie lower in failures.",
    )
    note = (
        "Whether a better chunk is imagined to be better is not measured: of every moment one chunk was recorded. "
        "That needs a cell."
    )
    return Heading("reward_and_value_prediction", answer, good, verdict, figures, [shown], [note])


def _films(
    folder: Path,
    model: CompositionalWorldModel,
    dataset: Dataset,
    windows: Windows,
    index: np.ndarray,
    count: int,
    rng: np.random.Generator | None,
) -> list[Film]:
    """Films of moments spread over all of them: with the recorded actions, and with `rng` another moment's below."""
    spec = model.spec
    places = np.unique(np.linspace(0, len(index) - 1, min(len(index), _FILMED)).round().astype(int))
    chosen = index[places]
    history, actions = (
        _History(dataset, windows, chosen, model.device)(range(len(chosen))),
        _actions(dataset, chosen, count, spec.chunk),
    )
    seeds = chosen.tolist()
    shown = {"recorded actions": all_frames(model, history, actions, seeds)}
    if rng is not None and len(chosen) > 1:
        present = windows.at(chosen).states[:, -1]
        other = _moved(np.roll(actions[:, 0], 1, axis=0), np.roll(present, 1, axis=0), present, spec)
        shown["another moment's motion"] = all_frames(model, history, other[:, None], seeds)
    future = chosen[:, None] + spec.stride * np.arange(1, count * spec.frames_per_chunk + 1)
    films, fps = [], max(1, round(spec.fps / spec.stride))
    for number, moment in enumerate(chosen.tolist()):
        true = dataset.frames(future[number])
        clips = [
            imagined_film(true, frames[number], name, values[number].tolist())
            for name, (frames, values) in shown.items()
        ]
        episode = int(dataset.episode_of(chosen[number : number + 1])[0])
        path = write_video(folder / f"recorded-{count}-{moment}.mp4", np.concatenate(clips), fps)
        what = (
            "first with the recorded actions, then with another moment's motion"
            if len(shown) > 1
            else f"{count} chunks, one upon the other"
        )
        films.append(
            Film(
                f"Held-out episode {episode}, from frame {moment - int(dataset.starts[episode])}: {what}",
                path,
                "Above what the cameras saw, below what was imagined; the bar is the imagined value. With the wrong "
                "actions it should go somewhere else."
                if len(shown) > 1
                else "Above what the cameras saw, below what was imagined from imagined pictures.",
            )
        )
    return films
