"""Start states drawn from datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rise_env.data import EpisodeInfo
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.errors import ConfigError
from rise_env.testing import counting_spec

SPEC = counting_spec()


class FakeDataset:
    """Just enough of a Dataset: every pixel of a frame tells its global index."""

    name = "fake"

    def __init__(self, lengths: list[int]) -> None:
        self.spec = SPEC
        self.lengths = np.array(lengths)
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.num_episodes, self.num_frames = len(lengths), sum(lengths)
        self.episodes = [EpisodeInfo(i, n, f"Task {i % 2}.", [True, False, None][i % 3]) for i, n in enumerate(lengths)]
        self.state = np.arange(self.num_frames, dtype=np.float32)[:, None].repeat(3, 1)
        self.action = self.state + 0.5

    def episode_of(self, index: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, index, side="right") - 1

    def prompts(self, index: np.ndarray) -> list[str]:
        return [self.episodes[i].task for i in self.episode_of(index)]

    def frames(self, index: np.ndarray) -> np.ndarray:
        return np.broadcast_to(
            np.asarray(index, np.uint8)[:, None, None, None, None], (len(index), 2, 36, 40, 3)
        ).copy()

    def check_index(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(index)


def test_from_a_dataset() -> None:
    data = FakeDataset([30, 20, 25, 40])
    splits = {"train": [0, 1, 3], "heldout": [2]}
    starts = starts_from_dataset(data, SPEC, count=20, seed=3, splits=splits)  # type: ignore[arg-type]
    again = starts_from_dataset(data, SPEC, count=20, seed=3, splits=splits)  # type: ignore[arg-type]
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
        assert starts.success[i] == [1, 0, -1][episode % 3]
    everything = starts_from_dataset(data, SPEC, count=None, splits=splits)  # type: ignore[arg-type]
    assert len(everything) == sum(data.lengths - SPEC.chunk)
    with pytest.raises(ConfigError, match="no episodes to start from"):
        starts_from_dataset(data, SPEC, splits={"train": []})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown splits"):
        starts_from_dataset(data, SPEC, splits={"test": [0]})  # type: ignore[arg-type]


@pytest.mark.slow
def test_from_a_recorded_dataset(real_dataset: Path) -> None:
    starts = starts_from_dataset(real_dataset, count=8)
    assert len(starts) >= 2
    assert starts.frames.any()
