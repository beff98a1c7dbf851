"""Stamps on one clock, and messages that belong together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_robot.ros.streams import StampClock, Stream, matching


class Clocks:
    def __init__(self) -> None:
        self.wall, self.steady = 1000.0, 5.0

    def clock(self) -> StampClock:
        return StampClock(lambda: self.wall, lambda: self.steady)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def message(seconds: float, number: int = 0) -> Any:
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(to_sec=lambda: seconds), seq=number))


def test_the_first_message_must_be_accepted() -> None:
    clocks = Clocks()
    stream = Stream("/joints", clocks.clock(), 4, accept=lambda found: any(found.position))
    for number, position in enumerate(([0.0, 0.0], [0.0, 0.0], [0.0, 0.1], [0.0, 0.0])):
        found = message(clocks.wall, number)
        found.position = position
        stream.push(found)
    assert (stream.refused, stream.count, stream.lost) == (2, 2, 0)  # later on, all zeros may be where the arm is


def test_stamps_move_to_the_steady_clock() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.go(2.0)
    assert clock.to_steady(1001.5) == pytest.approx(6.5)
    assert clock.jump == 0.0


def test_a_slewed_clock_is_followed() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    for _ in range(100):
        clocks.go(1.0)
        clocks.wall += 0.001
        assert clock.to_steady(clocks.wall) == pytest.approx(clocks.steady)
    assert clock.jump == 0.0


@pytest.mark.parametrize("step", [3600.0, -0.5])
def test_a_clock_that_jumps_is_told(step: float) -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.wall += step
    clock.to_steady(clocks.wall)
    clock.to_steady(clocks.wall)
    assert clock.jump == pytest.approx(step)


def test_messages_without_a_stamp_are_counted_and_not_kept() -> None:
    stream = Stream("/topic", Clocks().clock(), 3)
    stream.push(message(0.0))
    assert stream.newest() is None
    assert stream.unstamped == 1


def test_gaps_and_stamps_from_the_future_are_kept_in_mind() -> None:
    clocks = Clocks()
    stream = Stream("/topic", clocks.clock(), 3)
    for step in (0.1, 0.4, 0.2):
        stream.push(message(clocks.wall + 0.25))
        clocks.go(step)
    stream.push(message(clocks.wall))
    assert stream.gap == pytest.approx(0.4)
    assert stream.ahead == pytest.approx(0.25)
    assert stream.count == 4


def test_lost_messages_are_counted() -> None:
    stream = Stream("/topic", Clocks().clock(), 3)
    for number in (4, 5, 9, 10, 1, 2):  # the publisher starts again after 10
        stream.push(message(1000.0, number))
    assert stream.lost == 3
    assert list(stream.delays) == pytest.approx([0.0] * 6)


def filled(stamps: list[float]) -> Stream:
    stream = Stream("/topic", Clocks().clock(), 100)
    for stamp in stamps:
        stream.put(stamp, stamp)
    return stream


def test_a_stream_without_messages_means_no_observation() -> None:
    assert matching({"a": filled([1.0]), "b": filled([])}, {}) is None
    assert matching({"a": filled([1.0])}, {"arm": filled([])}) is None


def test_the_slowest_camera_says_which_moment() -> None:
    found = matching({"a": filled([1.0, 2.0, 3.0]), "b": filled([0.9, 1.9])}, {"arm": filled([1.5, 1.89, 1.95, 2.5])})
    assert found is not None
    assert {name: stamped.stamp for name, stamped in found.items()} == {"a": 2.0, "b": 1.9, "arm": 1.95}


def test_joints_older_than_every_image_are_the_newest_there_are() -> None:
    found = matching({"a": filled([5.0])}, {"arm": filled([1.0, 2.0])})
    assert found is not None
    assert found["arm"].stamp == 2.0


rising = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20).map(sorted)


@given(st.lists(rising, min_size=1, max_size=4), st.lists(rising, max_size=3))
def test_what_is_chosen_is_the_earliest_since_the_moment(cameras: list[list[float]], arms: list[list[float]]) -> None:
    found = matching(
        {f"camera{i}": filled(stamps) for i, stamps in enumerate(cameras)},
        {f"arm{i}": filled(stamps) for i, stamps in enumerate(arms)},
    )
    assert found is not None
    moment = min(stamps[-1] for stamps in cameras)
    for kind, streams in (("camera", cameras), ("arm", arms)):
        for i, stamps in enumerate(streams):
            later = [stamp for stamp in stamps if stamp >= moment]
            assert found[f"{kind}{i}"].stamp == (later[0] if later else stamps[-1])
            assert later or kind == "arm"  # a camera always has one
