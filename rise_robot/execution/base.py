"""What an execution strategy is: chunks in, with the step they were computed for; one target per control step out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass

import numpy as np

__all__ = ["ChunkExecutor", "Merge", "QueueExecutor", "RtcConstraints"]


@dataclass(frozen=True)
class RtcConstraints:
    """What a new chunk must agree with, for real-time chunking.

    Attributes:
        previous: float64 (R, D), R >= 1: what is left of the old chunk from the observation on, rad and m.
        delay: Leading rows of it that will have been played when the new chunk arrives.
        horizon: Leading rows over which the new chunk is constrained.
    """

    previous: np.ndarray
    delay: int
    horizon: int


@dataclass(frozen=True)
class Merge:
    """What became of a new chunk.

    Attributes:
        computed_at: Control step of the observation that it was computed from.
        merged_at: Control step at which it arrived.
        dropped: Its leading steps that will never be played, because their time has passed.
        overlap: Its steps that are played together with those of older chunks.
        queued: Steps that are planned now.
    """

    computed_at: int
    merged_at: int
    dropped: int
    overlap: int
    queued: int


class ChunkExecutor(ABC):
    """Turns chunks into targets. Pure arithmetic: no clock and no robot.

    Control steps are counted from 0 in every episode. Row j of a chunk computed from the observation at step s is meant
    for step s + j. Targets are in rad and m like the chunks; every one lies within the hull of the chunks' rows.

    Args:
        period: Least number of control steps from one request to the next.
    """

    name: str

    def __init__(self, period: int = 1) -> None:
        self._period = max(1, period)
        self._asked: int | None = None

    def reset(self) -> None:
        """Forget all chunks: an episode begins, or somebody else has moved the robot."""
        self._asked = None

    def wants(self, step: int) -> bool:
        """Whether a new chunk should be asked for at `step`, if nobody is computing one."""
        return self._asked is None or step - self._asked >= self._period or self.planned == 0

    def request(self, step: int) -> RtcConstraints | None:
        """A chunk is asked for at `step`; returns what it must agree with, None for nothing."""
        self._asked = step
        return None

    @property
    @abstractmethod
    def planned(self) -> int:
        """Number of further steps there are targets for."""

    @abstractmethod
    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Take a new chunk.

        Args:
            chunk: (H, D) joint targets; copied.
            computed_at: Step of its observation.
            now: Step whose target has not been asked for yet.
        """

    @abstractmethod
    def next(self, step: int) -> np.ndarray | None:
        """The target (D,) float64 of `step`, which is then played; None where none is planned: the robot holds.

        Called once per control step.
        """


class QueueExecutor(ChunkExecutor):
    """Base of strategies whose plan is a queue of targets."""

    def __init__(self, period: int = 1) -> None:
        super().__init__(period)
        self.reset()

    def reset(self) -> None:
        """Empty the queue."""
        super().reset()
        self._queue: deque[np.ndarray] = deque()

    @property
    def planned(self) -> int:
        """Length of the queue."""
        return len(self._queue)

    def next(self, step: int) -> np.ndarray | None:
        """The first target of the queue."""
        del step
        return self._queue.popleft() if self._queue else None
