"""A recorded robot: one camera, 26 joints, nested names, AV1, LeRobot v2.1."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from rise_env.data import Windows, compute_stats, open_dataset, split_episodes
from rise_env.data.check import check_dataset
from rise_env.tasks import load_task


@pytest.fixture
def spec(real_dataset: Path):
    if real_dataset.name != "g1_bottle":
        pytest.skip(f"configs/g1_bottle describes g1_bottle, RISE_REAL_DATASET is {real_dataset.name}")
    return load_task("g1_bottle", "small")


def test_opens_with_its_task(real_dataset: Path, spec) -> None:
    dataset = open_dataset(real_dataset, spec)
    assert (dataset.num_episodes, dataset.num_frames) == (10, 3741)
    assert dataset.state.shape == dataset.action.shape == (3741, 26)
    for values in (dataset.state, dataset.action):
        assert (values >= spec.layout.low).all()
        assert (values <= spec.layout.high).all()
    assert {e.task for e in dataset.episodes} == {spec.prompt}
    assert {e.success for e in dataset.episodes} == {None}
    windows = Windows(dataset, episodes=split_episodes(dataset)["train"])
    batch = windows.batch(np.arange(64))
    assert batch.actions.shape == (64, spec.chunk, 26)
    assert compute_stats(dataset).state.mean.shape == (26,)


def test_is_checked(real_dataset: Path, spec) -> None:
    checked = check_dataset(real_dataset, spec, pictures=False)
    assert {one.code for one in checked.findings} == {"outcomes_missing", "lag_long", "few_episodes"}
    assert checked.errors == 0


@pytest.mark.slow
def test_frames(real_dataset: Path, spec) -> None:
    dataset = open_dataset(real_dataset, spec)
    dataset.prepare()
    for episode in (0, 9):
        path = dataset.source.videos["observation.images.cam_high"][episode].path
        with av.open(str(path)) as container:
            full = [frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(video=0), 3)]
        for number, image in enumerate(full):
            box = image.reshape(48, 10, 64, 10, 3).mean((1, 3))
            ours = dataset.frames(dataset.starts[episode] + number)[0]
            assert np.abs(ours - box).mean() < 2
