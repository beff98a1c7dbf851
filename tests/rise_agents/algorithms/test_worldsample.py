"""WorldSample: rewards and discounts, copies of chunks, labels and selection, the paced share, and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents import make_agent
from rise_agents.algorithms.off_policy import admitted, perturbed, sample_entropy, transitions
from rise_agents.algorithms.worldsample import WorldSample, WorldSampleConfig
from rise_agents.evaluation.results import Episode
from rise_env.errors import ConfigError
from rise_env.testing import counting_world_model
from tests.rise_agents.algorithms.fake_cell import SPEC, FakeCell

SMALL = {"episodes": 4, "demonstrations": 4, "updates": 3, "batch_size": 16, "hidden": 16}


def make(lab: Any, imagine: bool = True, cell: FakeCell | None = None, **settings: Any) -> WorldSample:
    cell = cell or FakeCell(lags=(2, 4, 6))
    cell.world_model = counting_world_model()
    policy = lab.policy(offset=0.3)
    return make_agent("worldsample", cell, policy, imagine=imagine, **{**SMALL, **settings})  # type: ignore[no-any-return]


def weights(algorithm: WorldSample) -> list[torch.Tensor]:
    return [value.clone() for value in algorithm.policy.state_dict().values()]


def episode(success: bool, mode: str) -> Episode:
    return Episode(0, success, 0.0, mode, 1.1, 3)


def test_success_pays_one_and_a_chunk_is_discounted_by_its_control_steps() -> None:
    found = transitions(episode(True, "none"), 3, 11, 4, 0.9)
    assert found["reward"].tolist() == [0.0, 0.0, 1.0]
    np.testing.assert_allclose(found["discount"], [0.6561, 0.6561, 0.0], rtol=1e-6)  # 0.9^4; nothing follows
    found = transitions(episode(False, "dropped"), 3, 11, 4, 0.9)
    assert found["reward"].tolist() == [0.0, 0.0, 0.0]
    assert found["discount"][-1] == 0.0


def test_running_out_of_time_is_no_end() -> None:
    found = transitions(episode(False, "timeout"), 3, 12, 4, 0.9)
    np.testing.assert_allclose(found["discount"], [0.6561, 0.6561], rtol=1e-6)
    assert len(found["reward"]) == 2


def test_copies_move_differently_and_still_joints_stay_still() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.rand((2000, 3), generator=generator)
    motion = torch.tensor([1.0, -2.0, 0.0]) * torch.linspace(0.1, 1, 8)[:, None]
    chunks = states[:, None] + motion
    factor = (perturbed(chunks, states, 0.2, 0.0, generator) - states[:, None])[..., :2] / motion[:, :2]
    np.testing.assert_allclose(factor.std(dim=1), 0.0, atol=1e-4)  # the same throughout a chunk
    first = factor[:, 0]
    assert 0.8 <= float(first.min()) < 0.81 < 1.19 < float(first.max()) <= 1.2
    np.testing.assert_allclose(first.mean(dim=0), 1.0, atol=0.01)
    np.testing.assert_allclose(first.std(dim=0), 0.4 / 12**0.5, atol=0.005)
    assert abs(float(torch.corrcoef(first.T)[0, 1])) < 0.1  # every joint has its own
    noisy = perturbed(chunks, states, 0.0, 0.05, generator) - chunks
    spread = (chunks - states[:, None]).flatten(0, 1).std(dim=0)
    np.testing.assert_allclose(noisy.flatten(0, 1).std(dim=0)[:2], 0.05 * spread[:2], rtol=0.05)
    assert float(noisy[..., 2].abs().max()) == 0.0


def test_as_many_good_as_bad_samples_are_admitted_while_the_gap_is_bounded() -> None:
    q = np.array([0.5, 0.1, 0.9, 0.2, 5.0, 0.1, 0.6, 0.0])
    positive = np.array([True, False] * 4)
    assert admitted(q, positive, 0.6, 0.0).tolist() == [0, 1]  # 0.5 + 0.1 = 0.6, the next would change it
    assert admitted(q, positive, 0.6, 0.3).tolist() == [0, 1, 2, 3, 6, 7]  # the pair with 5.0 is passed over
    assert admitted(q, np.ones(8, bool), 0.6, 10.0).tolist() == []  # without failures no balance
    assert admitted(q, positive, 9.0, 0.3).tolist() == []


def test_entropy_is_zero_where_the_actor_is_decided() -> None:
    assert sample_entropy(torch.ones(8, 5, 24)) == 0.0
    samples = 0.3 * torch.randn(4000, 5, 24, generator=torch.Generator().manual_seed(0))
    assert sample_entropy(samples) == pytest.approx(0.5 * np.log(10), abs=0.01)


def test_real_steps_and_imagined_chunks_are_counted(lab: Any) -> None:
    algorithm = make(lab).learn(100)
    assert algorithm.num_real_steps >= 100
    assert algorithm.num_timesteps == algorithm._real["state"].shape[0] > 0  # a copy of every chunk that was run
    assert {"train/critic_loss", "rollout/entropy", "rollout/admitted"} <= set(algorithm.metrics)
    config = algorithm.config
    expected = config.rho_max / (1 + config.kappa * algorithm.metrics["rollout/entropy"] ** config.power)
    assert algorithm.metrics["train/imagined_share"] in (0.0, pytest.approx(expected))
    assert 0 < expected < 0.3


def test_the_twin_imagines_nothing(lab: Any) -> None:
    algorithm = make(lab, imagine=False, cell=FakeCell(lags=(2,))).learn(60)
    assert algorithm.num_timesteps == 0
    assert algorithm.metrics["train/imagined_share"] == 0.0
    assert not algorithm._imagined


def test_what_is_imagined_is_labelled_by_the_world_model(lab: Any) -> None:
    algorithm = make(lab)
    algorithm.learn(1)
    found = algorithm._imagine(algorithm._real, np.random.default_rng(0))
    assert 0 < int(found["positive"].sum()) < len(found["positive"])
    np.testing.assert_allclose(found["discount"], np.where(found["reward"] > 0, 0.0, 0.98**SPEC.execute), rtol=1e-6)
    assert not torch.equal(found["features"], found["next_features"])
    low, high = torch.from_numpy(SPEC.layout.low), torch.from_numpy(SPEC.layout.high)
    assert bool(((found["chunk"] >= low) & (found["chunk"] <= high)).all())


def test_the_critic_learns_what_success_is_worth(lab: Any) -> None:
    algorithm = make(lab, imagine=False, cell=FakeCell(lags=(2,)), critic_learning_rate=3e-3, updates=300,
                     target_rate=0.1, demonstration_ratio=1.0)  # fmt: skip
    algorithm.learner.update = lambda *_: (0.0, 0.0)  # type: ignore[method-assign]
    algorithm.learn(1)
    shown = algorithm._demonstrated
    assert shown["reward"].tolist() == [1.0] * 4  # the expert succeeds at once
    assert float(algorithm._q(algorithm._target, shown).min()) > 0.8


@pytest.mark.parametrize("imagine", [True, False])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(lab: Any, imagine: bool, tmp_path: Path) -> None:
    whole = make(lab, imagine).learn(150)
    first = make(lab, imagine)
    first.learn(150, callback=lambda trained: trained.rounds < 1)
    assert first.num_real_steps < 150
    first.save(tmp_path)
    second = make(lab, imagine)
    assert second.restore(tmp_path)
    second.learn(150 - second.num_real_steps, reset_num_timesteps=False)
    assert (second.num_real_steps, second.num_timesteps) == (whole.num_real_steps, whole.num_timesteps)
    for mine, theirs in zip(weights(second), weights(whole), strict=True):
        assert torch.equal(mine, theirs)


def test_what_does_not_fit_is_said(lab: Any) -> None:
    with pytest.raises(ConfigError, match="expert"):
        make_agent("worldsample", lab.envs(), lab.policy())
    with pytest.raises(ConfigError, match="world_model"):
        make_agent("worldsample", FakeCell(lags=(2, 4, 6)), lab.policy())
    with pytest.raises(ConfigError, match=r"observation_lags=\[2, 4, 6\]"):
        make(lab, cell=FakeCell(lags=(2,)))
    for field, value in {"expectile": 1.0, "rho_max": 2.0, "noise_samples": 1, "temperature": 0.0}.items():
        with pytest.raises(ConfigError, match=field):
            WorldSampleConfig(**{field: value})  # type: ignore[arg-type]
