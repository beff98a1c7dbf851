"""Which frames of a video file belong to which episode."""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rise_env.data.source import VideoSegment

__all__ = ["Piece", "find_places"]

#: Cameras of 29.97, 23.976 and 59.94 Hz are off by a thousandth, their clocks by less.
_DRIFT = 0.01


class Piece(NamedTuple):
    """An episode in a video file.

    Attributes:
        number: Its number in the files of the dataset.
        segment: Where it lies.
        length: Its frames.
        episode: Its index in what is read of the dataset; None if it is left out, and only takes its place in the file.
        target: Row that its first frame goes to.
    """

    number: int
    segment: VideoSegment
    length: int
    episode: int | None
    target: int


def find_places(
    path: Path, pieces: Sequence[Piece], times: list[float], rate: float | None
) -> tuple[dict[int, int], dict[int, str]]:
    """First frame of every episode in a video, by its number; what is wrong, for those whose place is not certain.

    Episodes that fill the file without a gap are where their lengths say, whatever the rounding of time stamps; else
    their times must agree. Times may be those of the video, or of its frames played at the rate of the dataset: a
    camera of 29.97 Hz, in tables that count 30.

    Args:
        path: The file, for messages.
        pieces: All episodes in it.
        times: Time of every frame (s), in order.
        rate: Frames per second of the dataset; None if nobody knows, and the file holds one episode.
    """
    pieces, fps = sorted(pieces, key=lambda piece: piece.segment.start), rate or 1.0
    pace = (times[-1] - times[0]) / (len(times) - 1) * fps if len(times) > 1 else 1.0
    played = [times[0] + (time - times[0]) / pace for time in times]
    firsts = np.cumsum([0, *(piece.length for piece in pieces)]).tolist()
    tiles = firsts.pop() == len(times)
    for clock in (times, played) if tiles else ():
        if all(abs(clock[n] - piece.segment.start) * fps < 1.5 for piece, n in zip(pieces, firsts, strict=True)):
            _warn(path, pieces, times, rate)
            return {piece.number: first for piece, first in zip(pieces, firsts, strict=True)}, {}
    drifts = abs(pace - 1) < _DRIFT
    clocks = [(times, fps), *([(times, fps / pace), (played, fps)] if drifts else [])]
    tries = [_by_time(path, pieces, clock, its_rate, tiles) for clock, its_rate in clocks]
    places, found, _ = min(tries, key=lambda one: (len(one[1]), one[2]))
    if not found:
        _warn(path, pieces, times, rate)
    return places, found


def _by_time(
    path: Path, pieces: Sequence[Piece], times: list[float], fps: float, tiles: bool
) -> tuple[dict[int, int], dict[int, str], float]:
    """Places, what is wrong, and how far a start is from its frame (frames) where that is farthest."""
    spans = {piece.number: _span(piece, times, fps) for piece in pieces}
    found: dict[int, str] = {}
    farthest = 0.0
    for piece in pieces:
        first, last = spans[piece.number]
        off = 0.0 if piece.segment.whole or first == last else abs(times[first] - piece.segment.start) * fps
        farthest = max(farthest, off)
        if last - first != piece.length:
            found[piece.number] = (
                f"video {path}: episode {piece.number} should have {piece.length} frames from "
                f"{piece.segment.start:.3f} s on, found {last - first}. The video is cut short or does not belong to "
                "this dataset."
            )
        elif off > (1.5 if tiles else 0.4):
            found[piece.number] = (
                f"video {path}: episode {piece.number} should begin at {piece.segment.start:.3f} s, between two "
                f"frames; the nearest is at {times[first]:.3f} s. Correct from_timestamp in meta/episodes."
            )
    for before, after in itertools.pairwise(pieces):
        if spans[after.number][0] < spans[before.number][1]:
            text = (
                f"video {path}: episodes {before.number} and {after.number} both claim the frame at "
                f"{times[spans[after.number][0]]:.3f} s: episode {before.number} has {before.length} frames from "
                f"{before.segment.start:.3f} s on, episode {after.number} begins at {after.segment.start:.3f} s. "
                "Correct from_timestamp in meta/episodes."
            )
            found |= dict.fromkeys((before.number, after.number), text)
    return {number: first for number, (first, _) in spans.items()}, found, farthest


def _span(piece: Piece, times: list[float], fps: float) -> tuple[int, int]:
    """First frame of an episode and the one after its last, by time stamps."""
    if piece.segment.whole:
        return 0, len(times)
    start, half = piece.segment.start, 0.5 / fps
    first = bisect.bisect_left(times, start - half)
    return first, max(first, bisect.bisect_left(times, start + piece.length / fps - half))


def _warn(path: Path, pieces: Sequence[Piece], times: list[float], rate: float | None) -> None:
    """Warn of what is no error by itself, and yet pictures and table may not belong together."""
    if spare := len(times) - sum(piece.length for piece in pieces):
        warnings.warn(
            f"video {path} has {spare} frames that belong to no episode. If pictures come earlier or "
            "later than the table says, correct from_timestamp in meta/episodes.", stacklevel=2,
        )  # fmt: skip
    # The median of time stamps in whole milliseconds is wrong by 2 % at 60 Hz.
    if rate and len(times) > 1 and not 0.97 < (pace := float(np.median(np.diff(times))) * rate) < 1.03:
        warnings.warn(
            f"video {path} has {rate / pace:.3g} frames per second, info.json says {rate:g}. One of them is wrong: a "
            "policy would act at the wrong speed.", stacklevel=2,
        )  # fmt: skip
