"""Start states drawn from datasets."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from rise_env.data.array_dataset import ArrayDataset
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.errors import ConfigError
from rise_env.testing import counting_spec

# Its joints are numbers of frames: no limit holds for them.
SPEC = counting_spec(layout=dataclasses.replace(counting_spec().layout, tolerance=math.inf))


def numbered(lengths: list[int]) -> ArrayDataset:
    """Every pixel and joint of a frame is its global index."""
    index = np.arange(sum(lengths))
    frames = np.broadcast_to(index.astype(np.uint8)[:, None, None, None, None], (len(index), 2, 36, 40, 3))
    state = index.astype(np.float32)[:, None].repeat(3, 1)
    prompts = [f"Task {i % 2}." for i in range(len(lengths))]
    outcomes = np.array([i % 2 == 0 for i in range(len(lengths))])
    return ArrayDataset(SPEC, lengths, state, state + 0.5, frames=frames, outcomes=outcomes, prompts=prompts)


def test_from_a_dataset() -> None:
    data = numbered([30, 20, 25, 40])
    splits = {"train": [0, 1, 3], "heldout": [2]}
    starts = starts_from_dataset(data, SPEC, count=20, seed=3, splits=splits)
    again = starts_from_dataset(data, SPEC, count=20, seed=3, splits=splits)
    np.testing.assert_array_equal(starts.frame_index, again.frame_index)
    assert set(starts.episode_index[starts.split == "heldout"]) == {2}
    assert len(starts) == 20
    for i in range(len(starts)):
        episode, frame = int(starts.episode_index[i]), int(starts.frame_index[i])
        assert 0 <= frame <= data.lengths[episode] - SPEC.chunk - 1
        expected = data.starts[episode] + np.maximum(frame + np.array([-6, -4, -2, 0]), 0)
        np.testing.assert_array_equal(starts.frames[i, :, 0, 0, 0, 0], expected)
        np.testing.assert_array_equal(starts.states[i, :, 0], expected)
        np.testing.assert_array_equal(starts.actions[i, :, 0], expected[-1] + np.arange(8) + 0.5)
        assert starts.prompts[starts.prompt_index[i]] == f"Task {episode % 2}."
        assert starts.success[i] == [1, 0][episode % 2]
    everything = starts_from_dataset(data, SPEC, count=None, splits=splits)
    assert len(everything) == sum(data.lengths - SPEC.chunk)
    with pytest.raises(ConfigError, match="no episodes to start from"):
        starts_from_dataset(data, SPEC, splits={"train": []})
    with pytest.raises(ConfigError, match="unknown split"):
        starts_from_dataset(data, SPEC, splits={"test": [0]})


def test_some_frames_of_an_episode_alone() -> None:
    data, splits = numbered([30, 20, 25, 12]), {"train": [0, 1, 3], "heldout": [2]}
    starts = starts_from_dataset(data, SPEC, count=None, splits=splits, frames=[0, 8, 16])
    found = sorted(zip(starts.episode_index.tolist(), starts.frame_index.tolist(), strict=True))
    assert found == [(0, 0), (0, 8), (0, 16), (1, 0), (1, 8), (2, 0), (2, 8), (2, 16), (3, 0)]
    assert set(starts.episode_index[starts.split == "heldout"]) == {2}
    assert len(starts_from_dataset(data, SPEC, count=4, splits=splits, frames=[0, 8, 16])) == 4
    with pytest.raises(ConfigError, match=r"any of the frames \[99\]"):
        starts_from_dataset(data, SPEC, splits=splits, frames=[99])


@pytest.mark.slow
def test_from_a_recorded_dataset(real_dataset: Path) -> None:
    starts = starts_from_dataset(real_dataset, count=8)
    assert len(starts) >= 2
    assert starts.frames.any()
