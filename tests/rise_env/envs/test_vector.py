"""The imagination environment on a world model that counts frames: every number can be foretold."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import rise_env  # noqa: F401  (registers the ids)
from rise_env.checks import check_vector_env
from rise_env.envs.single import ImaginationEnv
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ActionError, ConfigError, RiseError
from rise_env.testing import (
    FrameCountingDynamics,
    LinearValue,
    counting_envs,
    counting_spec,
    counting_starts,
    counting_world_model,
)
from rise_env.world_model import CompositionalWorldModel

SPEC = counting_spec()
MIDDLE = np.broadcast_to((SPEC.layout.low + SPEC.layout.high) / 2, (SPEC.chunk, SPEC.layout.dim)).astype(np.float32)
MODES = ("next_step", "same_step", "disabled")


def middle(count: int) -> np.ndarray:
    return np.broadcast_to(MIDDLE, (count, *MIDDLE.shape)).copy()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of start states and of a world model on disk, as keyword arguments."""
    folder = tmp_path_factory.mktemp("saved")
    counting_starts().save(folder / "starts")
    counting_world_model(doubt=0.5).save_pretrained(folder / "model")
    return {"starts": str(folder / "starts"), "world_model": str(folder / "model")}


# ---------------------------------------------------------------------- Gymnasium's contract


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reads_latents", [False, True])
def test_check_vector_env(mode: str, reads_latents: bool) -> None:
    world_model = counting_world_model(doubt=0.5, reads_latents=reads_latents, uncertainty="noise")
    starts = counting_starts()

    def make(num_envs: int = 3, **kwargs: object) -> ImaginationVectorEnv:
        return counting_envs(num_envs, world_model=world_model, starts=starts, **kwargs)

    report = check_vector_env(make(autoreset_mode=mode), make)
    assert set(report.skipped) == {"spec"}


def test_check_registered(saved: dict[str, str]) -> None:
    envs = gymnasium.make_vec("RISE-Imagination-v0", num_envs=2, autoreset_mode="same_step", max_chunks=3, **saved)
    assert not check_vector_env(envs).skipped
    envs.close()


def test_single_environment(saved: dict[str, str]) -> None:
    env = gymnasium.make("RISE-Imagination-v0", render_mode="rgb_array", **saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity.*")  # a state may overshoot the joint limits
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")  # actions are physical units
        check_env(env.unwrapped)
    copied = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    batch = counting_envs(1, world_model=counting_world_model(doubt=0.5), autoreset_mode="disabled")
    observation, info = copied.reset(seed=np.int64(5), options={"episode_index": 1})
    (many, infos), action = batch.reset(seed=5, options={"episode_index": 1}), copied.action_space.sample()
    assert info["episode_index"] == 1
    for _ in range(2):
        for key, value in observation.items():
            np.testing.assert_array_equal(value, many[key][0])
        assert all(infos[key][0] == value for key, value in info.items())
        observation, reward, *ends, info = copied.step(action)
        many, rewards, terminated, truncated, infos = batch.step(action[None])
        assert (reward, *ends) == (rewards[0], terminated[0], truncated[0])
    assert ends == [False, True]
    with pytest.raises(RiseError, match="reset them first"):
        copied.step(action)
    for name in ("num_envs", "autoreset_mode"):
        with pytest.raises(ConfigError, match="make_vec"):
            ImaginationEnv(**{name: 1})
    env.close()
    copied.close()


# ---------------------------------------------------------------------- what is imagined


@pytest.mark.parametrize("reads_latents", [False, True])
def test_history_rises_by_the_stride_over_chunks(reads_latents: bool) -> None:
    """The official release hands over imagined history newest first and re-strided (FIELD.md B4)."""
    world_model = counting_world_model(reads_latents=reads_latents)
    envs = counting_envs(2, world_model=world_model, max_chunks=3)
    observation, infos = envs.reset(seed=1)
    seen = world_model.dynamics.seen
    for chunk in range(3):
        current = infos["frame_index"] + chunk * SPEC.chunk
        assert (observation["image_head"][:, 0, 0, 0] == current).all()
        observation = envs.step(middle(2))[0]
        expected = current[:, None] + np.arange(-SPEC.history + 1, 1) * SPEC.stride
        np.testing.assert_array_equal(seen[-1][:, :, 0].numpy(), expected)
    assert (observation["image_wrist"][:, 0, 0, 0] == infos["frame_index"] + 24).all()


def test_numbers_by_hand() -> None:
    world_model = counting_world_model(reads_latents=True, gain=0.0625)
    envs = counting_envs(1, world_model=world_model, max_chunks=9, success_threshold=0.7)
    observation, infos = envs.reset(seed=0, options={"start_index": 0})
    start = np.float32(25 / 255)
    assert infos["value"] == infos["progress"] == start
    assert "advantage" not in infos
    assert infos["state_source"][0] == "dataset"
    values, ends = [], []
    for chunk in range(1, 4):
        observation, rewards, terminated, truncated, infos = envs.step(middle(1))
        # Progress rises by 1/16 with each of 4 frames: mean (1 + 2 + 3 + 4) / 4 / 16.
        np.testing.assert_allclose(rewards, 0.15625, rtol=1e-5)
        np.testing.assert_array_equal(rewards, infos["advantage"])
        assert infos["imagined_chunks"] == chunk
        values.append(float(infos["value"][0]))
        ends.append((bool(terminated[0]), bool(truncated[0]), bool(infos["is_success"][0])))
    np.testing.assert_allclose(values, start + np.array([0.25, 0.5, 0.75]), rtol=1e-5)
    assert ends == [(False, False, False), (False, False, False), (True, False, True)]
    assert infos["reward_backend"][0] == "LinearValue"
    assert infos["task"][0] == SPEC.prompt
    np.testing.assert_array_equal(observation["state"][0], MIDDLE[-1])


@pytest.mark.parametrize(("mode", "expected"), [("mean", 0.15625), ("last", 0.25), ("tail", 0.1875 - 0.09375)])
def test_advantage_modes(mode: str, expected: float) -> None:
    envs = counting_envs(2, advantage=mode, world_model=counting_world_model(reads_latents=True))
    envs.reset(seed=0)
    np.testing.assert_allclose(envs.step(middle(2))[1], expected, atol=1e-6)


def test_predicted_states_go_first() -> None:
    dynamics = FrameCountingDynamics(SPEC, predicts_states=True)
    envs = counting_envs(1, world_model=CompositionalWorldModel(dynamics, LinearValue(), SPEC))
    envs.reset(seed=0)
    high = np.broadcast_to(SPEC.layout.high, (1, 8, 3))
    observation = envs.step(high)[0]
    np.testing.assert_allclose(observation["state"][0], (SPEC.layout.high + MIDDLE[-1]) / 2)


def test_truncation_and_penalty_by_uncertainty() -> None:
    world_model, starts = counting_world_model(doubt=0.5, reads_latents=True), counting_starts()
    make = {"world_model": world_model, "starts": starts, "autoreset_mode": "disabled", "max_chunks": 5}
    free = counting_envs(8, **make)
    free.reset(seed=0)
    _, rewards, _, truncated, infos = free.step(middle(8))
    assert not truncated.any()
    limit = float(np.median(infos["uncertainty"]))
    bound = counting_envs(8, uncertainty_limit=limit, uncertainty_penalty=2.0, **make)
    bound.reset(seed=0)
    _, paid, _, truncated, again = bound.step(middle(8))
    np.testing.assert_array_equal(again["uncertainty"], infos["uncertainty"])
    np.testing.assert_array_equal(truncated, infos["uncertainty"] > limit)
    assert 0 < truncated.sum() < 8
    np.testing.assert_array_equal(again["advantage"], rewards)
    np.testing.assert_allclose(paid, rewards - 2 * infos["uncertainty"], rtol=1e-6)


def test_success_is_no_truncation() -> None:
    envs = counting_envs(2, max_chunks=1, success_threshold=0.0)
    envs.reset(seed=0)
    _, _, terminated, truncated, _ = envs.step(middle(2))
    assert terminated.all()
    assert not truncated.any()


# ---------------------------------------------------------------------- actions


def test_actions() -> None:
    envs = counting_envs(2)
    with pytest.raises(RiseError, match="reset"):
        envs.step(middle(2))
    envs.reset(seed=0)
    before = copy.deepcopy(envs.render_mode), [generator.get_state() for generator in envs._batch.noise]
    for wrong in (MIDDLE, middle(3), middle(2)[:, :4], np.zeros((2, 8, 3), str)):
        with pytest.raises(ActionError):
            envs.step(wrong)
    for value in (np.nan, np.inf):
        wrong = middle(2)
        wrong[1, 3, 2] = value
        with pytest.raises(ActionError, match=r"environments \[1\] are not finite"):
            envs.step(wrong)
    assert all(torch.equal(a, b.get_state()) for a, b in zip(before[1], envs._batch.noise, strict=True))
    beyond = middle(2).astype(np.float64)
    beyond[1, -1] = [5, -5, 0.1]
    given = beyond.copy()
    observation, *_, infos = envs.step(beyond)
    np.testing.assert_array_equal(infos["clamped"], [0, 2])
    np.testing.assert_allclose(observation["state"][1], [1, -2, 0.1])
    np.testing.assert_array_equal(beyond, given)


def test_actions_of_an_autoreset_do_not_matter() -> None:
    envs = counting_envs(2, max_chunks=1)
    envs.reset(seed=0)
    assert envs.step(middle(2))[3].all()
    _, rewards, terminated, truncated, infos = envs.step(np.full((2, 8, 3), np.nan))
    assert not rewards.any()
    assert not (terminated | truncated).any()
    assert set(infos["state_source"]) == {"dataset"}
    assert "advantage" not in infos


# ---------------------------------------------------------------------- resets


def test_reset_options() -> None:
    envs = counting_envs(4)
    options = {"episode_index": [0, 1, None, 0], "split": "train", "lerobot_new_rollout": True}
    given = copy.deepcopy(options)
    _, infos = envs.reset(seed=0, options=options)
    assert options == given
    assert infos["episode_index"][[0, 1, 3]].tolist() == [0, 1, 0]
    assert set(envs.reset(options={"split": "heldout"})[1]["episode_index"]) == {2}
    assert set(envs.reset(options={"split": None, "frame_index": 64})[1]["episode_index"]) == {2}
    for seed in range(5):  # who asks for an episode gets it; the others keep to their split
        chosen = envs.reset(seed=seed, options={"episode_index": [2, None, None, 0]})[1]["episode_index"]
        assert (chosen[0], chosen[3]) == (2, 0)
        assert 2 not in chosen[1:3]
    _, infos = envs.reset(seed=3, options={"group_size": 2})
    index = infos["frame_index"]
    assert (index[0], index[2]) == (index[1], index[3])
    _, rewards, *_ = envs.step(middle(4))
    assert rewards[0] == rewards[1]
    for wrong, message in [
        ({"episode_index": 9}, "episode_index 9"),
        ({"episode_index": [0, 1]}, "2 entries for 4"),
        ({"split": "test"}, "split 'test'"),
        ({"reset_mask": np.zeros(4, bool)}, "at least one True"),
        ({"reset_mask": np.ones(4, int)}, "must be bool"),
    ]:
        with pytest.raises(ConfigError, match=message):
            envs.reset(options=wrong)
    with pytest.raises(ConfigError, match="3 seeds for 4"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="first reset"):
        counting_envs(2).reset(options={"reset_mask": np.array([True, False])})


def test_groups_differ_in_noise_only() -> None:
    envs = counting_envs(4, group_size=4, autoreset_mode="disabled")
    for seed in (0, None):
        observation, infos = envs.reset(seed=seed)
        assert len(set(infos["frame_index"])) == 1
        assert (observation["image_head"] == observation["image_head"][0]).all()
        blue = envs.step(middle(4))[0]["image_head"][:, 0, 0, 2]
        assert len(set(blue.tolist())) > 1


def test_seeds() -> None:
    envs = counting_envs(8)
    first = envs.reset(seed=0)[1]["frame_index"]
    assert (envs.reset(seed=list(range(8)))[1]["frame_index"] == first).all()
    following = envs.reset()[1]["frame_index"]
    assert (following != first).any()
    envs.reset(seed=0)
    assert (envs.reset()[1]["frame_index"] == following).all()
    other = counting_envs(8)
    assert (other.reset()[1]["frame_index"] != counting_envs(8).reset()[1]["frame_index"]).any()
    only = envs.reset(seed=[None] * 7 + [7])[1]["frame_index"]
    assert only[7] == first[7]


def test_recorded_actions() -> None:
    envs = counting_envs(2, autoreset_mode="disabled")
    envs.reset(seed=0)
    chunks, mask = envs.recorded_actions()
    assert mask.all()
    np.testing.assert_array_equal(chunks, middle(2))
    envs.step(middle(2))
    envs.reset(options={"reset_mask": np.array([False, True])})
    chunks, mask = envs.recorded_actions()
    assert mask.tolist() == [False, True]
    assert np.isnan(chunks[0]).all()


# ---------------------------------------------------------------------- real arithmetic


class MatrixValue(LinearValue):
    """Multiplies matrices, as networks do: the last bits depend on the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._weights = [torch.randn(n, 256, generator=generator) / n**0.5 for n in (36 * 40 * 3, 256, 256)]

    def estimate(self, frames, prompts):
        estimate = super().estimate(frames, prompts)
        x = frames[:, :, 0].flatten(0, 1).flatten(1).float() / 255
        for weights in self._weights:
            x = torch.tanh(x @ weights)
        value = estimate.value + 0.01 * x.mean(-1).unflatten(0, frames.shape[:2])
        return type(estimate)(value, estimate.spread)


@pytest.mark.parametrize("max_batch", [None, 1])
def test_alone_as_in_a_batch_with_networks(max_batch: int | None) -> None:
    """To a tolerance with the whole batch in one call; bit for bit with max_batch=1."""
    world_model = CompositionalWorldModel(FrameCountingDynamics(SPEC), MatrixValue(), SPEC, max_batch=max_batch)
    batch = counting_envs(5, world_model=world_model)
    batch.reset(seed=0)
    together = np.stack([batch.step(middle(5))[1] for _ in range(2)])
    for i in range(5):
        single = counting_envs(1, world_model=world_model)
        single.reset(seed=i)
        alone = np.stack([single.step(middle(1))[1][0] for _ in range(2)])
        if max_batch == 1:
            np.testing.assert_array_equal(alone, together[:, i])
        else:
            np.testing.assert_allclose(alone, together[:, i], atol=1e-5)


def test_values_that_are_not_finite_are_an_error() -> None:
    envs = counting_envs(2, world_model=CompositionalWorldModel(FrameCountingDynamics(SPEC), LinearValue(), SPEC))
    envs.reset(seed=0)
    envs.world_model.value.scale = float("nan")
    with pytest.raises(RiseError, match=r"not finite.*\[0, 1\]"):
        envs.step(middle(2))


# ---------------------------------------------------------------------- output, pictures, attributes


@pytest.mark.parametrize("mode", MODES)
def test_torch_output_has_the_same_numbers(mode: str) -> None:
    arrays, tensors = (counting_envs(3, autoreset_mode=mode, output=output) for output in ("numpy", "torch"))
    ours, theirs = arrays.reset(seed=2)[0], tensors.reset(seed=2)[0]
    for step in range(4):
        for key, value in ours.items():
            assert isinstance(theirs[key], torch.Tensor)
            np.testing.assert_array_equal(value, theirs[key].numpy())
        if mode == "disabled" and step == 2:
            break
        ours, *others, infos = arrays.step(middle(3))
        theirs, *tensor_others, tensor_infos = tensors.step(torch.from_numpy(middle(3)))
        for one, other in zip(others, tensor_others, strict=True):
            np.testing.assert_array_equal(one, other.numpy())
            assert one.dtype == other.numpy().dtype
        np.testing.assert_array_equal(infos["value"], tensor_infos["value"])
        if "final_obs" in infos:
            np.testing.assert_array_equal(infos["final_obs"][0]["state"], tensor_infos["final_obs"][0]["state"].numpy())
    if mode != "disabled":
        kept = theirs["state"].clone()
        tensors.step(torch.zeros(3, 8, 3))
        assert torch.equal(kept, theirs["state"])


def test_pictures() -> None:
    envs = counting_envs(2, render_mode="rgb_array", autoreset_mode="same_step")
    with pytest.raises(RiseError, match="reset"):
        envs.render()
    envs.reset(seed=0)
    first = envs.render()
    envs.step(middle(2))
    second = envs.render()
    assert {picture.shape for picture in (*first, *second)} == {first[0].shape}
    assert first[0].shape[0] % 2 == 0
    assert first[0].shape[1] >= 2 * 160
    assert (first[0] != second[0]).any()
    envs.step(middle(2))  # ends both episodes; the film still shows how
    films = envs.film()
    assert [len(film) for film in films] == [4, 4]
    assert counting_envs(1).render() is None
    with pytest.raises(RiseError, match="rgb_array"):
        counting_envs(1).film()


def test_attributes() -> None:
    envs = counting_envs(2)
    assert envs.get_attr("max_chunks") == (2, 2)
    envs.reset(seed=0)
    assert [mask.tolist() for _, mask in envs.call("recorded_actions")] == [[True, True]] * 2
    assert envs.call("render") == (None, None)
    envs.set_attr("success_threshold", 0.5)
    envs.set_attr("max_chunks", [3, 3])
    assert envs.get_attr("success_threshold") == (0.5, 0.5)
    with pytest.raises(ConfigError, match="shared by all 2"):
        envs.set_attr("max_chunks", [3, 4])
    with pytest.raises(AttributeError):
        envs.get_attr("nothing")
    envs.close()
    with pytest.raises(RiseError):
        envs.step(middle(2))


def test_wrong_arguments_are_named() -> None:
    for change, message in [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"max_chunks": 0}, "max_chunks is 0"),
        ({"max_chunks": math.nan}, "max_chunks is nan, expected a whole number from 1"),
        ({"max_chunks": math.inf}, "max_chunks is inf"),
        ({"num_envs": "2"}, "num_envs is '2'"),
        ({"max_batch": 0.5}, "max_batch is 0.5"),
        ({"group_size": True}, "group_size is True"),
        ({"success_threshold": math.nan}, "success_threshold is nan"),
        ({"uncertainty_limit": math.nan}, "uncertainty_limit is nan"),
        ({"uncertainty_penalty": math.nan}, "uncertainty_penalty is nan"),
        ({"observation_lags": 2}, "observation_lags 2: expected whole numbers"),
        ({"observation_lags": [math.nan]}, "expected whole numbers"),
        ({"advantage": "median"}, "advantage mode 'median'"),
        ({"output": "jax"}, "output 'jax'"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
        ({"split": "test"}, "split 'test'"),
        ({"uncertainty": "entropy"}, "uncertainty 'entropy'"),
        ({"uncertainty_penalty": -1.0}, "uncertainty_penalty is -1.0"),
        ({"autoreset_mode": "never"}, "autoreset_mode 'never'"),
        ({"starts": counting_starts(counting_spec(stride=4))}, "stride"),
        ({"starts": "/nowhere"}, "no start states at /nowhere"),
        ({"world_model": "/nowhere"}, "no world model"),
    ]:
        with pytest.raises(RiseError, match=message):
            counting_envs(**change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1, expected a whole number from 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": "0"}, "seed is '0'"),
        ({"seed": [0, -1]}, r"seed\[1\] is -1"),
        ({"seed": [0, math.nan]}, r"seed\[1\] is nan"),
        ({"options": "all"}, "options are 'all', expected a dict"),
        ({"options": [1]}, r"options are \[1\]"),
        ({"options": {"episode_index": "first"}}, "option episode_index is 'first'"),
        ({"options": {"episode_index": 1.5}}, "option episode_index is 1.5"),
        ({"options": {"start_index": [0, -2]}}, "option start_index is -2"),
        ({"options": {"frame_index": math.nan}}, "option frame_index is nan"),
        ({"options": {"split": 3}}, "option split is 3, expected one of train, heldout"),
        ({"options": {"group_size": "2"}}, "group_size is '2'"),
        ({"options": {"group_size": 0}}, "group_size is 0"),
        ({"options": {"reset_mask": [[True], [True, False]]}}, "reset_mask must be bool"),
    ],
)
def test_wrong_seeds_and_options_are_named_and_start_nothing(arguments: dict[str, Any], message: str) -> None:
    envs = counting_envs(2)
    envs.reset(seed=0)
    before = [generator.bit_generator.state for generator in envs._batch.generators]
    with pytest.raises(ConfigError, match=message):
        envs.reset(**arguments)
    assert [generator.bit_generator.state for generator in envs._batch.generators] == before
    many = {"reset_mask", "group_size", "start_index"} & set(arguments.get("options", ()))
    if not isinstance(arguments.get("seed"), list) and not many:
        with pytest.raises(ConfigError, match=message):
            ImaginationEnv(starts=counting_starts(), world_model=counting_world_model()).reset(**arguments)


def test_arguments_are_json(saved: dict[str, str]) -> None:
    keywords = {"max_chunks": 3, "advantage": "last", "uncertainty": "noise", "uncertainty_limit": 0.5, "group_size": 2,
                "split": None, "max_batch": 1, "device": "cpu", "autoreset_mode": "disabled"}  # fmt: skip
    first = gymnasium.make_vec("RISE-Imagination-v0", num_envs=2, **keywords, **saved)
    second = gymnasium.make_vec(EnvSpec.from_json(first.spec.to_json()))
    for name in ("max_chunks", "uncertainty_limit", "group_size", "split", "advantage_mode"):
        assert getattr(first, name) == getattr(second, name)
    assert second.world_model.uncertainty == "noise"
    first.close()
    second.close()


@pytest.mark.slow
def test_from_a_recorded_dataset(real_dataset: Path, tmp_path: Path) -> None:
    """One camera, 26 joints: nothing is hard-wired."""
    from rise_env.data import open_dataset

    spec = open_dataset(real_dataset).spec
    counting_world_model(spec).save_pretrained(tmp_path / "model")
    envs = gymnasium.make_vec(
        "RISE-Imagination-v0", num_envs=2, dataset=str(real_dataset), world_model=str(tmp_path / "model")
    )
    observation, _ = envs.reset(seed=0)
    assert observation["state"].shape == (2, spec.layout.dim)
    assert np.isfinite(envs.step(envs.action_space.sample())[1]).all()
    envs.close()


# ---------------------------------------------------------------------- the past


@pytest.mark.parametrize("predicts_states", [False, True])
def test_lagged_observations_come_from_the_history_and_then_from_imagination(predicts_states: bool) -> None:
    dynamics = FrameCountingDynamics(SPEC, predicts_states=predicts_states)
    world_model = CompositionalWorldModel(dynamics, LinearValue(), SPEC)
    envs = counting_envs(3, world_model=world_model, observation_lags=[2, 6], autoreset_mode="disabled")
    observations, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(observations)
    history = envs.starts.batch(envs._batch.start_rows)
    for key, place in (("", 3), ("_lag2", 2), ("_lag6", 0)):
        np.testing.assert_array_equal(observations[f"image_wrist{key}"], history.frames[:, place, 1])
        np.testing.assert_array_equal(observations[f"state{key}"], history.states[:, place])
    now = observations["image_head"][:, 0, 0, 0].astype(int)
    actions = envs.action_space.sample()
    observations = envs.step(actions)[0]
    for key, lag in (("", 0), ("_lag2", 2), ("_lag6", 6)):
        np.testing.assert_array_equal(observations[f"image_head{key}"][:, 0, 0, 0], (now + SPEC.chunk - lag) % 256)
        commanded = actions[:, SPEC.chunk - 1 - lag]
        expected = (commanded + MIDDLE[0]) / 2 if predicts_states else commanded
        np.testing.assert_allclose(observations[f"state{key}"], expected, atol=1e-6)
    envs.close()


def test_lagged_observations_keep_the_contract() -> None:
    def make(num_envs: int = 3, **kwargs: object) -> ImaginationVectorEnv:
        return counting_envs(num_envs, observation_lags=[2], **kwargs)

    report = check_vector_env(make(), make)
    assert set(report.skipped) == {"spec"}
    with pytest.raises(ConfigError, match=r"observation_lags \[3\]"):
        counting_envs(observation_lags=[3])


# ---------------------------------------------------------------------- foreseeing


def test_foreseeing_is_stepping_without_going_on() -> None:
    world_model = counting_world_model(doubt=0.5)
    envs, twin = (counting_envs(3, world_model=world_model, autoreset_mode="disabled") for _ in range(2))
    chunks = np.random.default_rng(0).uniform(SPEC.layout.low, SPEC.layout.high, (3, 2, SPEC.chunk, 3))
    for seed in (0, 1):
        envs.reset(seed=seed)
        twin.reset(seed=seed)
        if seed:  # from an imagined state as well
            envs.step(middle(3))
            twin.step(middle(3))
        before = envs.render_mode, envs._batch.frames.clone(), [g.get_state() for g in envs._batch.noise]
        found = envs.evaluate_candidates(chunks)
        assert found.advantage.shape == found.uncertainty.shape == (3, 2)
        assert torch.equal(before[1], envs._batch.frames)
        assert all(torch.equal(a, b.get_state()) for a, b in zip(before[2], envs._batch.noise, strict=True))
        for member in (1, 0):
            alone = counting_envs(3, world_model=world_model, autoreset_mode="disabled", max_chunks=3)
            alone.reset(seed=seed)
            if seed:
                alone.step(middle(3))
            _, rewards, *_, infos = alone.step(chunks[:, member])
            np.testing.assert_allclose(found.advantage[:, member], rewards, rtol=0, atol=1e-6)
            np.testing.assert_allclose(found.uncertainty[:, member], infos["uncertainty"], rtol=0, atol=1e-6)
        for mine, theirs in zip(envs.step(chunks[:, 0])[:4], twin.step(chunks[:, 0])[:4], strict=True):
            if not isinstance(mine, dict):
                np.testing.assert_array_equal(mine, theirs)


def test_looking_ahead_is_stepping_on_with_whoever_goes_on() -> None:
    """The advantage of the last chunk, against the value at the start; nobody has moved."""
    world_model = counting_world_model(doubt=0.5)
    envs, alone = (
        counting_envs(3, world_model=world_model, autoreset_mode="disabled", max_chunks=3, observation_lags=[2])
        for _ in range(2)
    )
    chunks = np.random.default_rng(0).uniform(SPEC.layout.low, SPEC.layout.high, (3, 2, SPEC.chunk, 3))
    seen: list[dict[str, np.ndarray]] = []

    def go_on(observations: Any) -> np.ndarray:
        seen.append(observations)
        return np.repeat(observations["state"][:, None] * 0.9, SPEC.chunk, axis=1)

    envs.reset(seed=5)
    found = envs.evaluate_candidates(chunks, go_on, lookahead=2)
    assert len(seen) == 2 * 2
    for member in (0, 1):
        _, start = alone.reset(seed=5)
        observations, *_ = alone.step(chunks[:, member])
        middle_, *_ = alone.step(go_on(observations))
        before = alone.call("_episodes")[0].progress.copy()
        _, reward, *_ = alone.step(go_on(middle_))
        np.testing.assert_allclose(found.advantage[:, member], reward + before - start["progress"], rtol=0, atol=1e-6)
    assert any(all(np.array_equal(one[key], observations[key]) for key in one) for one in seen)
    np.testing.assert_array_equal(envs.evaluate_candidates(chunks).advantage,
                                  envs.evaluate_candidates(chunks, go_on, 0).advantage)  # fmt: skip
    for wrong in ({"lookahead": 1}, {"continuation": go_on, "lookahead": -1}):
        with pytest.raises(ConfigError, match="lookahead"):
            envs.evaluate_candidates(chunks, **wrong)


@pytest.mark.parametrize("shape", [(2, 1, 8, 3), (3, 0, 8, 3), (3, 8, 3), (3, 1, 7, 3)])
def test_chunks_to_foresee_are_checked(shape: tuple[int, ...]) -> None:
    envs = counting_envs(3)
    with pytest.raises(RiseError, match="reset"):
        envs.evaluate_candidates(np.zeros((3, 1, 8, 3)))
    envs.reset(seed=0)
    with pytest.raises(ActionError, match="shape"):
        envs.evaluate_candidates(np.zeros(shape))
