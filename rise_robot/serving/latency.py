"""Latencies of the last requests."""

from __future__ import annotations

from collections import deque

import numpy as np

__all__ = ["Latencies"]


class Latencies:
    """Durations of the last requests, in memory that does not grow.

    Args:
        window: How many of the last ones are kept.
    """

    def __init__(self, window: int = 1000) -> None:
        self._last: deque[float] = deque(maxlen=window)
        self.count = 0

    def add(self, milliseconds: float) -> None:
        """Take down one duration, ms."""
        self._last.append(milliseconds)
        self.count += 1

    def summary(self) -> dict[str, float]:
        """`count` of all; `mean`, `p50`, `p99` and `max` of the last, ms. Without any, `count` alone."""
        if not self._last:
            return {"count": 0}
        values = np.fromiter(self._last, float)
        p50, p99 = np.quantile(values, [0.5, 0.99])
        summary = {"mean": values.mean(), "p50": p50, "p99": p99, "max": values.max()}
        return {"count": self.count, **{name: round(float(value), 3) for name, value in summary.items()}}
