"""LeRobotView: what lerobot-eval asks of an environment."""

from __future__ import annotations

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
