"""How good a value model is on episodes it has not seen: rank correlation, separation of outcomes, honest doubts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rise_env.metrics.agreement import area_under_roc, ranks
from rise_env.value.labels import FrameDataset, Labels
from rise_env.value.model import ValueModel

__all__ = [
    "LEAST_CORRELATION", "LEAST_SEPARATION", "Ranking", "auroc", "chunk_advantages", "chunk_means", "evaluate_value",
    "pearson", "ranking_of", "ranking_problem", "read_values", "spearman",
]  # fmt: skip

#: Below these a value model is no better than chance, or hardly: mean rank correlation of value and time within an
#: episode, and probability that a success ends with a higher value than a failure.
LEAST_CORRELATION, LEAST_SEPARATION = 0.2, 0.6
#: Successes and failures from which their separation is no matter of luck.
_LEAST_OUTCOMES = 3


class Ranking(NamedTuple):
    """In which order a value model puts the frames of recorded episodes.

    Attributes:
        correlation: Mean rank correlation of value and time within an episode, of successes where outcomes are known;
            None where no value varies.
        separation: Probability that a success ends with a higher value than a failure; None without both kinds.
        successes: Episodes that are known to have succeeded.
        failures: Episodes that are known to have failed.
    """

    correlation: float | None
    separation: float | None
    successes: int
    failures: int

    @property
    def problem(self) -> str | None:
        """What is wrong with it, in words with numbers, bounds and what helps; None if nothing is."""
        problems = []
        if self.correlation is None or self.correlation < LEAST_CORRELATION:
            found = "undefined: it does not vary" if self.correlation is None else f"{self.correlation:+.2f}"
            which = "successful " * (self.successes > 0)
            problems.append(
                f"within {which}episodes its rank correlation with time is {found} (at least {LEAST_CORRELATION:+.2f} "
                "is needed; 1 is right, 0 chance)"
            )
        few = min(self.successes, self.failures) < _LEAST_OUTCOMES
        if self.separation is not None and not few and self.separation < LEAST_SEPARATION:
            problems.append(
                f"a success ends with a higher value than a failure in {self.separation:.0%} of the pairs (at least "
                f"{LEAST_SEPARATION:.0%} are needed; 100 % is right, 50 % chance)"
            )
        if not problems:
            return None
        return (
            f"the value model does not rank these episodes: {'; '.join(problems)}. Advantages made of it teach "
            "nothing, or the wrong thing. What helps: more episodes, successes and failures; longer training of the "
            "value (value.training.progress_steps); recorded progress in place of time; cameras that see what decides "
            "success"
        )


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation of two arrays (n,); None where one of them does not vary."""
    return pearson(ranks(np.asarray(a)), ranks(np.asarray(b)))


def pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    """Correlation of two arrays (n,); None where one of them does not vary."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    deviation_a, deviation_b = a - a.mean(), b - b.mean()
    norm = np.sqrt((deviation_a**2).sum() * (deviation_b**2).sum())
    return float((deviation_a * deviation_b).sum() / norm) if norm > 0 else None


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive scores higher than a negative; None where one kind is missing."""
    area = area_under_roc(score, positive)
    return None if np.isnan(area) else area


def read_values(
    model: ValueModel, dataset: FrameDataset, index: np.ndarray, prompts: list[str], batch: int = 128
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Value and spread, float32 (n,), of the frames `index` (n,), `batch` at once, by head and for the "output"."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for start in range(0, len(index), batch):
        section = slice(start, start + batch)
        frames = torch.from_numpy(np.ascontiguousarray(dataset.frames(index[section]))).unsqueeze(1)
        estimates = model.estimate_heads(frames.float() if model.reads_latents else frames, prompts[section])
        for name, estimate in estimates.items():
            pair = (estimate.value[:, 0].float().cpu().numpy(), estimate.spread[:, 0].float().cpu().numpy())
            parts.setdefault(name, []).append(pair)
    return {
        name: (np.concatenate([value for value, _ in pairs]), np.concatenate([spread for _, spread in pairs]))
        for name, pairs in parts.items()
    }


def chunk_advantages(values: np.ndarray, lengths: np.ndarray, chunk: int) -> np.ndarray:
    """Advantage of the recorded chunk at every frame, float32 (N,): `chunk_means` minus V(t)."""
    return (chunk_means(values, lengths, chunk) - values).astype(np.float32)


def chunk_means(values: np.ndarray, lengths: np.ndarray, chunk: int) -> np.ndarray:
    """Mean of V(t + k) over k = 1 .. min(chunk, rest), float64 (N,); V(t) itself at the last frame of an episode.

    Values (N,) are those of all frames, episode after episode; `lengths` the frames of each.
    """
    values, lengths = np.asarray(values, np.float64), np.asarray(lengths, np.int64)
    if lengths.sum() != len(values):
        raise ValueError(f"{len(values)} values for episodes of {int(lengths.sum())} frames in all")
    ends = np.repeat(np.cumsum(lengths), lengths)
    here = np.arange(len(values))
    rest = np.minimum(chunk, ends - 1 - here)
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean = (total[here + 1 + rest] - total[here + 1]) / np.maximum(rest, 1)
    return np.where(rest > 0, mean, values)


def ranking_of(values: np.ndarray, lengths: np.ndarray, success: Sequence[bool | None]) -> Ranking:
    """In which order a value model puts the frames of recorded episodes.

    Args:
        values: Of all frames, episode after episode, (N,).
        lengths: Frames of each episode.
        success: Outcome of each episode, None where it is unknown.
    """
    episodes = np.split(np.asarray(values), np.cumsum(lengths)[:-1])
    known = [one for one, won in zip(episodes, success, strict=True) if won] or episodes
    within = [rho for one in known if (rho := spearman(one, np.arange(len(one)))) is not None]
    ends = [(one[-1], won) for one, won in zip(episodes, success, strict=True) if won is not None and len(one)]
    apart = auroc(np.array([end for end, _ in ends]), np.array([won for _, won in ends], bool)) if ends else None
    won = sum(bool(outcome) for outcome in success)
    return Ranking(
        float(np.mean(within)) if within else None, apart, won, sum(one is not None for one in success) - won
    )


def ranking_problem(values: np.ndarray, lengths: np.ndarray, success: Sequence[bool | None]) -> str | None:
    """`Ranking.problem` of values, as a sentence; the arguments are those of `ranking_of`.

    Whoever trains on advantages of values that fall while a task is done learns to undo it.
    """
    return ranking_of(values, lengths, success).problem


def evaluate_value(
    model: ValueModel, dataset: FrameDataset, labels: Labels, episodes: np.ndarray, chunk: int, max_frames: int
) -> dict[str, Any]:
    """Measure a value model on held-out episodes: whole ones, until there are `max_frames`.

    Returns:
        JSON-ready mapping. Per head and for the "output", over the frames up to the outcome: `progress_spearman`,
        `progress_pearson` and `progress_spearman_episode` (mean over episodes) against the progress label,
        `time_spearman` against t / T on successes, and `advantage_spearman`, chunk advantage against that of the label.
        `success_auc_outcome` and `success_auc_middle`: success against failure at the outcome frame and half-way to it.
        For the progress head `mae`, `bias` and `spread_auroc`, how well the ensemble's spread tells errors above the
        median from the others. What cannot be measured is null. `ranking_problem`: see there.
    """
    kept = int(np.searchsorted(np.cumsum(labels.lengths[episodes]), max_frames)) + 1
    episodes = np.sort(np.asarray(episodes)[:kept])
    index = labels.frames_of(episodes)
    owner = labels.episode[index]
    readings = read_values(model, dataset, index, [labels.tasks[i] for i in owner])
    local = index - labels.starts[owner]
    known, truth = labels.progress_known[index], labels.progress[index]
    early = local <= labels.outcome[owner]
    before, won = known & early, labels.success[owner] & early
    time = local / np.maximum(labels.outcome[owner], 1)
    heads: dict[str, dict[str, float | None]] = {}
    for name, (value, spread) in readings.items():
        per_episode = [spearman(value[rows], truth[rows]) for i in episodes if (rows := before & (owner == i)).any()]
        defined = [rho for rho in per_episode if rho is not None]
        lengths = labels.lengths[episodes]
        moves = chunk_advantages(value, lengths, chunk), chunk_advantages(truth, lengths, chunk)
        heads[name] = {
            "progress_spearman": spearman(value[before], truth[before]) if before.any() else None,
            "progress_spearman_episode": float(np.mean(defined)) if defined else None,
            "advantage_spearman": spearman(moves[0][before], moves[1][before]) if before.any() else None,
            "progress_pearson": pearson(value[before], truth[before]) if before.any() else None,
            "time_spearman": spearman(value[won], time[won]) if won.any() else None,
            "success_auc_outcome": _outcome_auc(value, index, labels, episodes, 1.0),
            "success_auc_middle": _outcome_auc(value, index, labels, episodes, 0.5),
        }
        if name == "progress" and known.any():
            error = value[known] - truth[known]
            wrong = np.abs(error) > np.median(np.abs(error))
            mae, bias = float(np.abs(error).mean()), float(error.mean())
            heads[name] |= {"mae": mae, "bias": bias, "spread_auroc": auroc(spread[known], wrong)}
    outcomes = [bool(labels.success[i]) if labels.ended[i] else None for i in episodes]
    return {
        "ranking_problem": ranking_problem(readings["output"][0], labels.lengths[episodes], outcomes),
        "episodes": len(episodes),
        "successes": int(labels.success[episodes].sum()),
        "frames": len(index),
        "progress_labels": "dense" if labels.dense else "time",
        "output": model.config.output,
        "heads": heads,
    }


def _outcome_auc(value: np.ndarray, index: np.ndarray, labels: Labels, episodes: np.ndarray, at: float) -> float | None:
    ended = episodes[labels.ended[episodes]]
    frames = labels.starts[ended] + np.round(labels.outcome[ended] * at).astype(np.int64)
    return auroc(value[np.searchsorted(index, frames)], labels.success[ended])
