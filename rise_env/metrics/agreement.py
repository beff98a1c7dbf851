"""Agreement of numbers: rank correlations, areas under curves, recognition of outcomes, intervals of means."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = [
    "Mean", "area_under_roc", "bootstrap", "kendall", "mean_over_groups", "outcome_recognition", "rank_correlation",
    "ranks", "within_group_correlation",
]  # fmt: skip

#: Draws of a bootstrap: enough for the first two digits of a 95 % interval.
_DRAWS = 400

#: Student's t of 95 % intervals for 1 to 10 degrees of freedom; above, its expansion in 1 / degrees.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Mean(NamedTuple):
    """A mean with its 95 % interval.

    Attributes:
        mean: The mean.
        low: Lower limit; minus infinity where a single group says nothing of the spread.
        high: Upper limit; infinity there.
        groups: Independent groups that it is of.
    """

    mean: float
    low: float
    high: float
    groups: int

    @property
    def direction(self) -> int:
        """1 where the interval is above zero, -1 where it is below, 0 where it holds zero."""
        return (self.low > 0) - (self.high < 0)


def mean_over_groups(values: np.ndarray, group: np.ndarray) -> Mean:
    """Mean of values that are alike within a group, such as windows of one episode; only groups are independent.

    The standard error is that of sums over groups, the interval Student's with one degree of freedom less than groups.

    Args:
        values: float (N,).
        group: (N,) group of every value.
    """
    values = np.asarray(values, np.float64)
    names, place = np.unique(group, return_inverse=True)
    count, mean = len(names), float(values.mean())
    if count < 2:
        return Mean(mean, float("-inf"), float("inf"), count)
    sums = np.bincount(place, values - mean)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum())) / len(values)
    degrees = count - 1
    t = _T[degrees - 1] if degrees <= len(_T) else 1.959964 + 2.3722 / degrees + 2.8225 / degrees**2
    return Mean(mean, mean - t * error, mean + t * error, count)


def bootstrap(
    statistic: Callable[[np.ndarray], float], group: np.ndarray, *, seed: int = 0, draws: int = _DRAWS
) -> Mean:
    """A statistic that is no mean, with the 95 % percentile interval of a bootstrap over whole groups.

    Args:
        statistic: Of some rows, int64 (n,), which may repeat; NaN where these say nothing.
        group: (N,) group of every row; groups are drawn with all that is in them.
        seed: Seed of the draws.
        draws: Number of draws.

    Returns:
        The statistic of all rows. Its limits are infinite with fewer than two groups, or where draws say nothing.
    """
    names, place = np.unique(group, return_inverse=True)
    members = [np.flatnonzero(place == i) for i in range(len(names))]
    value, unknown = statistic(np.arange(len(place))), (float("-inf"), float("inf"))
    if len(names) < 2:
        return Mean(value, *unknown, len(names))
    rng = np.random.default_rng(seed)
    found = np.array([
        statistic(np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))]))
        for _ in range(draws)
    ])  # fmt: skip
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [0.025, 0.975]).tolist() if len(found) > draws / 2 else unknown
    return Mean(value, low, high, len(names))


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's rank correlation tau-b; NaN with fewer than two pairs or without any variation.

    Args:
        first: float (N,).
        second: float (N,).

    Example:
        >>> round(kendall(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3])), 3)
        0.667
    """
    signs = [np.sign(np.subtract.outer(one, one)).ravel() for one in (np.asarray(first), np.asarray(second))]
    norm = float(np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum()))
    return float((signs[0] * signs[1]).sum() / norm) if norm > 0 else float("nan")


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; NaN with fewer than two pairs or without any variation.

    Args:
        first: float (N,).
        second: float (N,).
    """
    first, second = np.asarray(first, float).ravel(), np.asarray(second, float).ravel()
    if first.shape != second.shape:
        raise ValueError(f"got {first.size} and {second.size} values to correlate")
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def within_group_correlation(
    first: np.ndarray, second: np.ndarray, group: np.ndarray, least_spread: float = 0.0
) -> tuple[float, int]:
    """Mean over groups of Spearman's rank correlation inside each group.

    With a group per start state this is what policy improvement depends on: whether imagination ranks the chunks of
    *one* state as the truth does. Groups in which `second` (the truth) varies by no more than `least_spread` have no
    order to recover and are left out.

    Args:
        first: float (N,), e.g. imagined advantages.
        second: float (N,), e.g. true advantages.
        group: (N,) group of every pair.
        least_spread: Least difference between the largest and the smallest truth of a group.

    Returns:
        The mean (NaN without any group) and the number of groups that count.
    """
    found = []
    for name in np.unique(group):
        chosen = group == name
        if np.ptp(second[chosen]) > least_spread:
            value = rank_correlation(first[chosen], second[chosen])
            # No variation in what was imagined although the truth varies: no agreement, not a group to skip.
            found.append(0.0 if np.isnan(value) else value)
    return (float(np.mean(found)) if found else float("nan")), len(found)


def area_under_roc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: chance that a positive outranks a negative; ties count half, NaN without both kinds.

    Args:
        score: float (N,).
        positive: bool (N,).
    """
    positive = np.asarray(positive, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    sum_of_ranks = ranks(np.asarray(score, float))[positive].sum()
    return float((sum_of_ranks - count * (count + 1) / 2) / (count * others))


def outcome_recognition(imagined: np.ndarray, true: np.ndarray, start: np.ndarray, threshold: int = 24) -> float:
    """Action sensitivity: how often an imagined outcome is nearest to the true outcome of its own chunk.

    Only pixels that some chunk of the state changed count, so that a still background cannot help.

    Args:
        imagined: uint8 (S, C, ..., H, W, 3): outcomes of C chunks from each of S states.
        true: uint8 of the same shape.
        start: uint8 (S, ..., H, W, 3): the frame each state's chunks start from.
        threshold: Least change of a colour channel that counts.

    Returns:
        Share in [0, 1]; chance is 1 / C.
    """
    hits = 0
    states, chunks = true.shape[:2]
    for guess, truth, first in zip(imagined, true, start, strict=True):
        spread = truth.max(0).astype(np.int16) - truth.min(0) > threshold
        moved = (np.abs(truth.astype(np.int16) - first[None]) > threshold).any(0)
        mask = (spread | moved).any(-1, keepdims=True)
        a = (guess * mask).reshape(chunks, -1).astype(np.float32)
        b = (truth * mask).reshape(chunks, -1).astype(np.float32)
        distance = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
        hits += int((distance.argmin(1) == np.arange(chunks)).sum())
    return hits / (states * chunks)
