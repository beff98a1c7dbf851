"""Temporal smoothing: drop stale steps, fade from the old plan to the new one, append the rest (as RISE deploys it)."""

from __future__ import annotations

from collections import deque

import numpy as np

from rise_robot.config import SmoothConfig
from rise_robot.execution.base import Merge, QueueExecutor

__all__ = ["SmoothExecutor", "cross_fade"]


def cross_fade(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Fade linearly from an old plan (M, D) to a new one (N, D) over their common length L, then follow the new one.

    Returns (N, D) float64: row i < L is w_i old_i + (1 - w_i) new_i with w = linspace(1, 0, L), the rest is `new`. So
    it begins with the old plan's first row, wherever the new one begins.
    """
    common = min(len(old), len(new))
    result = np.array(new, np.float64)
    weights = np.linspace(1.0, 0.0, common)[:, None]
    result[:common] = weights * old[:common] + (1.0 - weights) * result[:common]
    # Rounding must not leave the hull of the two.
    low, high = np.minimum(old[:common], new[:common]), np.maximum(old[:common], new[:common])
    result[:common] = np.clip(result[:common], low, high)
    return result


class SmoothExecutor(QueueExecutor):
    """A queue of targets that new chunks are faded into.

    A new chunk loses its stale leading steps, `latency_steps` at most. The old plan is padded with its last row to
    `least_overlap` rows (where it is used up: with the last target played), and both are cross-faded.
    """

    name = "smooth"

    def __init__(self, period: int = 1, config: SmoothConfig | None = None) -> None:
        super().__init__(period)
        self._config = config or SmoothConfig()

    def reset(self) -> None:
        """Forget plan and last target."""
        super().reset()
        self._last: np.ndarray | None = None
        self._played: list[int] = []  # steps played since the last merge

    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Fade the new chunk in."""
        stale = [step for step in self._played if self._config.stale == "merge" or step >= computed_at]
        dropped = min(len(stale), self._config.latency_steps, len(chunk))
        new = np.array(chunk[dropped:], np.float64)
        self._played = []
        if not len(new):  # all of it is stale: what is planned is newer
            return Merge(computed_at, now, dropped, 0, len(self._queue))
        old = list(self._queue) or ([] if self._last is None else [self._last])
        if old:
            old += [old[-1]] * (self._config.least_overlap - len(old))
            new = cross_fade(np.stack(old), new)
        self._queue = deque(new)
        return Merge(computed_at, now, dropped, min(len(old), len(new)), len(self._queue))

    def next(self, step: int) -> np.ndarray | None:
        """The queue's first target."""
        target = super().next(step)
        if target is None:
            return None
        self._last = target
        self._played.append(step)
        return target.copy()
