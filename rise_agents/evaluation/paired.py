"""Two policies on the same episodes: what changed, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rise_agents.evaluation.results import EvaluationResult, wilson_interval
from rise_env.errors import ConfigError

__all__ = ["Gain", "PairedChange", "mean_gain", "paired_change", "success_gain"]


@dataclass(frozen=True)
class PairedChange:
    """Change of the success rate between two evaluations on the same seeds.

    Attributes:
        episodes: Number of pairs.
        gain: Improved minus base, percentage points.
        interval: 95 % interval of the gain, percentage points.
        gained: Episodes that only the improved policy solved.
        lost: Episodes that only the base solved.
        both: Episodes that both solved.
        neither: Episodes that neither solved.
        p_value: Exact two-sided McNemar test of "as many are lost as gained".
    """

    episodes: int
    gain: float
    interval: tuple[float, float]
    gained: int
    lost: int
    both: int
    neither: int
    p_value: float

    @property
    def direction(self) -> int:
        """1 for better, -1 for worse, 0 where the interval holds zero: the two cannot be told apart."""
        return (self.interval[0] > 0) - (self.interval[1] < 0)


def paired_change(base: EvaluationResult, improved: EvaluationResult) -> PairedChange:
    """Compare two evaluations on the same seeds, in any order, episode by episode.

    The same seed is the same episode, so luck with the episodes falls out of the difference. The interval is method 10
    of Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data"
    (Statistics in Medicine 17, 1998, 2635-2650): Wilson intervals of both rates, joined under their correlation. It is
    also good for small numbers and for rates of 0 and 1, where a bootstrap has nothing to draw from.

    Raises:
        ConfigError: If the seeds are not the same, or there are none.
    """
    before, after = _outcomes(base, "base"), _outcomes(improved, "improved")
    if before.keys() != after.keys():
        raise ConfigError(
            f"paired_change wants the same seeds in both evaluations: {len(before.keys() - after.keys())} are only in "
            f"the base's {len(before)}, {len(after.keys() - before.keys())} only in the improved one's {len(after)}. "
            "Evaluate both with the same --seed and --episodes."
        )
    both = sum(before[seed] and after[seed] for seed in before)
    gained, lost = sum(after.values()) - both, sum(before.values()) - both
    neither = len(before) - both - gained - lost
    low, high = _newcombe(both, gained, lost, neither)
    gain, p_value = 100 * (gained - lost) / len(before), _mcnemar(gained, lost)
    return PairedChange(len(before), gain, (100 * low, 100 * high), gained, lost, both, neither, p_value)


class Gain(NamedTuple):
    """A mean paired difference with its 95 % interval.

    Attributes:
        mean: The difference.
        low: Lower limit.
        high: Upper limit.
    """

    mean: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """1 for better, -1 for worse, 0 where the interval holds zero."""
        return (self.low > 0) - (self.high < 0)


def success_gain(base: EvaluationResult, improved: Sequence[EvaluationResult]) -> Gain:
    """Change of the success rate in percentage points, of one or several training seeds on the episodes of the base.

    Of one: Newcombe's interval, as in `paired_change`. Of several: that of the episodes' mean gains over the seeds;
    what other training seeds would add is not in it.

    Raises:
        ConfigError: If the seeds of the episodes are not the same, or there are none.
    """
    changes = [paired_change(base, one) for one in improved]
    if len(changes) == 1:
        return Gain(changes[0].gain, *changes[0].interval)
    before = _outcomes(base, "base")
    after = [_outcomes(one, "improved") for one in improved]
    return mean_gain([before[seed] for seed in before], [[one[seed] for seed in before] for one in after], 100.0)


def mean_gain(base: Any, improved: Any, scale: float = 1.0) -> Gain:
    """Mean difference to the base, pair by pair, and its normal 95 % interval.

    Args:
        base: Of every pair, (n,).
        improved: Of every training seed and pair, (s, n); seeds are averaged first.
        scale: What to multiply by.
    """
    gains = scale * (np.asarray(improved, np.float64).mean(axis=0) - np.asarray(base, np.float64))
    mean = float(gains.mean())
    half = 1.959964 * float(gains.std(ddof=1)) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return Gain(mean, mean - half, mean + half)


def _outcomes(result: EvaluationResult, name: str) -> dict[int, bool]:
    outcomes = {episode.seed: bool(episode.success) for episode in result.details}
    if not outcomes:
        raise ConfigError(f"the {name} evaluation has no episodes in `details`: nothing to pair")
    if len(outcomes) != len(result.details):
        raise ConfigError(f"the {name} evaluation has {len(result.details)} episodes but {len(outcomes)} seeds")
    return outcomes


def _newcombe(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / all."""
    count = both + gained + lost + neither
    after, before = both + gained, both + lost
    rate_after, rate_before = after / count, before / count
    low_after, high_after = wilson_interval(after, count)
    low_before, high_before = wilson_interval(before, count)
    # Correlation of the outcomes; what is positive is shrunk by the paper's continuity correction.
    product = after * (count - after) * before * (count - before)
    cross = both * neither - gained * lost
    shrunk = max(0.0, cross - count / 2) if cross > 0 else float(cross)
    correlation = shrunk / math.sqrt(product) if product else 0.0

    def joined(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * correlation * one * other + other**2)

    down = joined(rate_after - low_after, high_before - rate_before)
    up = joined(high_after - rate_after, rate_before - low_before)
    return max(-1.0, rate_after - rate_before - down), min(1.0, rate_after - rate_before + up)


def _mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p value: a fair coin decides each episode that only one of them solved."""
    tosses = gained + lost
    tail = sum(math.comb(tosses, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**tosses)
