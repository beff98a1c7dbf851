"""The mixer: how much of a batch comes from where, and which samples of a source are drawn.

A *ratio* is a number between 0 and 1, constant (the 60 % of RISE) or a function of a statistic of the run
(`PacedRatio`, Policy-Paced Learning of WorldSample). It is applied sample by sample, so that batches differ around it.
A *selector* draws samples of a source, from all of them or from some, evenly or by weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rise_env.errors import requirement

__all__ = ["ConstantRatio", "PacedRatio", "Ratio", "Selector", "split_batch"]


class Ratio(Protocol):
    """Part of a batch that comes from the second of two sources, 0 to 1."""

    def __call__(self, statistic: float = 0.0) -> float:
        """The part, where a statistic of the run has a value."""


@dataclass(frozen=True)
class ConstantRatio:
    """Always the same part."""

    ratio: float

    def __post_init__(self) -> None:
        requirement("mixing")(0 <= self.ratio <= 1, f"ratio is {self.ratio}, expected in [0, 1]")

    def __call__(self, statistic: float = 0.0) -> float:
        """The ratio."""
        return self.ratio


@dataclass(frozen=True)
class PacedRatio:
    """Falls with a statistic H >= 0: most / (1 + kappa H^power).

    Policy-Paced Learning (arXiv 2607.02431): H is the entropy of the actor on real states, the part that of imagined
    samples. Published is `most`, 0.3; `kappa` and `power` are not: theirs here are ours.
    """

    most: float = 0.3
    kappa: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        require = requirement("mixing")
        require(0 <= self.most <= 1, f"most is {self.most}, expected in [0, 1]")
        require(self.kappa >= 0, f"kappa is {self.kappa}, expected at least 0")
        require(self.power > 0, f"power is {self.power}, expected a positive number")

    def __call__(self, statistic: float = 0.0) -> float:
        """The ratio; a statistic below 0 counts as 0."""
        return float(self.most / (1.0 + self.kappa * max(statistic, 0.0) ** self.power))


class Selector:
    """Draws samples of a source, with replacement.

    Args:
        size: Number of samples.
        mask: Which of them may be drawn, bool (size,); all when None.
        weights: How often, relative to each other, (size,), at least 0; evenly when None.

    Raises:
        ConfigError: If nothing can be drawn, or shapes do not fit.
    """

    def __init__(self, size: int, mask: Any = None, weights: Any = None) -> None:
        require = requirement("mixing")
        self._size, self._rows, self._rising = size, None, None
        for name, values in (("mask", mask), ("weights", weights)):
            shape = (size,) if values is None else np.shape(values)
            require(shape == (size,), f"{name} has shape {shape}, expected {(size,)}")
        chosen = np.ones(size, bool) if mask is None else np.asarray(mask, bool)
        if weights is not None:
            often = np.where(chosen, np.asarray(weights, np.float64), 0.0)
            require(bool(np.isfinite(often).all() and (often >= 0).all()), "weights must be finite and at least 0")
            require(often.sum() > 0, "no sample has a weight above 0")
            self._rising = np.cumsum(often) / often.sum()
        elif mask is not None:
            self._rows = np.flatnonzero(chosen)
        require(size > 0 and bool(chosen.any()), "there is no sample to draw")

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Numbers of so many samples, int64 (count,)."""
        if self._rising is not None:
            return np.searchsorted(self._rising, rng.random(count), side="right").clip(max=self._size - 1)
        if self._rows is not None:
            return self._rows[rng.integers(len(self._rows), size=count)]
        return rng.integers(self._size, size=count)


def split_batch(batch_size: int, ratio: float, rng: np.random.Generator) -> int:
    """How many of the samples of a batch come from the second source, each by a draw of its own."""
    return int((rng.random(batch_size) < ratio).sum())
