"""Synchronous execution: run the first steps of a chunk, then hold until the next one is there."""

from __future__ import annotations

from collections import deque

import numpy as np

from rise_robot.execution.base import Merge, QueueExecutor

__all__ = ["SynchronousExecutor"]


class SynchronousExecutor(QueueExecutor):
    """What `RobotEnv.step` does. While a chunk is computed the robot holds, so none of its steps is stale.

    Args:
        execute: Leading steps of each chunk that are played.
    """

    name = "sync"

    def __init__(self, execute: int) -> None:
        super().__init__()
        self._execute = execute

    def wants(self, step: int) -> bool:
        """When the last chunk is used up."""
        del step
        return not self._queue

    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Replace what is left by the new chunk's leading steps."""
        self._queue = deque(np.array(chunk[: self._execute], np.float64))
        return Merge(computed_at, now, 0, 0, len(self._queue))
