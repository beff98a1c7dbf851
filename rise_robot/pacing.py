"""Keeping time: a loop at a fixed rate that never hurries."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pacer"]


class Pacer:
    """Waits for the next period of a monotonic clock. A late caller begins a new period at once and makes up nothing.

    Args:
        period: Length of a period, s.
        clock: Monotonic clock, s.
        sleep: Waits for some seconds.
    """

    def __init__(
        self, period: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.period = period
        self._clock, self._sleep = clock, sleep
        self._begun: float | None = None

    def restart(self) -> None:
        """Begin a period now."""
        self._begun = self._clock()

    def wait(self) -> float:
        """Wait until the present period is over; returns when the new one began, s on the clock."""
        now = self._clock()
        due = now if self._begun is None else self._begun + self.period
        if due > now:
            self._sleep(due - now)
            self._begun = due
        else:
            self._begun = now
        return self._begun
