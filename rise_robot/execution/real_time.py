"""Real-time chunking (arXiv 2506.07339): the policy itself makes a new chunk agree with what is being played."""

from __future__ import annotations

from collections import deque

import numpy as np

from rise_robot.config import RealTimeConfig
from rise_robot.execution.base import Merge, QueueExecutor, RtcConstraints

__all__ = ["RealTimeExecutor"]

_REMEMBERED = 10


class RealTimeExecutor(QueueExecutor):
    """Plays a new chunk from where it is due; the policy has made it agree with the old one there.

    The expected delay is the largest of the last ten, in control steps, as too small a guess tears the two chunks
    apart and too large a one only costs some reactivity.
    """

    name = "rtc"

    def __init__(self, period: int = 1, config: RealTimeConfig | None = None) -> None:
        super().__init__(period)
        self._config = config or RealTimeConfig()
        self._delays: deque[int] = deque(maxlen=_REMEMBERED)  # not forgotten at a reset: they belong to the policy

    def request(self, step: int) -> RtcConstraints | None:
        """What is left of the chunk; None where nothing is."""
        super().request(step)
        if not self._queue:
            return None
        delay = max(self._delays, default=self._config.delay_steps)
        return RtcConstraints(np.stack(self._queue), min(delay, len(self._queue)), self._config.execute_horizon)

    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Replace what is left by the new chunk, from the step that is due."""
        delay = max(0, now - computed_at)
        self._delays.append(delay)
        dropped, overlap = min(delay, len(chunk)), min(len(self._queue), max(0, len(chunk) - delay))
        if dropped < len(chunk):
            self._queue = deque(np.array(chunk[dropped:], np.float64))
        return Merge(computed_at, now, dropped, overlap, len(self._queue))
