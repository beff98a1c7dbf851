"""Synchronous execution: run the first steps of a chunk, then hold until the next one is there."""

from __future__ import annotations

import numpy as np

from rise_robot.execution.base import ChunkExecutor, Merge

__all__ = ["SynchronousExecutor"]


class SynchronousExecutor(ChunkExecutor):
    """What `RobotEnv.step` does. While a chunk is computed the robot holds, so none of its steps is stale.

    Args:
        execute: Leading steps of each chunk that are played.
    """

    name = "sync"

    def __init__(self, execute: int) -> None:
        super().__init__()
        self._execute = execute
        self._queue: list[np.ndarray] = []

    def reset(self) -> None:
        """Forget the chunk."""
        super().reset()
        self._queue = []

    def wants(self, step: int) -> bool:
        """When the last chunk is used up."""
        del step
        return not self._queue

    @property
    def planned(self) -> int:
        """Steps left of the chunk."""
        return len(self._queue)

    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Replace what is left by the new chunk's leading steps."""
        self._queue = list(np.array(chunk[: self._execute], np.float64))
        return Merge(computed_at, now, 0, 0, len(self._queue))

    def next(self, step: int) -> np.ndarray | None:
        """The chunk's next step."""
        del step
        return self._queue.pop(0) if self._queue else None
