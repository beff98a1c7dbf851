"""Recording with an actor that is asked about several cells at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rise_robot.cell.collect import collect
from rise_robot.cell.config import load_cell
from rise_robot.recording import check_dataset, read_episode_records


class Wandering:
    """Moves by its own noise and, as matrix products do, by something that the number of rows decides."""

    lags = (1,)
    rows = 3

    def __init__(self) -> None:
        self.random: list[np.random.Generator] = []
        self.fails_after = 10**6

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        if len(self.random) != len(seeds):
            self.random = [np.random.default_rng(0) for _ in seeds]
        for row in np.flatnonzero(mask):
            self.random[row] = np.random.default_rng(seeds[row])

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.fails_after -= 1
        if self.fails_after < 0:
            raise KeyboardInterrupt
        states, before = observations["state"], observations["state_lag1"]
        noise = np.stack([random.normal(0, 0.2, (8, 14)) for random in self.random])
        return (states[:, None] + 0.1 * before[:, None] + noise + 0.01 * len(states)).astype(np.float32)


def test_recordings_depend_on_seed_and_actor_alone(tmp_path: Path) -> None:
    spec, config = load_cell("brick_sorting", "tiny", ["task.max_seconds=2"])

    def record(name: str, episodes: int, actor: Wandering) -> list[np.ndarray]:
        collect(spec, config, "wandering", episodes, 5, tmp_path / name, actor=actor, tail_seconds=0.2)
        check_dataset(tmp_path / name)
        assert [record.seed for record in read_episode_records(tmp_path / name)] == [*range(5, 5 + episodes)]
        files = sorted((tmp_path / name / "data").rglob("*.parquet"))
        return [np.stack(pq.read_table(path)["action"].to_numpy()) for path in files]

    whole = np.concatenate(record("whole", 5, Wandering()))
    record("parts", 2, Wandering())
    actor = Wandering()
    actor.fails_after = 4
    with pytest.raises(KeyboardInterrupt):
        record("parts", 5, actor)
    assert not (tmp_path / "parts/.recording").exists(), "what was under way lies there still"
    assert len(read_episode_records(tmp_path / "parts")) < 5
    np.testing.assert_array_equal(np.concatenate(record("parts", 5, Wandering())), whole)
