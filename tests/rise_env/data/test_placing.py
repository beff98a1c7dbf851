"""Where episodes lie in a video: every frame is theirs, or the place is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rise_env.data.placing import Piece, find_places
from rise_env.data.source import VideoSegment

LENGTHS = (700, 900, 650)


def pieces(starts: Sequence[float], lengths: Sequence[int] = LENGTHS) -> list[Piece]:
    parts = zip(starts, lengths, strict=True)
    return [
        Piece(i, VideoSegment(Path("v.mp4"), start, False), length, i, 0) for i, (start, length) in enumerate(parts)
    ]


@pytest.mark.parametrize("gap", [0, 5], ids=["tiles", "frames of nobody between"])
@pytest.mark.parametrize("clock", ["video", "table"])
@pytest.mark.parametrize(
    ("video", "table"), [(29.97, 30), (24, 23.976), (60000 / 1001, 60), (30, 29.97), (30, 30)], ids=str
)
@pytest.mark.filterwarnings("ignore:.*belong to no episode")
def test_cameras_that_are_off_by_a_thousandth(video: float, table: float, clock: str, gap: int) -> None:
    """Time stamps in whole milliseconds; starts counted by the video's rate or by the table's."""
    firsts = [0, 700 + gap, 1600 + 2 * gap]
    times = [round(i / video, 3) for i in range(2250 + 3 * gap)]
    starts = [first / (video if clock == "video" else table) for first in firsts]
    assert find_places(Path("v.mp4"), pieces(starts), times, table) == (dict(enumerate(firsts)), {})
    if not gap:
        assert find_places(Path("v.mp4"), pieces(starts), times[:-1], table)[1]
    dropped = [*times[:50], *(time + 1 / video for time in times[50:])]  # a frame was lost: whose are the others?
    if gap:
        assert find_places(Path("v.mp4"), pieces(starts), dropped, table)[1]


def test_a_rate_that_is_plainly_another_is_told() -> None:
    starts = [0.0, 7.0, 16.0]
    with pytest.warns(UserWarning, match="has 25 frames per second, info.json says 24"):
        find_places(Path("v.mp4"), pieces([start / 24 for start in (0, 700, 1600)]), [i / 25 for i in range(2250)], 24)
    assert len(find_places(Path("v.mp4"), pieces(starts), [i / 50 for i in range(2300)], 100)[1]) == 3
