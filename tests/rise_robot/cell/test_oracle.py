"""The cell in place of imagination."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from rise_agents import make_agent
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.checks import check_vector_env
from rise_env.errors import ActionError, ConfigError, RiseError
from rise_robot.cell.env import CellEnv
from rise_robot.cell.oracle import OracleVectorEnv


def make(num_envs: int, **kwargs: Any) -> OracleVectorEnv:
    """A tiny one, through its id."""
    settings = {"preset": "tiny", "behaviour_policies": ["expert"], "observation_lags": [2], "latest_start": 12}
    made: Any = gymnasium.make_vec("RISE-BrickSorting-Oracle-v0", num_envs=num_envs, **{**settings, **kwargs})
    assert isinstance(made.unwrapped, OracleVectorEnv)
    return made.unwrapped


@pytest.fixture(scope="module")
def envs() -> OracleVectorEnv:
    return make(4)


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


def test_the_reward_is_the_progress_the_cell_itself_reports() -> None:
    env = CellEnv(preset="tiny", execute=1, observation_lags=[])
    _, info = env.reset(seed=11)
    chunk = env.scripted_chunk("expert")
    start, progress = info["progress"], []
    for k in range(env.task.chunk):
        action = np.repeat(chunk[k : k + 1], env.task.chunk, axis=0)
        progress.append(env.step(action)[4]["progress"])
    envs = make(4, latest_start=1)  # starts at the beginning of the episode
    envs.reset(seed=[11] * 4)
    rewards = envs.step(np.repeat(chunk[None], 4, axis=0))[1]
    np.testing.assert_allclose(rewards, np.mean(progress) - start, atol=1e-9)
    env.close()


def test_an_agent_learns_there_as_it_does_in_imagination(envs: OracleVectorEnv) -> None:
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(envs.task, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1))
    agent = make_agent("rise", envs, policy, offline_ratio=0.0)
    agent.learn(12)
    assert agent.rounds >= 1
    assert np.isfinite(agent.metrics["train/loss"])


@pytest.fixture(scope="module")
def pooled() -> OracleVectorEnv:
    return make(6, pool=2)


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


def test_states_of_a_pool_can_be_chosen_and_scored(pooled: OracleVectorEnv) -> None:
    states = [state.progress for state in pooled._pooled()]
    assert pooled.starts.split.tolist() == ["train"] * len(states)
    chosen = np.linspace(0, len(states) - 1, 6).astype(int)
    infos = pooled.reset(options={"start_index": chosen.tolist()})[1]
    np.testing.assert_array_equal(infos["progress"], np.array(states)[chosen])
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(pooled.task, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1))
    seen = pooled.start_observations(chosen)
    np.testing.assert_array_equal(seen["state"], pooled.reset(options={"start_index": chosen.tolist()})[0]["state"])
    settings = {"num_candidates": 4, "top_k": 2, "batch_size": 8, "epochs": 1, "buffer_rounds": 1}
    agent = make_agent("selective_rise", pooled, policy, **settings)  # takes the place of an imagination
    agent.learn(len(states) + 1)
    assert agent.num_timesteps == len(states) + 6 * 4
    assert np.isfinite(agent.metrics["rollout/advantage"])


def test_a_pool_of_some_frames_alone() -> None:
    envs = OracleVectorEnv(preset="tiny", num_envs=2, behaviour_policies=["expert"], pool=3, start_frames=[0, 4])
    assert len(envs.starts) == 6
    assert envs.starts.frame_index.tolist() == [0, 4] * 3
    progress = [start.progress for start in envs._pooled()]
    assert all(after > before for before, after in zip(progress[::2], progress[1::2], strict=True)), (
        "the arm approaches"
    )
    envs.close()
    with pytest.raises(ConfigError, match="of a pool"):
        OracleVectorEnv(preset="tiny", start_frames=[0])


def test_looking_ahead_is_stepping_on_with_whoever_goes_on(pooled: OracleVectorEnv) -> None:
    spec, rows = pooled.task, [0, 1, 2, 3, 4, 5]

    def go_on(observations: Any) -> np.ndarray:
        return np.repeat(observations["state"][:, None] + 0.05, spec.chunk, axis=1).astype(np.float32)

    observations, start = pooled.reset(options={"start_index": rows})
    chunks = np.repeat(observations["state"][:, None, None], 2, axis=1).repeat(spec.chunk, axis=2)
    chunks[:, 1] += 0.1
    found = pooled.evaluate_candidates(chunks, go_on, 1)
    for member in (0, 1):
        pooled.reset(options={"start_index": rows})
        seen, *_, infos = pooled.step(chunks[:, member])
        if pooled._done.any():
            continue
        _, reward, *_ = pooled.step(go_on(seen))
        np.testing.assert_allclose(
            found.advantage[:, member], reward + infos["progress"] - start["progress"], rtol=0, atol=1e-5
        )


def test_it_keeps_the_rules_of_vector_environments(envs: OracleVectorEnv) -> None:
    report = check_vector_env(envs, skip=["next_step", "same_step", "render", "close"], steps=2, max_steps=4)
    print(report)
    assert {"seeding", "repeatable", "fresh_arrays", "disabled", "reset_mask", "alone"} <= set(report.passed)


class Still:
    """Holds the arms where they are; counts its episodes."""

    lags = (2,)
    episodes = 0

    def reset(self, seeds: Any, mask: np.ndarray) -> None:
        self.episodes += 1

    def act(self, observations: Any) -> np.ndarray:
        assert (observations["state"] - observations["state_lag2"]).max() < 0.5
        return np.repeat(observations["state"][:, None], 8, axis=1)


def test_whoever_acts_can_lead_to_the_start_states() -> None:
    still = Still()
    envs = make(2, behaviour_policies=[still, lambda: still])
    observations, _ = envs.reset(seed=[1, 2])
    assert still.episodes >= 2
    assert envs.observation_space.contains(observations)
    envs.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"autoreset_mode": "next_step"}, "disabled"),
        ({"behaviour_policies": []}, "behaviour_policies"),
        ({"behaviour_policies": ["experd"]}, "no scripted policy"),
        ({"max_chunks": 0}, "max_chunks"),
        ({"latest_start": 0}, "latest_start"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(2, **wrong)


def test_wrong_calls_are_named(envs: OracleVectorEnv) -> None:
    with pytest.raises(RiseError, match="reset before"):
        make(2).step(np.zeros((2, 8, 14), np.float32))
    observations, _ = envs.reset(seed=0)
    with pytest.raises(ConfigError, match="pool"):
        envs.reset(options={"start_index": [0, 1, 2, 3]})
    hold = np.repeat(observations["state"][:, None], envs.task.chunk, axis=1)
    with pytest.raises(ActionError, match="not finite"):
        envs.step(np.full_like(hold, np.nan))
    for wrong, match in ((hold[:, None] * np.nan, "not finite"), (hold[:, None] * 1j, "complex"), (hold, "shape")):
        with pytest.raises(ActionError, match=match):
            envs.evaluate_candidates(wrong)
    for _ in range(envs.max_chunks):
        *_, terminated, truncated, _ = envs.step(hold)
    assert (terminated | truncated).all()
    with pytest.raises(RiseError, match="have ended"):
        envs.step(hold)
