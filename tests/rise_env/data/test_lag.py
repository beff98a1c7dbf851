"""Lag between commands and measured joints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rise_agents.cli.stats import _warn_of_lag
from rise_env.data import command_lag
from rise_env.data.array_dataset import ArrayDataset
from rise_env.tasks import TaskSpec


def smooth(rng: np.random.Generator, length: int) -> np.ndarray:
    return np.convolve(rng.normal(size=length + 20), np.hanning(9), "same")[10:-10]


def test_lags_of_known_delay_are_found_over_episodes(spec: Callable[..., TaskSpec]) -> None:
    task, rng, lengths = spec(), np.random.default_rng(0), [80, 50, 90]
    fps, shifts = task.fps, (0, 3, 2)
    action, state = [], []
    for length in lengths:
        motion = np.stack([smooth(rng, length + 8) for _ in shifts], axis=1)
        action.append(motion[8:])
        state.append(np.stack([motion[8 - d : 8 - d + length, i] for i, d in enumerate(shifts)], axis=1))
        state[-1] = state[-1] + rng.normal(0, 0.02, state[-1].shape)
    both = [np.concatenate(x).astype(np.float32) for x in (state, action)]
    lags = command_lag(ArrayDataset(task, lengths, *both), longest=8 / fps)
    np.testing.assert_allclose(lags * fps, shifts, atol=0.1)


def test_a_joint_that_stands_or_does_not_follow_shows_none(spec: Callable[..., TaskSpec]) -> None:
    rng = np.random.default_rng(1)
    action, state = rng.normal(size=(2, 200, 3)).astype(np.float32)
    action[:, 2] = state[:, 2] = 0
    assert np.isnan(command_lag(ArrayDataset(spec(), [150, 50], state, action), longest=8 / spec().fps)).all()


def test_an_episode_of_one_frame_is_no_trouble(spec: Callable[..., TaskSpec]) -> None:
    values = np.zeros((2, 3), np.float32)
    assert np.isnan(command_lag(ArrayDataset(spec(), [1, 1], values, values))).all()


def test_a_warning_names_the_slowest_joint(capsys: pytest.CaptureFixture[str]) -> None:
    _warn_of_lag({"a": 0.2, "b": 0.5, "c": 0.9, "d": float("nan")}, 1.2)
    error = capsys.readouterr().err
    assert "2 joints" in error
    assert "c: 0.90 s" in error
    _warn_of_lag({"a": 0.2}, 1.2)
    assert capsys.readouterr().err == ""
