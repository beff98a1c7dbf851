"""How far a world model can be believed: what it makes of recorded episodes that nothing was trained on.

Dynamics are compared with copying the last picture and with themselves under another moment's actions; the value with
time, outcomes and recorded progress. Its cost is bounded by numbers of windows and frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from rise_env.data import Dataset, Windows
from rise_env.envs.advantage import chunk_advantage
from rise_env.envs.starts import StartStates
from rise_env.errors import DatasetError
from rise_env.metrics import endpoint_error, foreground_mask, psnr, rank_correlation, ssim
from rise_env.metrics.agreement import mean_over_groups
from rise_env.protocols import History, Value
from rise_env.value.evaluation import LEAST_CORRELATION, LEAST_SEPARATION, Ranking, ranking_of, spearman
from rise_env.value.labels import optional_column
from rise_env.value.model import ValueModel
from rise_env.world_model import CompositionalWorldModel

__all__ = ["HeldOut", "Sample", "evaluate_on_starts", "evaluate_world_model", "rank_episodes"]

#: Windows imagined, and at once; episodes whose value is read, frames of each, and bins of the calibration.
_WINDOWS, _TOGETHER, _EPISODES, _FRAMES, _BINS = 64, 16, 24, 48, 10
_SAMPLES = 3
#: Gain of the right actions over others, dB, below which imagination hardly reacts to them.
_LEAST_REACTION = 0.25
_SSIM_PIXELS = 11
#: Outputs of a value model that are no progress from 0 to 1.
_NO_PROGRESS = ("td", "distributional")


@dataclass(frozen=True)
class Sample:
    """A chunk to look at; frames are uint8 (K, V, H, W, 3).

    Attributes:
        episode: Its episode.
        frame: Where in the episode it starts.
        real: What the cameras saw.
        imagined: What was imagined for the recorded actions.
        other: What was imagined for another moment's actions.
        values: Of the imagined frames, (K,).
    """

    episode: int
    frame: int
    real: np.ndarray
    imagined: np.ndarray
    other: np.ndarray
    values: list[float]


@dataclass(frozen=True)
class HeldOut:
    """What was measured.

    Attributes:
        figures: JSON-ready: `episodes` (their numbers), `successes`, `failures`, `dynamics`, `value`, and
            `not_measured`, which says why where something is missing.
        samples: Some chunks.
    """

    figures: dict[str, Any]
    samples: list[Sample]


class _Read(NamedTuple):
    """Values of some frames of an episode, with their places in it from 0 to 1 and recorded progress, if there is."""

    place: np.ndarray
    value: np.ndarray
    progress: np.ndarray | None
    success: bool | None


@torch.no_grad()
def evaluate_world_model(
    model: CompositionalWorldModel,
    dataset: Dataset,
    episodes: Sequence[int] | np.ndarray,
    *,
    windows: int = _WINDOWS,
    seed: int = 0,
    on_window: Callable[[int], object] = lambda count: None,
) -> HeldOut:
    """Measure a world model on some episodes of a dataset.

    Args:
        model: World model, of any registered kind.
        dataset: Recordings, opened for its task.
        episodes: Those to measure on.
        windows: Chunks to imagine, at most; twice, once with another's actions.
        seed: Seed of the noise of imagination.
        on_window: Called with the number of chunks that were imagined since the last call.
    """
    chosen = np.unique(np.asarray(episodes, np.int64))
    outcomes = [dataset.episodes[i].success for i in chosen.tolist()]
    figures: dict[str, Any] = {
        "episodes": chosen.tolist(),
        "successes": sum(bool(one) for one in outcomes),
        "failures": sum(one is not None and not one for one in outcomes),
        "dynamics": None,
    }
    missing: dict[str, str] = {}
    read = list(_read(model, dataset, chosen))
    figures["value"] = _value(model.value, read, missing)
    samples: list[Sample] = []
    try:
        found = Windows(dataset, model.spec, episodes=chosen)
    except DatasetError as error:
        missing["dynamics"] = f"no chunk fits into these episodes: {error}"
    else:
        figures["dynamics"], figures["value"]["imagined"], samples = _dynamics(
            model, found, windows, seed, missing, on_window
        )
    return HeldOut({**figures, "not_measured": missing}, samples)


@torch.no_grad()
def rank_episodes(model: CompositionalWorldModel, dataset: Dataset, episodes: Sequence[int] | np.ndarray) -> Ranking:
    """In which order the value of a world model puts frames of some episodes: at most 24, 48 frames each."""
    return _ranking(list(_read(model, dataset, np.unique(np.asarray(episodes, np.int64)))))


@torch.no_grad()
def evaluate_on_starts(
    model: CompositionalWorldModel, starts: StartStates, rows: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """What start states tell without what followed them, JSON-ready.

    Args:
        model: World model.
        starts: Start states.
        rows: Some of them, int (n,).
        seed: Seed of noise and pairs.

    Returns:
        `states`; `correlation`, rank correlation over all states of value and time since the start of the episode, of
        successes where outcomes are known. `reaction`, where chunks were recorded: root mean square difference of the
        imagined ends under the recorded actions and under another state's, and under other noise, in grey levels from 0
        to 255.
    """
    batch = starts.batch(rows)
    won = starts.success[rows] == 1
    used = won if won.any() else np.ones(len(rows), bool)
    values: list[np.ndarray] = []
    ends: dict[str, list[np.ndarray]] = {"recorded": [], "other_actions": [], "other_noise": []}
    order = np.random.default_rng(seed).permutation(len(rows))
    others = np.empty_like(rows)
    others[order] = rows[np.roll(order, 1)]
    for start in range(0, len(rows), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        frames, states = (torch.from_numpy(one[part]).to(model.device) for one in (batch.frames, batch.states))
        session = model.open(History(frames, states, list(batch.prompts[part])))
        values.append(session.value.cpu().numpy())
        for name, chunks, noise in (("recorded", rows, 0), ("other_actions", others, 0), ("other_noise", rows, 1)):
            if starts.actions is None:
                break
            generators = [torch.Generator().manual_seed(2 * (seed + int(row)) + noise) for row in rows[part]]
            actions = torch.from_numpy(np.ascontiguousarray(starts.actions[chunks[part]])).to(model.device)
            imagined = model.imagine(session, actions, generators)
            ends[name].append(imagined.frames([-1])[:, 0].float().cpu().numpy())
            model.close(imagined.session)
        model.close(session)
    reaction = None
    if starts.actions is not None:
        pictures = {name: np.concatenate(parts) for name, parts in ends.items()}
        reaction = {name: float(np.sqrt(((pictures[name] - pictures["recorded"]) ** 2).mean()))
                    for name in ("other_actions", "other_noise")}  # fmt: skip
    return {
        "states": len(rows),
        "successes": int(won.sum()),
        "correlation": spearman(np.concatenate(values)[used], batch.frame_index[used]),
        "reaction": reaction,
    }


def _read(model: CompositionalWorldModel, dataset: Dataset, episodes: np.ndarray) -> Iterator[_Read]:
    """Episodes evenly spread among the given ones, failures and successes alike."""
    some = episodes[np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), _EPISODES)).round().astype(int))]
    progress = optional_column(dataset, "progress")
    for episode in some.tolist():
        start, length = int(dataset.starts[episode]), int(dataset.lengths[episode])
        local = np.unique(np.linspace(0, length - 1, min(length, _FRAMES)).round().astype(np.int64))
        index = start + local
        frames = torch.from_numpy(dataset.frames(index))[None].to(model.device)
        value = model.score_frames(frames, dataset.prompts(index[:1])).value[0].float().cpu().numpy()
        yield _Read(
            local / max(length - 1, 1), value, None if progress is None else progress[index],
            dataset.episodes[episode].success,
        )  # fmt: skip


def _ranking(read: Sequence[_Read]) -> Ranking:
    values = np.concatenate([one.value for one in read])
    return ranking_of(values, np.array([len(one.value) for one in read]), [one.success for one in read])


def _value(model: Value, read: Sequence[_Read], missing: dict[str, str]) -> dict[str, Any]:
    found = _ranking(read)
    if found.separation is None:
        which = "no failures" if found.successes else "no successes" if found.failures else "no outcomes"
        missing["value.separation"] = f"{which} among these episodes: a value that calls everything success looks good"
    return {
        "episodes": len(read),
        "frames": sum(len(one.value) for one in read),
        "correlation": found.correlation,
        "least_correlation": LEAST_CORRELATION,
        "separation": found.separation,
        "least_separation": LEAST_SEPARATION,
        "problem": found.problem,
        "calibration": _calibration(model, read, missing),
        "curves": _curves(read),
        "imagined": None,
    }


def _calibration(model: Value, read: Sequence[_Read], missing: dict[str, str]) -> dict[str, Any] | None:
    """Mean truth by value: recorded progress where there is, else time within episodes that did not fail."""
    if isinstance(model, ValueModel) and model.config.output in _NO_PROGRESS:
        missing["value.calibration"] = f"values are those of the head {model.config.output!r}, which is no progress"
        return None
    dense = all(one.progress is not None for one in read)
    used = [one for one in read if dense or one.success is not False]
    if not used:
        missing["value.calibration"] = "failures without recorded progress: nobody knows what their value should be"
        return None
    value = np.concatenate([one.value for one in used])
    truth = np.concatenate([one.place if one.progress is None else one.progress for one in used])
    place = np.clip((value * _BINS).astype(int), 0, _BINS - 1)
    bins = [
        {"value": float(value[rows].mean()), "truth": float(truth[rows].mean()), "frames": int(rows.sum())}
        for one in range(_BINS)
        if (rows := place == one).any()
    ]
    # Frame by frame: the means of bins would be right for a value that never moves.
    error = float(np.abs(value - truth).mean())
    against = "recorded progress" if dense else "time since the start, as a part of the episode"
    return {"against": against, "error": error, "bins": bins}


def _curves(read: Sequence[_Read]) -> dict[str, list[tuple[float, float]]]:
    """Mean value over the course of an episode, by outcome."""
    grid, names = np.linspace(0, 1, 21), {True: "successes", False: "failures", None: "outcome unknown"}
    curves = {}
    for outcome, name in names.items():
        if some := [np.interp(grid, one.place, one.value) for one in read if one.success is outcome]:
            curves[name] = list(zip(grid.tolist(), np.mean(some, axis=0).tolist(), strict=True))
    return curves


def _dynamics(
    model: CompositionalWorldModel,
    windows: Windows,
    count: int,
    seed: int,
    missing: dict[str, str],
    on_window: Callable[[int], object],
) -> tuple[dict[str, Any], dict[str, Any], list[Sample]]:
    """Chunks imagined with the recorded actions and with another window's, which is drawn at random."""
    dataset, spec = windows.dataset, windows.spec
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), count)).round().astype(np.int64))
    batch = windows.batch(chosen)
    order = np.random.default_rng(seed).permutation(len(batch))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    shown = set(np.linspace(0, len(batch) - 1, min(len(batch), _SAMPLES)).round().astype(int).tolist())
    ends: dict[str, list[np.ndarray]] = {name: [] for name in ("true", "last", "imagined", "other")}
    advantages: dict[str, list[np.ndarray]] = {"imagined": [], "true": []}
    samples = []
    for start in range(0, len(batch), _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        history = torch.from_numpy(dataset.frames(batch.history_index[rows])).to(model.device)
        states = torch.from_numpy(np.ascontiguousarray(batch.states[rows])).to(model.device)
        prompts = batch.prompts[rows]
        true = dataset.frames(batch.future_index[rows])
        session = model.open(History(history, states, prompts))
        films: list[np.ndarray] = []
        for actions in (batch.actions[rows], batch.actions[others[rows]]):
            generators = [torch.Generator().manual_seed(seed + int(index)) for index in batch.index[rows]]
            imagined = model.imagine(session, torch.from_numpy(actions).to(model.device), generators)
            if not films:
                values = imagined.values.cpu()
            films.append(imagined.frames(range(spec.frames_per_chunk)).cpu().numpy())
            model.close(imagined.session)
        seen = model.score_frames(torch.from_numpy(true).to(model.device), prompts).value.cpu()
        for name, scored in (("imagined", values), ("true", seen)):
            advantages[name].append(chunk_advantage(scored, session.value.cpu(), "mean").float().numpy())
        model.close(session)
        present = history[:, -1].cpu().numpy()
        for name, pictures in zip(ends, (true[:, -1], present, films[0][:, -1], films[1][:, -1]), strict=True):
            ends[name].append(pictures)
        samples += [
            Sample(
                int(batch.episode[start + i]), int(batch.frame[start + i]), true[i], films[0][i], films[1][i],
                values[i].tolist(),
            )
            for i in range(len(true))
            if start + i in shown
        ]  # fmt: skip
        on_window(len(true))
    figures = _figures({name: np.concatenate(parts) for name, parts in ends.items()}, batch.episode, missing)
    guess, truth = (np.concatenate(advantages[name]) for name in ("imagined", "true"))
    agreement = {
        "advantage_correlation": rank_correlation(guess, truth),
        "advantage_bias": float((guess - truth).mean()),
    }
    if len(batch) < 2:
        missing["dynamics.other_actions"] = "a single window: there are no other actions to compare with"
    cameras = list(spec.cameras)
    figures["psnr"]["by_camera"] = dict(zip(cameras, figures["psnr"].pop("views"), strict=True))
    return {"windows": len(batch), **figures}, agreement, samples


def _figures(ends: dict[str, np.ndarray], episode: np.ndarray, missing: dict[str, str]) -> dict[str, Any]:
    """Pictures at the end of the chunk against the true ones, uint8 (n, V, H, W, 3) by kind."""
    true, last = ends["true"], ends["last"]
    guesses = {"imagined": ends["imagined"], "copy": last, "other_actions": ends["other"]}
    quality = {name: psnr(guess, true) for name, guess in guesses.items()}  # (n, V)
    mask = foreground_mask(true, last)
    moved = {name: psnr(guess, true, mask) for name, guess in guesses.items()}
    means = {name: values.mean(axis=1) for name, values in quality.items()}
    reaction = mean_over_groups(means["imagined"] - means["other_actions"], episode)
    gain = mean_over_groups(means["imagined"] - means["copy"], episode)
    figures: dict[str, Any] = {
        "psnr": {**{name: float(one.mean()) for name, one in means.items()},
                 "gain": gain._asdict(), "views": quality["imagined"].mean(axis=0).tolist()},
        "psnr_moved": {name: _mean(one) for name, one in moved.items()},
        "ssim": None,
        "flow_error": {},
        "reaction": {**reaction._asdict(), "ignored": reaction.mean < _LEAST_REACTION},
    }  # fmt: skip
    if not mask.any():
        missing["dynamics.psnr_moved"] = missing["dynamics.flow_error"] = "nothing moved in these windows"
    if min(true.shape[-3:-1]) < _SSIM_PIXELS:
        missing["dynamics.ssim"] = f"pictures of {true.shape[-3]} x {true.shape[-2]} pixels are too small for it"
    else:
        figures["ssim"] = {name: float(ssim(guess, true).mean()) for name, guess in guesses.items()}
    flat = {name: pictures.reshape(-1, *pictures.shape[-3:]) for name, pictures in guesses.items()}
    first, last_flat = true.reshape(-1, *true.shape[-3:]), flat["copy"]
    figures["flow_error"] = {name: _mean(endpoint_error(guess, first, last_flat)) for name, guess in flat.items()}
    return figures


def _mean(values: np.ndarray) -> float | None:
    """Mean of what is not NaN; None if nothing is."""
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else None
