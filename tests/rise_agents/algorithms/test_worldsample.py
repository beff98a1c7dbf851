"""WorldSample: rewards and discounts, copies of chunks, labels and selection, the paced share, and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents import make_agent
from rise_agents.algorithms.cell_episodes import Decision, observed_rollout
from rise_agents.algorithms.off_policy import Critic, admitted, perturbed, sample_entropy, transitions
from rise_agents.algorithms.worldsample import WorldSample, WorldSampleConfig
from rise_agents.evaluation.results import Episode
from rise_env.errors import ConfigError
from rise_env.spaces import image_key, lag_key
from rise_env.testing import counting_world_model
from tests.rise_agents.algorithms.fake_cell import SPEC, FakeCell
from tests.rise_env.training.test_post_training import tiny_world_model

SMALL = {"episodes": 4, "demonstrations": 4, "updates": 3, "batch_size": 16, "hidden": 16, "post_updates": 0}


def make(lab: Any, imagine: bool = True, cell: FakeCell | None = None, **settings: Any) -> WorldSample:
    cell = cell or FakeCell(lags=(2, 4, 6))
    cell.world_model = cell.world_model or counting_world_model()
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
    positive, none = np.array([True, False] * 4), np.zeros(0)
    assert admitted(q, positive, 0.3, 0.0, none).tolist() == [0, 1, 6, 7]  # their means are 0.3 each
    assert admitted(q, positive, 0.3, 0.2, none).tolist() == [0, 1, 2, 3, 6, 7]  # the pair with 5.0 is passed over
    assert admitted(q, np.ones(8, bool), 0.3, 10.0, none).tolist() == []  # without failures no balance
    assert admitted(q, positive, 9.0, 0.3, none).tolist() == []


def test_the_queues_count_and_are_led_back_into_the_bound() -> None:
    q, positive = np.array([0.9, 0.8, 0.3, 0.2]), np.array([True, False] * 2)
    assert admitted(q, positive, 0.4, 0.1, np.full(20, 0.4)).tolist() == [0, 1, 2, 3]  # one odd pair among eleven
    assert admitted(q, positive, 0.4, 0.01, np.full(4, 0.7)).tolist() == [2, 3]  # the critic has moved away from them


@pytest.mark.parametrize("level", [0.1, 0.5, 0.95])
def test_copies_like_the_real_ones_are_admitted_whatever_the_critic_has_learned(level: float) -> None:
    rng = np.random.default_rng(0)
    q, positive = level + 0.05 * rng.standard_normal(100), rng.random(100) < 0.4
    rows = admitted(q, positive, level, 0.2, np.zeros(0))
    assert len(rows) == 2 * min(positive.sum(), (~positive).sum())
    assert positive[rows].mean() == 0.5


def test_states_that_were_visited_once_have_advantages() -> None:
    """A value without dropout learns by heart what came of the only chunk that was tried."""
    generator = torch.Generator().manual_seed(0)
    features, chunks = (torch.randn((64, width), generator=generator) for width in (40, 8))
    worth = (torch.arange(64) % 2).float()
    gaps = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        critic = Critic(40, 8, 32, dropout)
        optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
        for _ in range(200):
            optimiser.zero_grad()
            errors = critic.q(features, chunks) - worth, (critic.v(features) - worth)[None]
            torch.cat(errors).square().mean().backward()
            optimiser.step()
        with torch.no_grad():
            ahead = critic.eval().q(features, chunks).min(dim=0).values - critic.v(features)
        gaps.append(float(ahead[1::2].mean() - ahead[::2].mean()))
    assert gaps[0] < 0.1
    assert gaps[1] > 0.2


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
    algorithm.env.success_threshold = 0.6
    algorithm.learn(1)
    found = algorithm._imagine(algorithm._real, np.random.default_rng(0))
    assert 0 < int(found["positive"].sum()) < len(found["positive"])
    won = found["reward"] > 0
    assert set(np.round(found["reward"].numpy(), 5)) <= {0.0, 1.0, np.float32(round(0.98**SPEC.execute, 5))}
    np.testing.assert_allclose(found["discount"], np.where(won, 0.0, 0.98**SPEC.chunk), rtol=1e-6)
    assert not torch.equal(found["features"], found["next_features"])
    low, high = torch.from_numpy(SPEC.layout.low), torch.from_numpy(SPEC.layout.high)
    assert bool(((found["chunk"] >= low) & (found["chunk"] <= high)).all())


def test_the_critic_sees_the_world_models_value_and_the_twin_does_not(lab: Any) -> None:
    algorithm, twin = make(lab), make(lab, imagine=False)
    seen = {key: np.zeros((2, *box.shape[1:]), box.dtype) for key, box in algorithm.env.observation_space.items()}
    for key in seen:
        if key.startswith("image"):
            seen[key][1] = 51  # what the fake value model reads off a picture: 0.2
    found, without = algorithm._features(seen), twin._features(seen)
    assert found.shape[1] == without.shape[1] + 1
    np.testing.assert_allclose(found[:, -1], [-4.0, 8 * (0.2 - 0.5)], rtol=1e-5)
    np.testing.assert_allclose(algorithm._features(seen, torch.tensor([0.5, 1.0]))[:, -1], [0.0, 4.0])


def test_an_episode_is_put_together_from_what_its_decisions_saw() -> None:
    decisions = []
    for number in range(3):
        now, seen = number * SPEC.execute, {}
        for lag in (0, 2, 4, 6):
            moment = max(0, now - lag)
            seen[lag_key("state", lag)] = np.full(3, moment, np.float32)
            for camera in SPEC.cameras:
                seen[lag_key(image_key(camera), lag)] = np.full((*SPEC.image_size, 3), moment, np.uint8)
        steps = np.arange(now, now + SPEC.chunk, dtype=np.float32)
        decisions.append(Decision(seen, np.repeat(steps[:, None], 3, axis=1), False))
    rollout = observed_rollout(decisions, SPEC)
    assert rollout.frames[:, 0, 0, 0, 0].tolist() == rollout.states[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert rollout.frames.shape[1:] == (2, *SPEC.image_size, 3)
    assert rollout.actions[..., 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert observed_rollout(decisions[:1], SPEC).actions.shape == (0, 2, 3)


def cell_with_dynamics() -> FakeCell:
    cell = FakeCell(lags=(2, 4, 6))
    cell.world_model = tiny_world_model()
    return cell


def test_rollouts_post_train_the_dynamics_model(lab: Any) -> None:
    cell = cell_with_dynamics()
    before = [value.clone() for value in cell.world_model.dynamics.state_dict().values()]
    algorithm = make(lab, cell=cell, post_updates=2, episodes=12).learn(150)
    assert all(torch.equal(*pair) for pair in zip(before, cell.world_model.dynamics.state_dict().values(), strict=True))
    assert {"dynamics/loss", "dynamics/psnr", "dynamics/psnr_before", "dynamics/psnr_bundle"} <= set(algorithm.metrics)
    assert algorithm.world_model is not cell.world_model
    assert algorithm._post is not None
    assert algorithm._post.trainings >= 1


def test_the_critic_learns_what_success_is_worth(lab: Any) -> None:
    algorithm = make(lab, imagine=False, cell=FakeCell(lags=(2,)), critic_learning_rate=3e-3, updates=300,
                     target_rate=0.1, demonstration_ratio=1.0)  # fmt: skip
    algorithm.learner.update = lambda *_: (0.0, 0.0)  # type: ignore[method-assign]
    algorithm.learn(1)
    shown = algorithm._demonstrated
    assert shown["reward"].tolist() == [1.0] * 4  # the expert succeeds at once
    assert float(algorithm._q(algorithm._target, shown).min()) > 0.8


@pytest.mark.parametrize("form", ["trained", "imagine", "twin"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(lab: Any, form: str, tmp_path: Path) -> None:
    def made() -> WorldSample:
        if form == "trained":
            return make(lab, cell=cell_with_dynamics(), post_updates=1)
        return make(lab, imagine=form == "imagine")

    whole, first = made().learn(150), made()
    first.learn(150, callback=lambda trained: trained.rounds < 1)
    assert first.num_real_steps < 150
    first.save(tmp_path)
    second = made()
    assert second.restore(tmp_path)
    second.learn(150 - second.num_real_steps, reset_num_timesteps=False)
    assert (second.num_real_steps, second.num_timesteps) == (whole.num_real_steps, whole.num_timesteps)
    for mine, theirs in zip(weights(second), weights(whole), strict=True):
        assert torch.equal(mine, theirs)
    if form == "trained":
        assert whole._post is not None
        assert whole._post.trainings > 1
        models = [one.world_model.dynamics.state_dict() for one in (second, whole)]  # type: ignore[union-attr]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_what_does_not_fit_is_said(lab: Any) -> None:
    with pytest.raises(ConfigError, match="expert"):
        make_agent("worldsample", lab.envs(), lab.policy())
    with pytest.raises(ConfigError, match="world_model"):
        make_agent("worldsample", FakeCell(lags=(2, 4, 6)), lab.policy())
    with pytest.raises(ConfigError, match=r"observation_lags=\[2, 4, 6\]"):
        make(lab, cell=FakeCell(lags=(2,)))
    with pytest.raises(ConfigError, match="post_updates=0"):
        make(lab, post_updates=1)
    for field, value in {"expectile": 1.0, "rho_max": 2.0, "noise_samples": 1, "temperature": 0.0}.items():
        with pytest.raises(ConfigError, match=field):
            WorldSampleConfig(**{field: value})  # type: ignore[arg-type]
