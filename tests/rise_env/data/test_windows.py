"""Windows: indices never leave an episode, actions start at the current frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rise_env.data import Dataset, DatasetError, Windows, open_dataset
from rise_env.data.array_dataset import ArrayDataset
from rise_env.tasks import JointLayout, TaskSpec


def in_memory(lengths: list[int], spec: TaskSpec) -> Dataset:
    """A dataset without files; joint 0 is the frame, joint 1 the episode."""
    frame = np.concatenate([np.arange(n) for n in lengths])
    state = np.stack([frame, np.repeat(np.arange(len(lengths)), lengths), frame * 0], 1).astype(np.float32)
    return ArrayDataset(spec, lengths, state, state + np.float32(0.5))


def make_spec(chunk: int = 4, stride: int = 2, history: int = 3) -> TaskSpec:
    layout = JointLayout("toy", ("a", "b", "c"), ("rad",) * 3, (-1.0,) * 3, (1.0,) * 3)
    return TaskSpec("toy", "Do it.", {"head": "x"}, (16, 24), layout, 10, chunk, stride, history, 1, 5.0)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    stride=st.integers(1, 3),
    frames=st.integers(1, 4),
    history=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_windows_never_cross_episodes(lengths: list[int], stride: int, frames: int, history: int) -> None:
    chunk = stride * frames
    spec = make_spec(chunk, stride, history)
    dataset = in_memory(lengths, spec)
    expected = [s + c for s, n in zip(dataset.starts, lengths, strict=True) for c in range(n - chunk)]
    if not expected:
        with pytest.raises(DatasetError, match="no window fits"):
            Windows(dataset)
        return
    windows = Windows(dataset)
    assert windows.index.tolist() == expected
    batch = windows.batch(np.arange(len(windows)))
    episode = dataset.episode_of(batch.index)
    for index in (batch.history_index, batch.future_index):
        np.testing.assert_array_equal(dataset.episode_of(index), np.broadcast_to(episode[:, None], index.shape))
    np.testing.assert_array_equal(windows.frame, batch.frame)
    frame = batch.frame[:, None]
    np.testing.assert_array_equal(
        batch.history_index - dataset.starts[episode][:, None],
        np.maximum(frame - stride * np.arange(history - 1, -1, -1), 0),
    )
    np.testing.assert_array_equal(batch.future_index, batch.index[:, None] + stride * np.arange(1, frames + 1))
    np.testing.assert_array_equal(batch.actions[..., 0], frame + np.arange(chunk) + 0.5)
    np.testing.assert_array_equal(
        batch.actions[..., 1], np.broadcast_to(episode[:, None] + 0.5, batch.actions.shape[:2])
    )
    np.testing.assert_array_equal(batch.states, dataset.state[batch.history_index])
    np.testing.assert_array_equal(batch.future_states, dataset.state[batch.future_index])


def test_shapes_types_and_prompts(v3_root: Path, spec: Callable[..., TaskSpec]) -> None:
    windows = Windows(open_dataset(v3_root, spec()))
    assert len(windows) == 3 + 8 + 5
    batch = windows.batch([0, 2, 3, 15])
    assert len(batch) == 4
    assert (batch.history_index.shape, batch.future_index.shape) == ((4, 3), (4, 2))
    assert (batch.actions.shape, batch.states.shape, batch.future_states.shape) == ((4, 4, 3), (4, 3, 3), (4, 2, 3))
    assert {a.dtype.name for a in (batch.actions, batch.states, batch.future_states)} == {"float32"}
    assert batch.prompts == ["Do it.", "Do it.", "Undo it.", "Do it."]
    assert batch.episode.tolist() == [0, 0, 1, 2]
    assert batch.frame.tolist() == [0, 2, 0, 4]
    assert batch.history_index[0].tolist() == [0, 0, 0]


def test_episodes_can_be_chosen() -> None:
    windows = Windows(in_memory([9, 7, 8], make_spec()), episodes=[2, 0])
    assert set(windows.batch(np.arange(len(windows))).episode) == {0, 2}
    with pytest.raises(DatasetError, match="episode 3 is outside"):
        Windows(windows.dataset, episodes=[3])


@pytest.mark.parametrize("wrong", [[-1], [5], [0.5], [[0]]])
def test_wrong_numbers(wrong: list) -> None:
    windows = Windows(in_memory([9], make_spec()))
    assert len(windows) == 5
    with pytest.raises(DatasetError, match=r"outside \[0, 5\)|must be integers"):
        windows.batch(wrong)


def test_at_refuses_chunks_that_leave_the_episode() -> None:
    windows = Windows(in_memory([9, 9], make_spec()))
    assert windows.at([4]).future_index.tolist() == [[6, 8]]
    with pytest.raises(DatasetError, match="after frame 5 of episode 0 leaves the episode, which has 9 frames"):
        windows.at([0, 5])
