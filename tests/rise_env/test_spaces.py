"""Spaces built from a TaskSpec."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces

from rise_env.errors import ConfigError
from rise_env.spaces import action_space, check_lags, image_key, observation_space
from rise_env.tasks import load_task


def test_observation_space_is_flat_and_dot_free() -> None:
    spec = load_task("brick_sorting", "small")
    space = observation_space(spec)
    assert list(space) == sorted(space) == ["image_head", "image_left_wrist", "image_right_wrist", "state"]
    for camera in spec.cameras:
        image = space[image_key(camera)]
        assert image == spaces.Box(0, 255, (48, 64, 3), np.uint8)
    assert space["state"] == spaces.Box(-np.inf, np.inf, (14,), np.float32)


def test_action_space_is_a_chunk_within_the_joint_limits() -> None:
    spec = load_task("brick_sorting", "paper")
    space = action_space(spec)
    assert (space.shape, space.dtype) == ((50, 14), np.float32)
    assert space.is_bounded()
    for row in range(50):
        np.testing.assert_array_equal(space.low[row], spec.layout.low)
        np.testing.assert_array_equal(space.high[row], spec.layout.high)


def test_nothing_is_hard_wired() -> None:
    spec = load_task("brick_sorting", "tiny")
    layout = dataclasses.replace(spec.layout, names=("a", "b"), units=("rad", "m"), lower=(-1.0, 0.0), upper=(1.0, 0.1))
    other = dataclasses.replace(spec, cameras={"nose": "x"}, image_size=(16, 40), layout=layout, chunk=6, execute=6)
    assert set(observation_space(other)) == {"image_nose", "state"}
    assert observation_space(other)["image_nose"].shape == (16, 40, 3)
    assert action_space(other).shape == (6, 2)


def test_imagination_shows_the_past_at_its_stride_and_others_at_every_step() -> None:
    spec = load_task("brick_sorting", "small")
    assert check_lags(spec, [2, 4]) == (2, 4)
    assert check_lags(spec, [1, 6], imagined=False) == (1, 6)
    assert "state_lag1" in set(observation_space(spec, [1]))
    with pytest.raises(ConfigError, match="expected multiples of the stride 2 up to 6"):
        check_lags(spec, [1])
    for lags in ([0], [7]):
        with pytest.raises(ConfigError, match="expected whole numbers up to 6"):
            check_lags(spec, lags, imagined=False)
