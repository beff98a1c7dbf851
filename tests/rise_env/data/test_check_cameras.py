"""Faults planted in pictures are found; pictures of a moving arm, with a codec's noise, stay silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rise_env.data.check.cameras import camera_findings, picture_delay, scene_findings
from rise_env.data.check.finding import Finding
from rise_env.data.check.pictures import Camera, Meter
from rise_env.data.check.reading import Motion

SIZE = (48, 64)
Film = np.ndarray  # float32 (N, H, W), grey


def film(motion: Motion, seed: int = 0, joints: Sequence[int] = (0, 1)) -> Film:
    """A bar across a scene that differs a little from episode to episode, moved by joints; with a codec's noise."""
    rng = np.random.default_rng(seed)
    scene = rng.uniform(60, 160, (6, 8)).repeat(8, 0).repeat(8, 1)
    pictures = np.repeat(scene[None], len(motion.state), 0).astype(np.float32)
    for rows in motion.rows():
        y, x = rng.integers(4, 40, 2)
        pictures[rows, y : y + 8, x : x + 8] = 250
    for joint, axis in zip(joints, (1, 2), strict=False):
        at = 0.5 + 0.2 * motion.state[:, joint].clip(-2, 2)
        place = np.arange(SIZE[axis - 1]) / SIZE[axis - 1]
        bar = np.clip((0.06 - np.abs(place - at[:, None])) * SIZE[axis - 1] + 0.5, 0, 1)  # with soft edges
        bar = bar[:, :, None] if axis == 1 else bar[:, None]
        pictures += bar * (20 - pictures)
    return pictures + rng.normal(0, 0.5, pictures.shape).astype(np.float32)


def camera(pictures: Film, motion: Motion, name: str = "observation.images.head") -> Camera:
    meter = Meter(name, SIZE, SIZE, motion)
    frames = pictures.clip(0, 255).astype(np.uint8)[..., None].repeat(3, -1)
    for row, frame in enumerate(frames):
        meter[row, 0] = frame
    return meter.camera


def found(pictures: Film, motion: Motion) -> list[Finding]:
    return camera_findings(camera(pictures, motion), motion)


@pytest.fixture(scope="module")
def motion(recording: Callable[..., Motion]) -> Motion:
    return recording(3, episodes=9)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_clean_pictures_are_silent(recording: Callable[..., Motion], seed: int) -> None:
    motion = recording(seed, episodes=8)
    pictures = film(motion, seed)
    assert found(pictures, motion) == []
    assert scene_findings([camera(pictures, motion)], motion) == []


def held(pictures: Film, first: int, last: int) -> Film:
    pictures = pictures.copy()
    pictures[first:last] = pictures[first] + np.random.default_rng(0).normal(0, 0.7, pictures[first:last].shape)
    return pictures


def frozen_for_a_second(pictures: Film, motion: Motion) -> Film:
    far = np.abs(motion.state[25:, 0] - motion.state[:-25, 0])
    start = max((int(motion.starts[i]) + 20 for i in range(3, 7)), key=lambda row: far[row])
    return held(pictures, start, start + 30)


def frozen_in_half_of_the_episodes(pictures: Film, motion: Motion) -> Film:
    for rows in list(motion.rows())[::2]:
        pictures = held(pictures, rows.start, rows.stop)
    return pictures


def frozen_for_ever(pictures: Film, motion: Motion) -> Film:
    return held(pictures, 0, len(pictures))


def slow_camera(every: int) -> Callable[[Film, Motion], Film]:
    return lambda pictures, motion: pictures[np.arange(len(pictures)) // every * every]


def late(frames: int) -> Callable[[Film, Motion], Film]:
    def plant(pictures: Film, motion: Motion) -> Film:
        return np.concatenate([pictures[np.clip(np.arange(r.start, r.stop) - frames, r.start, r.stop - 1)]
                               for r in motion.rows()])  # fmt: skip

    return plant


def brighter(pictures: Film, motion: Motion) -> Film:
    pictures = pictures.copy()
    pictures[200:215] *= 1.4
    return pictures


def black(episodes: int) -> Callable[[Film, Motion], Film]:
    def plant(pictures: Film, motion: Motion) -> Film:
        pictures = pictures.copy()
        pictures[: motion.starts[episodes]] = 0
        return pictures

    return plant


def day_and_night(pictures: Film, motion: Motion) -> Film:
    return pictures * np.repeat(np.linspace(0.5, 1.3, len(motion.lengths)), motion.lengths)[:, None, None]


@pytest.mark.parametrize(
    ("plant", "code", "severity"),
    [
        (frozen_for_a_second, "frozen", "warning"),
        (frozen_in_half_of_the_episodes, "frozen", "error"),
        (frozen_for_ever, "frozen", "error"),
        (slow_camera(2), "camera_rate", "warning"),
        (slow_camera(4), "camera_rate", "warning"),
        (late(4), "sync", "warning"),
        (late(-4), "sync", "warning"),
        (brighter, "exposure_jumps", "warning"),
        (black(1), "blank", "warning"),
        (black(5), "blank", "error"),
        (day_and_night, "lighting", "note"),
    ],
)
def test_planted_faults_are_found(plant: Any, code: str, severity: str, motion: Motion) -> None:
    told = found(plant(film(motion), motion), motion)
    assert {one.code: one.severity for one in told} == {code: severity}, told
    assert all(one.subjects == ("head",) for one in told)


def test_a_camera_that_does_not_see_every_joint_is_not_frozen(motion: Motion) -> None:
    assert found(film(motion, joints=(0,)), motion) == []


def test_the_delay_is_measured(motion: Motion) -> None:
    for frames in (-3, 2):
        delay, likeness, _ = picture_delay(camera(late(frames)(film(motion), motion), motion), motion, 10)
        assert abs(delay - frames) < 0.7
        assert likeness > 0.5


def test_exchanged_cameras(motion: Motion) -> None:
    left, right = film(motion, 1), film(motion, 2)
    rows = list(motion.rows())[7]
    left[rows], right[rows] = right[rows].copy(), left[rows].copy()
    cameras = [camera(left, motion, "left"), camera(right, motion, "right")]
    (told,) = scene_findings(cameras, motion)
    assert (told.code, told.episodes, told.subjects) == ("cameras_exchanged", (7,), ("left", "right"))


def test_a_scene_that_never_varies(motion: Motion) -> None:
    pictures = film(motion)
    pictures[motion.starts] = pictures[0]
    assert [one.code for one in scene_findings([camera(pictures, motion)], motion)] == ["same_scene"]
