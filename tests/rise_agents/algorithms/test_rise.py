"""RISE as published, on a world model whose truth is known: chunks near the centre of the joint range make progress."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.rise import RISE, RISEConfig, Rollouts
from rise_env.errors import ConfigError, TrainingError


def made(lab: Any, policy: Any = None, envs: Any = None, **changes: Any) -> RISE:
    settings = {"trainable": "all", "batch_size": 64, "learning_rate": 3e-3, "ema_decay": 0.9, **changes}
    offline = lab.offline() if settings.get("offline_ratio", 0.6) else None
    return RISE(policy or lab.policy(), envs or lab.envs(), RISEConfig(**settings), offline=offline)  # type: ignore[arg-type]


def test_proposals_are_trained_under_the_advantage_that_was_measured(lab: Any) -> None:
    algorithm = made(lab, num_shards=1)
    found = algorithm.imagine()
    np.testing.assert_array_equal(found.bins, lab.codec.encode(found.advantages))
    assert len(set(found.bins.tolist())) > 1  # not all under the best one, which was asked for
    which = found.rows
    with torch.no_grad():
        algorithm.learner.actor.denoiser.write.weight.normal_(generator=torch.Generator().manual_seed(1))

    def loss(rollouts: Rollouts) -> float:
        return float(algorithm._loss(rollouts, which, torch.Generator().manual_seed(0)).sum().detach())

    best = dataclasses.replace(found, bins=torch.full_like(found.bins, lab.codec.best_bin))
    assert loss(found) != loss(best)
    assert loss(found) == loss(found)


def test_the_mix_is_drawn_sample_by_sample(lab: Any) -> None:
    algorithm = made(lab, epochs=8)
    counts: list[int] = []
    inner = algorithm.learner.update

    def spy(batch: Any, *args: Any) -> Any:
        (which, _), (recorded, _) = batch
        counts.append(len(recorded))
        assert len(which) + len(recorded) == algorithm.config.batch_size
        return inner(batch, *args)

    algorithm.learner.update = spy  # type: ignore[method-assign]
    algorithm.step()
    assert len(set(counts)) > 2
    assert 0 < min(counts) <= max(counts) < algorithm.config.batch_size
    assert abs(np.mean(counts) / algorithm.config.batch_size - 0.6) < 0.1


def test_the_rollout_policy_is_an_average_of_the_actor(lab: Any) -> None:
    algorithm = made(lab, epochs=1, batch_size=10_000, ema_decay=0.75)  # one update
    before = {name: value.clone() for name, value in algorithm.policy.state_dict().items()}
    algorithm.step()
    assert algorithm.learner.num_updates == 1
    actor = dict(algorithm.learner.actor.named_parameters())
    assert any((actor[name] != before[name]).any() for name in actor)
    for name, value in algorithm.policy.named_parameters():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * actor[name])


def test_frozen_encoders_are_left_alone(lab: Any) -> None:
    algorithm = made(lab, trainable="action_expert")
    before = {name: value.clone() for name, value in algorithm.learner.actor.state_dict().items()}
    algorithm.learn(64)
    for name, value in algorithm.learner.actor.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("denoiser.")), name


def test_two_chunks_follow_a_recorded_state_and_ended_ones_are_left_out(lab: Any) -> None:
    algorithm = made(lab)
    found = algorithm.imagine()
    assert set(found.position.tolist()) == {0, 1}
    assert len(found.rows) == 32 == algorithm.num_timesteps
    algorithm = made(lab, envs=lab.envs(success_threshold=0.3))
    found = algorithm.imagine()
    first = found.position == 0
    assert int(found.valid[first].sum()) == 16
    assert 0 <= int(found.valid[~first].sum()) < 16
    assert algorithm.num_timesteps == len(found.rows)


def test_the_shuffled_control_keeps_the_bins_and_loses_whose_they_are(lab: Any) -> None:
    plain, shuffled = made(lab).imagine(), made(lab, shuffle_advantages=True).imagine()
    torch.testing.assert_close(plain.chunks[plain.position == 0], shuffled.chunks[shuffled.position == 0])
    assert sorted(plain.bins.tolist()) == sorted(shuffled.bins.tolist())
    assert plain.bins.tolist() != shuffled.bins.tolist()


def test_proposals_are_not_guided_what_acts_is(lab: Any) -> None:
    """Guidance that is learned and guided anew, round by round, ruins a policy."""
    algorithm = made(lab, offline_ratio=0.0)
    assert algorithm.policy.guidance == 2.0
    asked: list[float] = []
    inner = algorithm.policy.sample

    def spy(*args: Any, guidance: float = 1.0, **kwargs: Any) -> torch.Tensor:
        asked.append(guidance)
        return inner(*args, guidance=guidance, **kwargs)

    algorithm.policy.sample = spy  # type: ignore[method-assign]
    algorithm.imagine()
    assert set(asked) == {1.0}
    asked.clear()
    observation, _ = algorithm.env.reset(seed=0)
    algorithm.predict(observation)
    assert asked == [2.0]


def test_histories_are_those_of_the_moment(lab: Any) -> None:
    """The second chunk's past comes from imagination, not from the recorded state."""
    algorithm = made(lab)
    found = algorithm.imagine()
    first = found.position == 0
    for lag in ("", "_lag2"):
        counts = found.observations[f"image_head{lag}"][:, 0, 0, 0].int()
        moved = (counts[~first] - counts[first]) % 256
        assert (moved == lab.spec.chunk).all()


def test_what_is_not_finite_is_not_learned(lab: Any) -> None:
    algorithm = made(lab)
    step = algorithm.env.step
    algorithm.env.step = lambda actions: (lambda r: (r[0], r[1] * np.nan, *r[2:]))(step(actions))
    before = [value.clone() for value in algorithm.policy.state_dict().values()]
    with pytest.raises(TrainingError, match="not finite"):
        algorithm.step()
    algorithm = made(lab, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        algorithm.learn(1000)
    assert all(torch.isfinite(value).all() for value in before)


def test_settings_that_do_not_fit_are_refused(lab: Any) -> None:
    with pytest.raises(ConfigError, match="max_chunks=3"):
        made(lab, horizon=3)
    for changes, match in (({"horizon": 0}, "horizon"), ({"buffer_rounds": 0}, "buffer_rounds"),
                           ({"noise_scale": 2.0}, "noise_scale")):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            RISEConfig(**changes)  # type: ignore[arg-type]
