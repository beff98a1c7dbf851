"""Splits of episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rise_env.data import open_dataset, split_episodes
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec


def test_splits(new_dataset: Callable[..., Path], spec: Callable[..., TaskSpec]) -> None:
    outcomes = tuple(i % 3 == 0 for i in range(30))
    root = new_dataset(lengths=(2,) * 30, success=outcomes, images_in_parquet=True, episodes_per_file=30)
    dataset = open_dataset(root, spec())
    split = split_episodes(dataset, {"train": 0.6, "heldout": 0.3, "test": 0.1}, seed=4)
    assert {name: len(members) for name, members in split.items()} == {"train": 18, "heldout": 9, "test": 3}
    assert sorted(np.concatenate(list(split.values()))) == list(range(30))
    assert {name: int(dataset.success[members].sum()) for name, members in split.items()} == {
        "train": 6, "heldout": 3, "test": 1,
    }  # fmt: skip
    again = split_episodes(dataset, {"train": 0.6, "heldout": 0.3, "test": 0.1}, seed=4)
    for name in split:
        np.testing.assert_array_equal(again[name], split[name])
    assert (split_episodes(dataset, seed=1)["heldout"] != split_episodes(dataset, seed=2)["heldout"]).any()
    assert len(split_episodes(dataset, 0.99)["heldout"]) == 1
    for wrong in (1.0, {"train": 0.5}, {"a": -0.5, "b": 1.5}, {}):
        with pytest.raises(ConfigError, match="must be positive and sum to 1"):
            split_episodes(dataset, wrong)
