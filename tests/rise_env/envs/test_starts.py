"""Start states: sampling, checks and files."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, ConfigError, DatasetError, LayoutError
from rise_env.tasks import JointLayout
from rise_env.testing import counting_spec, counting_starts

SPEC = counting_spec()


@pytest.fixture(scope="module")
def starts() -> StartStates:
    return counting_starts(SPEC)  # 12 states, episodes 0, 1 train and 2 heldout


def generators(count: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + i) for i in range(count)]


def test_filters(starts: StartStates) -> None:
    assert starts.rows("train").tolist() == list(range(8))
    assert starts.rows("heldout").tolist() == [8, 9, 10, 11]
    assert starts.rows(episode_index=1).tolist() == [4, 5, 6, 7]
    assert starts.rows("train", 1, 55).tolist() == [5]
    assert starts.rows(start_index=3).tolist() == [3]
    with pytest.raises(ConfigError, match=r"no start state has episode_index 2 and split 'train'.* there are 0, 1"):
        starts.rows("train", 2)
    with pytest.raises(ConfigError, match="frame_index 7"):
        starts.rows(frame_index=7)


def test_every_environment_draws_alone(starts: StartStates) -> None:
    together = starts.sample(generators(6))
    for i in range(6):
        assert starts.sample(generators(1, i)).tolist() == [together[i]]
    assert len(set(starts.sample(generators(64)).tolist())) > 8
    mixed = starts.sample(generators(3), episode_index=[2, None, 0])
    assert starts.episode_index[mixed[[0, 2]]].tolist() == [2, 0]
    assert mixed[1] == together[1]


def test_groups_share_the_start_of_their_first(starts: StartStates) -> None:
    alone, grouped = starts.sample(generators(6)), starts.sample(generators(6), group_size=3)
    assert grouped.tolist() == [alone[0]] * 3 + [alone[3]] * 3
    some = starts.sample([np.random.default_rng(i) for i in (1, 2, 5)], positions=[1, 2, 5], group_size=3)
    assert some.tolist() == [alone[1], alone[1], alone[5]]
    with pytest.raises(ConfigError, match="share a start"):
        starts.sample(generators(2), group_size=2, episode_index=[0, 1])
    with pytest.raises(ConfigError, match="2 entries for 3"):
        starts.sample(generators(3), episode_index=[0, 1])


def test_failed_draws_use_no_generator(starts: StartStates) -> None:
    ours = generators(2)
    with pytest.raises(ConfigError):
        starts.sample(ours, episode_index=[0, 9])
    assert starts.sample(ours).tolist() == starts.sample(generators(2)).tolist()


@pytest.mark.parametrize("compress", [False, True])
def test_save_and_load(starts: StartStates, tmp_path: Path, compress: bool) -> None:
    starts.save(tmp_path / "starts", compress=compress)
    starts.save(tmp_path / "starts", compress=compress)  # replaces its own kind
    loaded = StartStates.load(tmp_path / "starts")
    assert isinstance(loaded.frames, np.memmap) is not compress
    ours, theirs = starts.batch([7, 2]), loaded.batch([7, 2])
    for field in ("frames", "states", "episode_index", "frame_index"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert ours.prompts == theirs.prompts
    np.testing.assert_array_equal(starts.actions, loaded.actions)
    loaded.check(SPEC)
    assert os.listdir(tmp_path) == ["starts"]


def test_damage_is_named(starts: StartStates, tmp_path: Path) -> None:
    folder = tmp_path / "starts"
    starts.save(folder)
    frames = folder / "frames.npy"
    content = frames.read_bytes()
    frames.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"frames.npy is cut short or damaged"):
        StartStates.load(folder)
    np.save(frames, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="damaged"):
        StartStates.load(folder)
    frames.unlink()
    with pytest.raises(CheckpointError, match="lack"):
        StartStates.load(folder)
    (folder / "starts.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"starts.json is damaged"):
        StartStates.load(folder)
    (folder / "starts.json").write_text(
        json.dumps({"format_version": 9, "compressed": False, "prompts": [], "about": {}})
    )
    with pytest.raises(CheckpointError, match="format version 9"):
        StartStates.load(folder)
    with pytest.raises(CheckpointError, match="no checkpoint of kind 'start states'"):
        StartStates.load(tmp_path)
    with pytest.raises(FileExistsError, match="left alone"):
        starts.save(tmp_path)


def test_must_fit_the_task(starts: StartStates) -> None:
    other = JointLayout("other", ("a", "b", "c"), ("rad",) * 3, (-1,) * 3, (1,) * 3)
    with pytest.raises(LayoutError, match=r"shoulder, elbow, gripper;\n.*a, b, c"):
        starts.check(counting_spec(layout=other))
    for change in ({"stride": 4}, {"chunk": 6}, {"history": 2}, {"image_size": (36, 44)}):
        with pytest.raises(ConfigError, match="Build the start states"):
            starts.check(counting_spec(**change))
    cameras = {"wrist": "a", "head": "b"}
    with pytest.raises(ConfigError, match="cameras"):
        starts.check(counting_spec(cameras=cameras))


def test_arrays_must_fit_together() -> None:
    frames = np.zeros((2, 4, 2, 36, 40, 3), np.uint8)
    with pytest.raises(ConfigError, match="expected uint8"):
        StartStates.build(SPEC, frames.astype(np.float32), np.zeros((2, 4, 3)))
    with pytest.raises(ConfigError, match="start states: states have shape"):
        StartStates.build(SPEC, frames, np.zeros((2, 3, 3)))
    with pytest.raises(ConfigError, match="unknown split"):
        StartStates.build(SPEC, frames, np.zeros((2, 4, 3)), split="test")
    with pytest.raises(ConfigError, match="start states: there are none"):
        StartStates.build(SPEC, frames[:0], np.zeros((0, 4, 3)))


def test_joints_in_other_units_are_not_taken_for_radians() -> None:
    starts = counting_starts(SPEC, 4)
    with pytest.raises(DatasetError, match=r"start states, states, row 0: .* would fit"):
        dataclasses.replace(starts, states=np.full_like(starts.states, 30_000)).check(SPEC)
