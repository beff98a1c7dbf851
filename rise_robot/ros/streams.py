"""What arrives: messages with stamps on one monotonic clock, and the choice of those that belong together."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["StampClock", "Stamped", "Stream", "matching"]

#: Change of the distance of two clocks between two looks that counts as a jump, s.
_JUMP = 0.05


class StampClock:
    """Puts stamps of ROS (time of day) on the monotonic clock of this process.

    The distance of the two clocks is followed, so that a clock that is slewed does no harm. A time of day that jumps
    makes stamps before and after it incomparable: see `jump`.

    Attributes:
        jump: Largest jump so far, s; 0 while there was none.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self.now = wall, steady
        self._offset = self._distance()
        self.jump = 0.0

    def to_steady(self, stamp: float) -> float:
        """A stamp in seconds of the day's time, s on the monotonic clock."""
        offset = self._distance()
        change = offset - self._offset
        if abs(change) > _JUMP and abs(change) > abs(self.jump):
            self.jump = change
        self._offset = offset
        return stamp - offset

    def _distance(self) -> float:
        """Both clocks read as nearly at once as a thread that may be interrupted can."""
        best, distance = math.inf, 0.0
        for _ in range(5):
            before, wall, after = self.now(), self._wall(), self.now()
            if after - before < best:
                best, distance = after - before, wall - (before + after) / 2
            if best < 1e-4:
                break
        return distance


@dataclass(frozen=True)
class Stamped:
    """A message, or what was made of it.

    Attributes:
        stamp: When it was measured, s on the monotonic clock.
        message: The message.
        arrival: When it arrived, s on the monotonic clock.
    """

    stamp: float
    message: Any
    arrival: float


class Stream:
    """The latest `length` messages of a topic. `push` is called by ROS's threads, the rest by the controlling one.

    Args:
        topic: Topic.
        clock: Clock of the stamps.
        length: Messages kept.
        accept: Which message may be the first; any when None.

    Attributes:
        count: Messages so far.
        unstamped: Messages without a stamp; they are not kept.
        without_stamp: Whether the last message had none.
        refused: Messages at the beginning that `accept` refused; they are not kept.
        lost: Messages that the publisher numbered and that never came.
        ahead: The furthest a stamp lay in the future when it arrived, s.
        back: The furthest a stamp went back behind the one before, s.
        gap: The longest time between two arrivals, s.
        delays: Time from stamp to arrival of the latest messages, s.
    """

    def __init__(self, topic: str, clock: StampClock, length: int, accept: Callable[[Any], bool] | None = None) -> None:
        self.topic, self._accept = topic, accept
        self.count = self.unstamped = self.lost = self.refused = 0
        self.ahead = self.back = self.gap = 0.0
        self.without_stamp = False
        self._clock = clock
        self.delays: deque[float] = deque(maxlen=5000)
        self._last_number: int | None = None
        self._kept: deque[Stamped] = deque(maxlen=length)
        self._lock = threading.Lock()

    def push(self, message: Any) -> None:
        """Take a message with a header."""
        seconds = message.header.stamp.to_sec()
        self.without_stamp = seconds <= 0
        if self.without_stamp:
            self.unstamped += 1
            return
        if self.count == 0 and self._accept is not None and not self._accept(message):
            self.refused += 1
            return
        number = int(message.header.seq)
        if self._last_number is not None and number > self._last_number:
            self.lost += number - self._last_number - 1
        self._last_number = number
        self.put(self._clock.to_steady(seconds), message)

    def put(self, stamp: float, message: Any) -> None:
        """Take a message with a known stamp."""
        now = self._clock.now()
        with self._lock:
            if self._kept:
                self.gap = max(self.gap, now - self._kept[-1].arrival)
                self.back = max(self.back, self._kept[-1].stamp - stamp)
            self.ahead = max(self.ahead, stamp - now)
            self.delays.append(now - stamp)
            self._kept.append(Stamped(stamp, message, now))
            self.count += 1

    def newest(self) -> Stamped | None:
        """The last message to arrive."""
        with self._lock:
            return self._kept[-1] if self._kept else None

    def first_since(self, stamp: float) -> Stamped | None:
        """The earliest kept message measured at `stamp` or later; the newest where all are older."""
        with self._lock:
            return next((kept for kept in self._kept if kept.stamp >= stamp), self._kept[-1] if self._kept else None)


def matching(cameras: Mapping[str, Stream], others: Mapping[str, Stream]) -> dict[str, Stamped] | None:
    """Messages of one moment: that of the camera which is furthest behind.

    The moment is the oldest of the cameras' newest stamps; every stream gives its first message from then on, or its
    newest where it has none. The deployed code of the original does the same. None where a stream has none at all.
    """
    newest = [found for stream in cameras.values() if (found := stream.newest()) is not None]
    if not newest or len(newest) < len(cameras):
        return None
    moment, streams = min(found.stamp for found in newest), {**cameras, **others}
    chosen = {name: found for name, s in streams.items() if (found := s.first_since(moment)) is not None}
    return chosen if len(chosen) == len(streams) else None
