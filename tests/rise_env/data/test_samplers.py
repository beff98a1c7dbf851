"""Samplers: shares are as they should be, and a batch depends on its number alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rise_env.data import FocusedSampler, Sampler, ShuffledSampler, TaskCentricSampler, Windows, open_dataset
from rise_env.data.joined import JoinedDataset
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec


@pytest.fixture
def windows(v3_root: Path, spec: Callable[..., TaskSpec]) -> Windows:
    return Windows(open_dataset(v3_root, spec()))


def take(sampler: Sampler, count: int) -> np.ndarray:
    return np.stack([sampler.draw(step) for step in range(count)])


def test_shuffle_shows_every_window_once_per_epoch(windows: Windows) -> None:
    numbers = take(ShuffledSampler(windows, 5, seed=3), 16).reshape(5, 16)  # batches of 5 reach across epochs of 16
    for epoch in numbers:
        assert sorted(epoch) == list(range(16))
    assert (numbers[0] != numbers[1]).any()
    assert sorted(take(ShuffledSampler(4, 8), 1)[0]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_batches_hold_many_samples_of_few_scenes(windows: Windows) -> None:
    batches = take(TaskCentricSampler(windows, 2, 16), 300)
    assert batches.shape == (300, 32)
    episodes = windows.dataset.episode_of(windows.index)[batches].reshape(300, 2, 16)
    assert (episodes == episodes[..., :1]).all()
    assert (episodes[:, 0, 0] != episodes[:, 1, 0]).all()
    assert any(len(set(batch[:16])) < 16 for batch in batches)  # with replacement
    shares = np.bincount(episodes[..., 0].ravel(), minlength=3) / 600
    assert np.abs(shares - 1 / 3).max() < 0.06
    within = np.bincount(batches.ravel(), minlength=16)
    assert within.min() > 0
    first = within[:3] / within[:3].sum()
    assert np.abs(first - 1 / 3).max() < 0.05


def test_a_scene_may_be_a_whole_dataset(windows: Windows) -> None:
    dataset = windows.dataset
    joined = Windows(JoinedDataset([dataset] * 3))
    batches = take(TaskCentricSampler(joined, 2, 8, scene="dataset"), 100)
    which = (joined.index[batches] // dataset.num_frames).reshape(100, 2, 8)
    assert (which == which[..., :1]).all()
    assert (which[:, 0, 0] != which[:, 1, 0]).all()
    assert set(which.ravel()) == {0, 1, 2}
    assert len(set(joined.dataset.episode_of(joined.index[batches[0, :8]]))) > 1  # of all its episodes
    with pytest.raises(ConfigError, match="2 datasets per batch, but there are windows of 1"):
        TaskCentricSampler(windows, 2, 8, scene="dataset")


def test_windows_in_focus_come_more_often_and_the_others_still(windows: Windows) -> None:
    focus = np.array([3, 7, 11])
    batches = take(FocusedSampler(windows, focus, 0.75, 8), 64)
    assert np.isin(batches[:, :6], focus).all()
    assert sorted(np.bincount(batches[:, :6].ravel(), minlength=16)[focus]) == [128, 128, 128]
    assert sorted(batches[:8, 6:].ravel()) == list(range(16)), "the rest is a plain shuffle of all"
    np.testing.assert_array_equal(take(FocusedSampler(windows, focus, 0.0, 8), 4), take(ShuffledSampler(windows, 8), 4))
    assert np.isin(take(FocusedSampler(windows, focus, 1.0, 8), 4), focus).all()
    for wrong, share, words in (([], 0.5, "no window is in focus"), ([16], 0.5, "outside"), ([3], 1.5, "share of 1.5")):
        with pytest.raises(ConfigError, match=words):
            FocusedSampler(windows, np.array(wrong, np.int64), share)


@pytest.mark.parametrize("kind", ["shuffled", "task-centric", "focused"])
def test_batches_depend_on_seed_and_number_alone(windows: Windows, kind: str) -> None:
    def make(seed: int = 0) -> Sampler:
        if kind == "focused":
            return FocusedSampler(windows, np.arange(9), 0.5, 6, seed)
        return ShuffledSampler(windows, 6, seed) if kind == "shuffled" else TaskCentricSampler(windows, 2, 3, seed=seed)

    reference, sampler = take(make(), 9), make()
    for step in (4, 8, 0):
        np.testing.assert_array_equal(sampler.draw(step), reference[step])
    assert (take(make(1), 9) != reference).any()


@pytest.mark.parametrize(("windows_count", "batch", "seed"), [(0, 1, 0), (4, 0, 0), (4, 1, -1)])
def test_wrong_settings(windows_count: int, batch: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="expected at least"):
        ShuffledSampler(windows_count, batch, seed)
