"""Imagination in shards is imagination in one piece, whoever imagines them and whoever dies meanwhile; placements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rise_agents.training.cluster.placement import ClusterConfig, load_cluster, parse_places
from rise_agents.training.cluster.sharded_env import ShardedVectorEnv, ShardWorker
from rise_env.errors import ActionError, ConfigError, RiseError
from rise_env.testing import counting_envs, counting_starts

_COUNT, _SHARD = 7, 3  # the last shard is smaller
_OPTIONS: dict[str, Any] = {"autoreset_mode": "disabled", "max_batch": _SHARD, "observation_lags": [2], "max_chunks": 3}


def plain(count: int = _COUNT, **changes: Any) -> Any:
    return counting_envs(count, starts=counting_starts(count=24), **{**_OPTIONS, **changes})


class Workers:
    """Some workers; before call number `dies`, one of them is replaced by one that knows nothing."""

    def __init__(self, count: int, dies: int | None = None) -> None:
        self.workers = [ShardWorker(plain) for _ in range(count)]
        self.dies, self.calls, self.seen = dies, 0, list[str]()

    def __call__(self, jobs: Any) -> list[Any]:
        self.calls += 1
        if self.calls == self.dies:
            self.workers[0] = ShardWorker(plain)
        self.seen.append(jobs[0][2][-1].name)
        return [self._run(*job) for job in jobs]

    def _run(self, shard: int, size: int, calls: Any) -> Any:
        try:
            return self.workers[shard % len(self.workers)].run(shard, size, calls)
        except RiseError as error:
            return error


def episode(env: Any) -> list[Any]:
    """All that a learner can see: seeded and unseeded resets of all and of some, steps, candidates, infos."""
    chunks = np.random.default_rng(0).uniform(-0.4, 0.4, (4, *env.action_space.shape)).astype(np.float32)
    found: list[Any] = [env.reset(seed=[5, 3, 9, 1, 4, 0, 2])]
    found.append(env.recorded_actions())
    found.append(vars(env.evaluate_candidates(chunks[:2].swapaxes(0, 1))))
    found.append(env.step(chunks[0]))
    some = np.arange(_COUNT) % 4 == 1  # none of the last shard
    found.append(env.reset(options={"reset_mask": some, "start_index": [None, 3, None, None, None, 7, None]}))
    found.append(env.step(chunks[1]))
    found.append(env.reset())
    found.append(env.step(chunks[2]))
    found.append(env.reset(seed=2, options={"split": "heldout"}))
    found.append(env.start_observations(np.arange(3)))
    return found


def same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            if isinstance(value, np.ndarray) and f"_{key}" in one:  # where it is masked out there may be anything
                mask = one[f"_{key}"]
                np.testing.assert_array_equal(value[mask], other[key][mask], key)
            else:
                same(value, other[key])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("workers", "dies"), [(1, None), (2, None), (3, 6), (1, 4), (2, 8)])
def test_shards_are_imagined_as_one_whoever_does_it(workers: int, dies: int | None) -> None:
    same(episode(plain()), episode(ShardedVectorEnv(plain(), _COUNT, Workers(workers, dies))))


def test_a_call_that_is_repeated_gives_the_same() -> None:
    worker, asked = ShardWorker(plain), []

    def twice(jobs: Any) -> list[Any]:
        asked.append([worker.run(*job) for job in jobs])
        return [worker.run(*job) for job in jobs]

    env = ShardedVectorEnv(plain(), _COUNT, twice)
    env.reset(seed=0)
    found = env.step(env.action_space.sample())
    np.testing.assert_array_equal(found[1], np.concatenate([part[1] for part in asked[-1]]))


def test_a_wrong_call_is_told_and_nothing_is_done() -> None:
    env, whole = ShardedVectorEnv(plain(), _COUNT, Workers(2)), plain()
    chunks = np.zeros(env.action_space.shape, np.float32)
    with pytest.raises(RiseError, match=r"reset\(\) first"):
        env.step(chunks)
    with pytest.raises(ConfigError, match="first reset must be of all"):
        env.reset(options={"reset_mask": np.arange(_COUNT) < 3})
    env.reset(seed=1)
    whole.reset(seed=1)
    bad = chunks.copy()
    bad[5] = np.nan
    with pytest.raises(ActionError, match="count from environment 3"):
        env.step(bad)
    with pytest.raises(ActionError, match="7 environments"):
        env.step(chunks[:3])
    for wrong in ({"start_index": [1, 2, 3]}, {"group_size": 2}):  # of the size of a shard; across shards
        with pytest.raises(ConfigError, match="3"):
            env.reset(options=wrong)
    for _ in range(3):
        same(whole.step(chunks), env.step(chunks))
    for one in (whole, env):
        with pytest.raises(RiseError, match=r"environments \[0, 1, 2, 3, 4, 5, 6\] have ended"):
            one.step(chunks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_nodes: 2", "no section 'cluster'"),
        ("cluster: {num_nodes: 0}", "num_nodes"),
        ("cluster: {component_placement: {envs: 0}}", "Did you mean 'env'"),
        ("cluster: {component_placement: {env: 3-1}}", "not within"),
        ("cluster: {component_placement: {env: x}}", "is no place"),
        ("cluster: {component_placement: {env: 0, 'env,rollout': 1}}", "places env twice"),
        ("cluster: {component_placement: {actor: 0}}", "neither env nor rollout"),
        ("cluster: {component_placement: {env: 0-7, actor: 4-7}}", "write actor: 0 or 0-4, not 4"),
    ],
)
def test_a_wrong_placement_is_told_before_anything_is_started(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_cluster(tmp_path / "cluster.yaml")


def test_places() -> None:
    config = ClusterConfig(component_placement={"env": "0-3", "rollout": "4-7", "actor": "0-7"})
    assert config.places(8) == {"env": [0, 1, 2, 3], "rollout": [4, 5, 6, 7], "actor": list(range(8))}
    assert ClusterConfig().places(2) == {"env": [0, 1], "rollout": [0, 1], "actor": [0]}
    with pytest.raises(ConfigError, match="0-5"):
        config.places(6)
    assert parse_places("7,0-1,1", 8) == [0, 1, 7]
