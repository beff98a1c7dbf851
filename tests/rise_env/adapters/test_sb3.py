"""SB3VecEnv: Stable-Baselines3's own algorithms learn on our environments."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage

import rise_env  # noqa: F401  (registers the ids)
from rise_env.adapters import SB3VecEnv
from rise_env.errors import ConfigError, RiseError
from rise_env.testing import counting_envs


def make(count: int = 3, **kwargs) -> SB3VecEnv:
    return SB3VecEnv(counting_envs(count, autoreset_mode="same_step", **kwargs))


def middle(envs: SB3VecEnv) -> np.ndarray:
    space = envs.action_space
    return np.stack([(space.low + space.high) / 2] * envs.num_envs)


@pytest.mark.parametrize("view", [lambda envs: envs, VecTransposeImage])
def test_ppo_learns(view: Callable[[SB3VecEnv], VecEnv]) -> None:
    envs = view(make(4))
    model = PPO("MultiInputPolicy", envs, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu",
                policy_kwargs={"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}})  # fmt: skip
    model.learn(64)
    assert len(model.ep_info_buffer) > 8
    assert len(model.ep_success_buffer) > 8
    assert {info["l"] for info in model.ep_info_buffer} <= {1, 2}
    action, _ = model.predict(envs.reset())
    assert action.shape == (4, 8, 3)
    envs.close()


def test_evaluation_and_normalisation_find_what_they_expect() -> None:
    envs = make(2)
    assert envs.env_is_wrapped(Monitor) == [True, True]
    assert envs.env_is_wrapped(gymnasium.wrappers.TimeLimit, indices=0) == [False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SB3 warns where it believes that nobody has counted rewards
        rewards, lengths = evaluate_policy(_Middle(envs), envs, n_eval_episodes=4, return_episode_rewards=True)
    assert len(rewards) == 4
    assert set(lengths) <= {1, 2}
    before = copy.deepcopy(envs.envs.single_observation_space)
    VecNormalize(envs)
    assert envs.observation_space == envs.envs.single_observation_space == before
    chosen = VecNormalize(envs, norm_obs_keys=["state"])
    assert chosen.observation_space["image_head"] == before["image_head"]
    envs.close()


class _Middle:
    """What `evaluate_policy` asks of an algorithm."""

    def __init__(self, envs: SB3VecEnv) -> None:
        self.envs = envs

    def predict(self, *_: object, state: object = None, **__: object) -> tuple[np.ndarray, object]:
        return middle(self.envs), state


def test_steps_and_infos() -> None:
    envs = make()
    assert isinstance(envs, VecEnv)
    envs.seed(0)
    first = envs.reset()
    assert [info["state_source"] for info in envs.reset_infos] == ["dataset"] * 3
    one = envs.step(middle(envs))
    kept = {key: value.copy() for key, value in one[0].items()}
    observation, rewards, dones, infos = envs.step(middle(envs))
    assert rewards.dtype == np.float32
    assert rewards.flags.writeable
    assert dones.all()
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"] is True
        assert info["is_success"] is False
        assert info["episode"]["l"] == 2
        assert info["episode"]["r"] == pytest.approx(one[1][i] + rewards[i], abs=1e-5)
        assert info["state_source"] == "imagined"
        final = info["terminal_observation"]
        assert envs.observation_space.contains(final)
        start = first["image_head"][i, 0, 0, 0]
        assert final["image_head"][0, 0, 0] == start + 16
        assert observation["image_head"][i, 0, 0, 0] == envs.reset_infos[i]["frame_index"]
        assert "final_info" not in info
    for key, value in kept.items():
        np.testing.assert_array_equal(one[0][key], value)
    assert not {"episode", "terminal_observation", "TimeLimit.truncated"} & set(one[3][0])


def test_success_is_no_time_limit() -> None:
    envs = make(success_threshold=0.0, max_chunks=1)
    envs.reset()
    infos = envs.step(middle(envs))[3]
    assert all(info["is_success"] and info["TimeLimit.truncated"] is False for info in infos)


def test_seeds_and_options_count_once() -> None:
    envs = make()
    envs.seed(7)
    envs.set_options({"episode_index": 1})
    first = envs.reset()
    assert {info["episode_index"] for info in envs.reset_infos} == {1}
    envs.seed(7)
    envs.set_options([{"episode_index": 1}, {"episode_index": 1}, {"episode_index": 0}])
    second = envs.reset()
    assert [info["episode_index"] for info in envs.reset_infos] == [1, 1, 0]
    np.testing.assert_array_equal(first["image_head"][:2], second["image_head"][:2])
    episodes = set()
    for _ in range(8):
        envs.reset()
        episodes |= {info["episode_index"] for info in envs.reset_infos}
    assert episodes == {0, 1}
    envs.set_options([{"split": "train"}, {"split": "heldout"}, {}])
    with pytest.raises(ConfigError, match="'split' differs"):
        envs.reset()


def test_attributes_methods_and_pictures() -> None:
    envs = make(render_mode="rgb_array")
    assert envs.render_mode == "rgb_array"
    assert envs.get_attr("max_chunks", indices=[0, 2]) == [2, 2]
    envs.set_attr("max_chunks", 1)
    assert envs.get_attr("max_chunks", indices=1) == [1]
    with pytest.raises(ConfigError, match="shared"):
        envs.set_attr("max_chunks", 5, indices=[0])
    assert not envs.has_attr("nothing")
    envs.reset()
    assert len(envs.env_method("film", indices=[1, 2])) == 2
    images = envs.get_images()
    assert len(images) == 3
    assert envs.render("rgb_array").ndim == 3
    with pytest.raises(RiseError, match="step_async"):
        envs.step_wait()


def test_channels_first() -> None:
    envs = VecTransposeImage(make())
    assert envs.observation_space["image_head"].shape == (3, 36, 40)
    envs.seed(0)
    observation = envs.reset()
    assert observation["image_head"].shape == (3, 3, 36, 40)
    envs.step(middle(envs))
    final = envs.step(middle(envs))[3][0]["terminal_observation"]
    assert envs.observation_space.contains(final)


def test_wrong_environments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"autoreset_mode=\"same_step\", not"):
        SB3VecEnv(counting_envs(2))
    with pytest.raises(ConfigError, match='output="numpy"'):
        SB3VecEnv(counting_envs(2, autoreset_mode="same_step", output="torch"))


def test_through_wrappers_and_other_environments() -> None:
    from gymnasium.wrappers.vector import RecordEpisodeStatistics

    envs = SB3VecEnv(RecordEpisodeStatistics(counting_envs(2, autoreset_mode="same_step")))
    envs.reset()
    envs.step(middle(envs))
    assert envs.step(middle(envs))[3][0]["episode"]["l"] == 2
    plain = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync",
                               vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP})  # fmt: skip
    model = PPO("MlpPolicy", SB3VecEnv(plain), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    model.learn(64)
    assert isinstance(model.observation_space, spaces.Box)


@pytest.mark.slow
def test_on_the_work_cell() -> None:
    cells = gymnasium.make_vec("RISE-BrickSorting-Cell-v0", num_envs=2, num_workers=0, preset="tiny",
                               autoreset_mode="same_step", overrides=["task.max_seconds=0.8"])  # fmt: skip
    envs = SB3VecEnv(cells)
    model = PPO("MultiInputPolicy", envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu",
                policy_kwargs={"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 8}})  # fmt: skip
    model.learn(8)
    assert model.ep_info_buffer[0]["l"] == 2
    envs.close()
