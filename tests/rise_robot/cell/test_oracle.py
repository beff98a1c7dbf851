"""The cell in place of imagination."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rise_agents.algorithms.rise import RISE, RiseConfig
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_robot.cell.config import load_cell
from rise_robot.cell.env import CellEnv
from rise_robot.cell.oracle import OracleVectorEnv


@pytest.fixture(scope="module")
def envs() -> OracleVectorEnv:
    return OracleVectorEnv(*load_cell("brick_sorting", "tiny"), 4, ("expert",), observation_lags=[2], latest_start=12)


def test_groups_share_a_state_and_are_told_apart_by_what_they_do(envs: OracleVectorEnv) -> None:
    observations, infos = envs.reset(seed=[3, 4, 5, 6], options={"group_size": 2})
    assert envs.observation_space.contains(observations)
    np.testing.assert_array_equal(observations["state"][0], observations["state"][1])
    assert (observations["state"][0] != observations["state"][2]).any()
    assert infos["progress"][0] == infos["progress"][1]
    hold = np.repeat(observations["state"][:, None], envs.task.chunk, axis=1)
    again = envs.step(hold)
    assert again[1][0] == again[1][1]
    different = hold.copy()
    different[1, :, :6] += 0.3
    envs.reset(seed=[3, 4, 5, 6], options={"group_size": 2})
    observations, rewards, terminated, truncated, _ = envs.step(different)
    assert rewards[0] == again[1][0]
    assert (observations["image_head"][0] != observations["image_head"][1]).any()
    assert not (terminated & truncated).any()


def test_the_reward_is_the_progress_the_cell_itself_reports(envs: OracleVectorEnv) -> None:
    env = CellEnv(preset="tiny", execute=1, observation_lags=[])
    _, info = env.reset(seed=11)
    chunk = env.scripted_chunk("expert")
    start, progress = info["progress"], []
    for k in range(env.task.chunk):
        action = np.repeat(chunk[k : k + 1], env.task.chunk, axis=0)
        progress.append(env.step(action)[4]["progress"])
    envs.latest_start = 1  # starts at the beginning of the episode
    envs.reset(seed=[11] * 4)
    rewards = envs.step(np.repeat(chunk[None], 4, axis=0))[1]
    np.testing.assert_allclose(rewards, np.mean(progress) - start, atol=1e-9)
    env.close()


def test_an_agent_learns_there_as_it_does_in_imagination(envs: OracleVectorEnv) -> None:
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(envs.task, FlowPolicyConfig(network=network, lags=(2,), steps=1, draws=1))
    agent = RISE(policy, envs, None, RiseConfig(offline_ratio=0.0, group=2, relative=True))  # type: ignore[arg-type]
    agent.learn(12)
    assert agent.rounds >= 1
    assert np.isfinite(agent.figures["loss"])


@pytest.fixture(scope="module")
def pooled() -> OracleVectorEnv:
    spec, config = load_cell("brick_sorting", "tiny")
    return OracleVectorEnv(spec, config, 6, ("expert",), observation_lags=[2], latest_start=12, pool=2)


def test_a_pool_starts_from_any_state_of_its_episodes(pooled: OracleVectorEnv) -> None:
    envs, spec = pooled, pooled.task
    observations, infos = envs.reset(seed=list(range(6)))
    again, _ = envs.reset(seed=list(range(6)))
    np.testing.assert_array_equal(observations["image_head"], again["image_head"])
    assert len(np.unique(infos["progress"])) > 2  # more states than episodes
    assert (observations["state"] != observations["state_lag2"]).any()  # the past is of the same episode, not a copy
    hold = np.repeat(observations["state"][:, None], spec.chunk, axis=1)
    assert np.isfinite(envs.step(hold)[1]).all()
    envs.close()


def test_states_of_a_pool_can_be_chosen_and_surveyed(pooled: OracleVectorEnv) -> None:
    states = [state.progress for state in pooled._pooled()]
    assert pooled.starts.split.tolist() == ["train"] * len(states)
    chosen = np.linspace(0, len(states) - 1, 6).astype(int)
    infos = pooled.reset(options={"start_index": chosen.tolist()})[1]
    np.testing.assert_array_equal(infos["progress"], np.array(states)[chosen])
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(pooled.task, FlowPolicyConfig(network=network, lags=(2,), steps=1, draws=1))
    settings = RiseConfig(offline_ratio=0.0, chunks_per_state=1, group=4, keep=2, anchor=1.0)
    envs: Any = pooled  # takes the place of an imagination
    agent = RISE(policy, envs, None, settings)
    agent.survey()
    assert agent.num_chunks == len(states)
    assert agent._bad is not None
    assert len(agent._bad) + len(agent._held) == len(states)
