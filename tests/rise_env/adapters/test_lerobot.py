"""LeRobotView: what lerobot-eval asks of an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rise_env.adapters import LeRobotView
from rise_env.errors import ActionError, ConfigError
from rise_env.testing import counting_envs, counting_spec

SPEC = counting_spec()
MIDDLE = ((SPEC.layout.low + SPEC.layout.high) / 2).astype(np.float32)


def test_a_rollout_as_lerobot_does_it() -> None:
    envs = LeRobotView(counting_envs(2, autoreset_mode="same_step", render_mode="rgb_array"))
    observation, _ = envs.reset(seed=[0, 1], options={"lerobot_new_rollout": True})
    assert envs.observation_space.contains(observation)
    assert set(observation["pixels"]) == {"head", "wrist"}
    assert list(envs.call("task_description")) == list(envs.call("task")) == [SPEC.prompt] * 2
    assert envs.call("_max_episode_steps")[0] == 16
    assert envs.unwrapped.metadata["render_fps"] == SPEC.fps
    assert len(envs.call("render")) == 2
    start = observation["pixels"]["head"][:, 0, 0, 0].astype(int)
    actions = np.broadcast_to(MIDDLE, (2, 3))
    for step in range(1, 17):
        observation, rewards, terminated, truncated, infos = envs.step(actions)
        assert envs.observation_space.contains(observation)
        assert bool(rewards.any()) == (step % 8 == 0)
        assert truncated.all() == (step == 16)
        assert not terminated.any()
        if step < 16:
            assert (observation["pixels"]["head"][:, 0, 0, 0] == start + 8 * (step // 8)).all()
    assert infos["final_info"]["is_success"].tolist() == [False, False]
    assert (infos["final_obs"][0]["pixels"]["head"][0, 0, 0]) == start[0] + 16
    envs.close()


def test_a_finished_environment_stays_finished_until_the_next_rollout() -> None:
    inner = counting_envs(2, autoreset_mode="same_step", max_chunks=9)
    outcomes = iter([[True, False], [True, True]])  # the first one's second success is of another episode

    def step(actions: np.ndarray) -> Any:
        observation, rewards, _, _, infos = inner_step(actions)
        success = np.array(next(outcomes))
        infos |= {"final_info": {"is_success": success, "_is_success": success}, "_final_info": success}
        infos |= {"final_obs": np.array([{key: value[i] for key, value in observation.items()} for i in range(2)])}
        infos |= {"_final_obs": success, "is_success": success}
        return observation, rewards + 1, success, np.zeros(2, bool), infos

    inner_step, inner.step = inner.step, step
    envs = LeRobotView(inner, actions_per_step=1)
    actions = np.broadcast_to(MIDDLE, (2, 3))
    envs.reset(seed=[0, 1], options={"lerobot_new_rollout": True})
    first, _, terminated, _, infos = envs.step(actions)
    assert terminated.tolist() == infos["final_info"]["is_success"].tolist() == [True, False]
    second, rewards, terminated, _, infos = envs.step(actions)
    assert terminated.tolist() == [True, True]
    assert infos["final_info"]["is_success"].tolist() == infos["is_success"].tolist() == [False, True]
    assert infos["_final_info"].tolist() == [False, True]
    assert rewards[0] == 0
    assert rewards[1] >= 1
    np.testing.assert_array_equal(second["pixels"]["head"][0], first["pixels"]["head"][0])
    outcomes = iter([[False, False], [True, False]])
    _, _, terminated, _, _ = (envs.reset(options={"lerobot_new_rollout": True}), envs.step(actions))[1]
    assert not terminated.any()
    outcomes = iter([[True, False], [True, False]])
    envs.reset()  # without LeRobot's option episodes follow each other
    assert [envs.step(actions)[4]["final_info"]["is_success"].tolist() for _ in range(2)] == [[True, False]] * 2


def test_the_chunk_is_what_was_given() -> None:
    inner = counting_envs(1, autoreset_mode="same_step", max_chunks=9)
    taken: list[np.ndarray] = []
    step = inner.step
    inner.step = lambda actions: taken.append(actions.copy()) or step(actions)
    envs = LeRobotView(inner, actions_per_step=3)
    envs.reset(seed=0)
    rows = (MIDDLE + np.arange(3)[:, None, None] * 0.01).astype(np.float32)
    for row in rows:
        envs.step(row)
    np.testing.assert_array_equal(taken[0][0], np.concatenate([rows[:, 0], np.repeat(rows[2], 5, 0)]))


def test_misuse() -> None:
    with pytest.raises(ConfigError, match="same_step"):
        LeRobotView(counting_envs(1))
    with pytest.raises(ConfigError, match="actions_per_step is 9"):
        LeRobotView(counting_envs(1, autoreset_mode="same_step"), actions_per_step=9)
    envs = LeRobotView(counting_envs(1, autoreset_mode="same_step"))
    envs.reset(seed=0)
    with pytest.raises(ActionError, match="shape"):
        envs.step(np.zeros((1, 8, 3)))
    with pytest.raises(ActionError, match="finite"):
        envs.step(np.full((1, 3), np.nan))
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True])})
