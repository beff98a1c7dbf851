"""Dead time between a command and the servos that follow it, as in a real teleoperation or control chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["DelayLine"]


class DelayLine:
    """Hands set-points on some physics steps later, each joint with a delay of its own.

    Args:
        longest: Most physics steps that any joint may be delayed by.
        dim: Number of joints.

    Attributes:
        steps: (D,) delay of every joint, physics steps, at most `longest`.
    """

    def __init__(self, longest: int, dim: int) -> None:
        self.steps: np.ndarray = np.zeros(dim, int)
        # Set-points of the last physics steps, the newest last.
        self._past: np.ndarray = np.zeros((longest, dim))
        self._columns = np.arange(dim)

    @property
    def longest(self) -> int:
        """Most physics steps of delay; 0 where there is none."""
        return len(self._past)

    def reset(self, command: np.ndarray, steps: np.ndarray) -> None:
        """Start an episode in which everything before it was `command`, (D,)."""
        self.steps = np.asarray(steps, int)
        self._past[:] = command

    def apply(self, points: np.ndarray) -> np.ndarray:
        """What the servos get in the physics steps in which `points` are commanded; both (n, D), rad and m."""
        both = np.concatenate([self._past, points])
        rows = self.longest + np.arange(len(points))[:, None] - self.steps
        self._past = both[len(points) :]
        return both[rows, self._columns]

    def under_way(self, times: np.ndarray) -> np.ndarray:
        """What the servos will get at `times`, (n,) physics steps from now (from 1 on), if nothing more is commanded.

        Returns:
            (n, D) set-points, rad and m; the last command where all of it has arrived by then.
        """
        rows = self.longest - 1 + np.asarray(times)[:, None] - self.steps
        return self._past[np.minimum(rows, self.longest - 1), self._columns]

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides what comes out; empty where nothing is delayed."""
        return {"steps": self.steps, "past": self._past} if self.longest else {}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo everything since `get_state`."""
        if self.longest:
            self.steps, self._past = state["steps"].copy(), state["past"].copy()
