"""The contract that every algorithm keeps, on all that ship."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from rise_agents import make_agent
from rise_agents.algorithms.base import STATE_FILE, Algorithm
from rise_env.adapters import SB3VecEnv
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.registry import ALGORITHMS

SETTINGS: dict[str, dict[str, Any]] = {
    "bc": {"batch_size": 32, "epochs": 2},
    "recap": {"batch_size": 32, "epochs": 2, "value": {"updates": 25, "batch_size": 8}, "strict": False},
    "dsrl": {"batch_size": 16, "warmup_chunks": 32, "updates_per_chunk": 0.1, "buffer_size": 128, "network": (16,)},
    "rise": {"batch_size": 32, "epochs": 2, "buffer_rounds": 2},
    "selective_rise": {
        "batch_size": 32, "epochs": 2, "buffer_rounds": 3, "num_candidates": 4, "top_k": 2, "min_advantage_gap": 0.01,
        "advantage_threshold": 0.05,
    },
    "ppo": {"batch_size": 16, "epochs": 2, "rollout_steps": 2, "critic_rounds": 1, "value_network": (16,)},
}  # fmt: skip
NAMES = sorted(SETTINGS)
FLOW_MATCHING = ("bc", "recap", "rise", "selective_rise")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def recorded(lab: Any, name: str) -> Any:
    """Recorded chunks, or whole episodes for what learns from their outcomes."""
    return lab.recordings() if name == "recap" else lab.offline()


@pytest.fixture
def make(lab: Any, name: str) -> Any:
    def made(**changes: Any) -> Algorithm[Any]:
        settings = {**SETTINGS[name], **changes}
        return make_agent(name, lab.envs(), lab.policy(offset=0.3), offline=recorded(lab, name), **settings)  # type: ignore[no-any-return]

    return made


def weights(algorithm: Algorithm[Any]) -> list[torch.Tensor]:
    return [value.clone() for value in algorithm.policy.state_dict().values()]


def test_all_that_ship_are_tested() -> None:
    ours = {one.name for one in ALGORITHMS if one.plugin is None}
    assert {name for name in ours if not ALGORITHMS.load(name).needs_cell} == set(NAMES)


def test_it_learns_for_so_many_imagined_chunks(make: Any) -> None:
    algorithm = make()
    first, threads = weights(make()), set(threading.enumerate())
    assert algorithm.learn(100) is algorithm
    assert not [one for one in set(threading.enumerate()) - threads if one.name.startswith("shard")]
    assert 100 <= algorithm.num_timesteps < 100 + 64
    assert algorithm.progress == 1.0
    before = algorithm.num_timesteps
    algorithm.learn(64, reset_num_timesteps=False)
    assert before + 64 <= algorithm.num_timesteps < before + 128
    algorithm.learn(64)
    assert algorithm.num_timesteps < 128
    assert any((a != b).any() for a, b in zip(weights(algorithm), first, strict=True))
    assert {"train/loss", *(["rollout/advantage"] if algorithm.imagines else [])} <= set(algorithm.metrics)


def test_predict_takes_batches_and_single_observations(make: Any) -> None:
    algorithm = make()
    observation, _ = algorithm.env.reset(seed=0)
    actions, state = algorithm.predict(observation, deterministic=True)
    assert state is None
    assert actions.shape == algorithm.env.action_space.shape
    assert algorithm.env.action_space.contains(actions)
    one, _ = algorithm.predict({key: value[0] for key, value in observation.items()}, deterministic=True)
    np.testing.assert_allclose(one, actions[0], atol=1e-5)
    first, second = (algorithm.predict(observation)[0] for _ in range(2))
    assert (first != second).any()


def test_stable_baselines_evaluates_it(make: Any, lab: Any) -> None:
    envs = lab.envs(4)
    same_step = copy.copy(envs)
    from rise_env.testing import counting_envs, counting_starts, counting_world_model

    same_step = counting_envs(
        4, starts=counting_starts(count=24), world_model=counting_world_model(), observation_lags=[2],
        autoreset_mode="same_step",
    )  # fmt: skip
    mean, spread = evaluate_policy(make(), SB3VecEnv(same_step), n_eval_episodes=8, warn=False)
    assert np.isfinite([mean, spread]).all()


def test_callbacks_of_both_kinds_stop_it(make: Any) -> None:
    algorithm, rounds = make(), []
    algorithm.learn(10_000, callback=lambda trained: rounds.append(trained.rounds) or len(rounds) < 3)
    assert rounds == [1, 2, 3]

    class Stop(BaseCallback):
        ended = False

        def _on_step(self) -> bool:
            return self.n_calls < 2

        def _on_training_end(self) -> None:
            self.ended = True

    callback = Stop()
    algorithm.learn(10_000, callback=callback, reset_num_timesteps=False)
    assert callback.n_calls == 2
    assert callback.ended
    assert callback.num_timesteps == algorithm.num_timesteps


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(make: Any, tmp_path: Path, lab: Any, name: str) -> None:
    whole = make().learn(300)
    for rounds in (1, 2, 4, 6):
        first = make()
        first.learn(300, callback=lambda trained, rounds=rounds: trained.rounds < rounds)
        folder = tmp_path / str(rounds)
        first.save(folder)
        second = make()
        assert second.restore(folder)
        assert second.num_timesteps == first.num_timesteps
        second.learn(300 - second.num_timesteps, reset_num_timesteps=False)
        for mine, theirs in zip(weights(second), weights(whole), strict=True):
            assert torch.equal(mine, theirs)
        loaded = type(first).load(folder, lab.envs(), offline=recorded(lab, name))
        assert loaded.config == first.config
        observation, _ = loaded.env.reset(seed=0)
        mine, theirs = (one.predict(observation, deterministic=True)[0] for one in (loaded, first))
        np.testing.assert_array_equal(mine, theirs)


def test_states_that_do_not_fit_are_refused(make: Any, tmp_path: Path, name: str) -> None:
    assert not make().restore(tmp_path)
    first = make()
    first.learn(1)
    first.save(tmp_path)
    before = SETTINGS[name]["batch_size"]
    with pytest.raises(CheckpointError, match=f"batch_size {before}, now 7"):
        make(batch_size=7).restore(tmp_path)
    older = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del older["config"]["seed"]  # a setting that there was not yet: what it was then is its default
    torch.save(older, tmp_path / STATE_FILE)
    assert make().restore(tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="damaged"):
        make().restore(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        type(first).load(tmp_path, first.env)
    (tmp_path / "rise_state.pt").write_bytes(b"of another time")
    with pytest.raises(CheckpointError, match="start a new run"):
        make().restore(tmp_path)


def test_threads_and_time_change_nothing(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = make().learn(200)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        other = make().learn(200)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for mine, theirs in zip(weights(plain), weights(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", FLOW_MATCHING, indirect=True)
@pytest.mark.parametrize("trainable", ["all", "action_expert"])
def test_recorded_chunks_may_be_given_and_not_used(make: Any, name: str, trainable: str) -> None:
    if name == "bc":
        pytest.skip("learns from nothing else")
    assert make(offline_ratio=0.0, trainable=trainable).learn(150).learner.num_updates


def test_what_does_not_fit_is_said(lab: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="observation_lags"):
        make_agent(name, _without_lags(lab), lab.policy(), offline=recorded(lab, name))
    if name in FLOW_MATCHING:
        with pytest.raises(ConfigError, match=r"offline_ratio|give recordings"):
            make_agent(name, lab.envs(), lab.policy(), offline_ratio=0.5)
    with pytest.raises(ConfigError, match="learning_rte"):
        make_agent(name, lab.envs(), lab.policy(), learning_rte=1.0)
    for field, value in {"epochs": 0, "offline_ratio": 2.0, "ema_decay": 1.0, "learning_rate": 0.0,
                         "trainable": "head", "lr_decay_fraction": -1.0}.items():  # fmt: skip
        if field in {one.name for one in dataclasses.fields(ALGORITHMS.load(name).Config)}:
            with pytest.raises(ConfigError, match=field):
                ALGORITHMS.load(name).Config(**{field: value})


def _without_lags(lab: Any) -> Any:
    from rise_env.testing import counting_envs

    return counting_envs(4, autoreset_mode="disabled")


def test_settings_are_documented(name: str) -> None:
    config = ALGORITHMS.load(name).Config
    text = "".join(cls.__doc__ or "" for cls in config.__mro__)
    for field in dataclasses.fields(config):
        assert f"{field.name}: " in text, field.name


@pytest.mark.parametrize("name", FLOW_MATCHING, indirect=True)
def test_a_gradient_that_is_not_finite_changes_nothing(make: Any) -> None:
    algorithm = make()
    before = weights(algorithm)
    parameter = algorithm.learner.parameters[0]

    def loss(rows: np.ndarray, generator: Any) -> torch.Tensor:  # 0, with a slope that is not finite
        first = parameter.flatten()[0]
        return (first - first).sqrt().expand(len(rows))

    with pytest.raises(TrainingError, match="gradient"):
        algorithm.learner.update([(np.zeros(4, np.int64), loss)], np.random.default_rng(0), 0.0)
    for mine, theirs in zip(weights(algorithm), before, strict=True):
        assert torch.equal(mine, theirs)


def test_real_steps_are_counted_and_kept(make: Any, tmp_path: Path) -> None:
    algorithm = make()
    algorithm.learn(1)
    assert algorithm.scalars()["time/real_steps"] == 0
    algorithm.num_real_steps += 96
    algorithm.save(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["time/real_steps"] == 96
    again = make()
    assert again.restore(tmp_path)
    assert again.num_real_steps == 96
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del state["num_real_steps"]  # as older versions wrote it
    torch.save(state, tmp_path / STATE_FILE)
    old = make()
    assert old.restore(tmp_path)
    assert old.num_real_steps == 0


def test_numpy_numbers_in_a_state_are_kept_and_other_things_refused(make: Any, tmp_path: Path) -> None:
    algorithm = make()
    algorithm.learn(1)
    algorithm.num_timesteps = np.int64(algorithm.num_timesteps)
    algorithm.save(tmp_path)
    assert make().restore(tmp_path)
    algorithm.training_state = lambda: {"odd": object()}
    with pytest.raises(TypeError, match="object"):
        algorithm.save(tmp_path)
    assert make().restore(tmp_path)


def test_pictures_are_compressed_in_a_checkpoint_and_come_back_as_they_were(make: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {"array": rng.integers(0, 9, (5, 32, 40, 3)).astype(np.uint8),
                "tensor": torch.zeros((2, 3, 64, 64), dtype=torch.uint8)}  # fmt: skip
    found: list[Any] = []
    algorithm, again = make(), make()
    algorithm.training_state = lambda: {"kept": [pictures], "small": torch.arange(3, dtype=torch.uint8)}
    algorithm.save(tmp_path)
    again.load_training_state = found.append
    assert again.restore(tmp_path)
    assert torch.equal(found[0]["kept"][0]["array"], torch.from_numpy(pictures["array"]))  # type: ignore[arg-type]
    assert torch.equal(found[0]["kept"][0]["tensor"], pictures["tensor"])  # type: ignore[arg-type]
    assert found[0]["small"].tolist() == [0, 1, 2]
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    packed = state["state"]["kept"][0]
    size: int = sum(math.prod(one.shape) for one in pictures.values())
    assert sum(one["zlib"].numel() for one in packed.values()) < 0.6 * size
    packed["tensor"]["shape"] = [3, 3, 64, 64]
    torch.save(state, tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match="bytes of pictures"):
        make().restore(tmp_path)
