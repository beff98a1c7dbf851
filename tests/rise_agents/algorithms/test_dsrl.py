"""DSRL: what is discounted, bounded, repeated and stored, against numbers that are computed otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents import make_agent
from rise_agents.algorithms.dsrl import DSRL
from rise_agents.policies.loading import load_policy
from rise_agents.policies.steered import SteeredPolicy
from rise_env.errors import ConfigError, TrainingError

SETTINGS: dict[str, Any] = {"batch_size": 32, "warmup_chunks": 32, "updates_per_chunk": 0.25, "buffer_size": 128,
                            "network": (24, 24)}  # fmt: skip


@pytest.fixture(params=["sac", "na"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(lab: Any) -> Any:
    def made(form: str = "na", **changes: Any) -> DSRL:
        found: DSRL = make_agent("dsrl", lab.envs(), lab.policy(offset=0.3), form=form, **{**SETTINGS, **changes})
        return found

    return made


def batch_of(algorithm: DSRL) -> dict[str, Any]:
    return algorithm.replay.draw(16, np.random.default_rng(0))


def test_the_noise_stays_within_the_bound_and_reaches_the_base(make: Any, form: str) -> None:
    algorithm = make(form, bound=0.7)
    seen: list[torch.Tensor] = []
    sample = algorithm.policy.base.sample
    algorithm.policy.base.sample = lambda context, bins, noise, **how: (  # type: ignore[method-assign]
        seen.append(noise) or sample(context, bins, noise, **how)
    )
    algorithm.learn(160)
    observation, _ = algorithm.env.reset(seed=0)
    algorithm.predict(observation)
    assert max(float(noise.abs().max()) for noise in seen) == pytest.approx(0.7, abs=1e-3)
    with torch.no_grad():
        algorithm.policy.actor.mu.bias.fill_(50.0)
    algorithm.predict(observation)
    assert torch.allclose(seen[-1], torch.tensor(0.7))
    # What is stored and what critics see is over the bound.
    assert float(batch_of(algorithm)["chosen"].abs().max()) <= 1.0


def test_one_proposal_per_chunk(make: Any, form: str) -> None:
    algorithm, calls = make(form, gamma=0.0, warmup_chunks=10_000), []
    propose = algorithm.policy.base.propose
    algorithm.policy.base.propose = lambda *args: calls.append(len(args[0])) or propose(*args)  # type: ignore[method-assign]
    algorithm.learn(32)
    assert algorithm.num_timesteps == 32
    assert sum(calls) == (64 if form == "na" else 32)  # and in the aliasing form another noise for the same states
    assert algorithm.metrics["time/control_steps"] == 32 * 8


def test_targets_discount_whole_chunks_and_go_on_after_truncation(make: Any, form: str) -> None:
    algorithm = make(form, gamma=0.9, entropy_in_backup=False, critic_reduction="mean", reward_scale=3.0)
    algorithm.learn(64)
    sac, batch = algorithm.sac, batch_of(algorithm)
    assert not batch["ended"].any()  # two chunks, after which the imagination is given up
    batch["ended"][::2] = True
    target = sac.critic_target if form == "sac" else sac.chunk_target
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
        for number, network in enumerate(target.q_networks):
            network[-1].bias.fill_(float(number + 1))
    found = sac._target(batch, algorithm.policy, torch.tensor(0.5))
    expected = batch["rewards"] + 0.9**8 * 1.5 * (~batch["ended"]).float()
    torch.testing.assert_close(found, expected)
    assert 0 < float(batch["rewards"].abs().max()) < 3.0
    with torch.no_grad():
        for network in target.q_networks:
            network[-1].bias.fill_(50.0)
    bounded = batch["rewards"] + 0.9**8 * 3.0 * (~batch["ended"]).float()  # no more than value_bound * reward_scale
    torch.testing.assert_close(sac._target(batch, algorithm.policy, torch.tensor(0.5)), bounded)
    least = make(form, gamma=0.9, critic_reduction="min").sac._reduced((torch.tensor([[1.0]]), torch.tensor([[2.0]])))
    assert least.tolist() == [1.0]


def test_entropy_in_the_backup_is_an_option(make: Any) -> None:
    with_it, without = (make("sac", gamma=0.9, entropy_in_backup=choice) for choice in (True, False))
    for algorithm in (with_it, without):
        algorithm.learn(64)
    batch, weight = batch_of(with_it), torch.tensor(0.5)
    torch.manual_seed(0)
    log_prob = with_it.sac.actor.action_log_prob(batch["next_features"])[1].detach()
    found = []
    for algorithm in (with_it, without):
        algorithm.sac.policy.load_state_dict(with_it.sac.policy.state_dict())
        torch.manual_seed(0)
        found.append(algorithm.sac._target(batch, algorithm.policy, weight))
    torch.testing.assert_close(found[1] - found[0], 0.9**8 * 0.5 * log_prob, atol=1e-4, rtol=1e-3)


def test_log_probabilities_are_those_of_the_squashed_normal(make: Any) -> None:
    algorithm = make("sac")
    features = torch.randn((5, algorithm.policy.config.features), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    chosen, found = algorithm.sac.actor.action_log_prob(features)
    mean, log_std, _ = algorithm.sac.actor.get_action_dist_params(features)
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.transforms.TanhTransform())
    expected = squashed.log_prob(chosen.clamp(-1 + 1e-6, 1 - 1e-6)).sum(1)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-3)


def test_the_policy_acts_as_the_actor_says(make: Any) -> None:
    algorithm = make("sac")
    policy, (observation, _) = algorithm.policy, algorithm.env.reset(seed=0)
    context = policy.context_of(observation)
    noise = torch.randn((16, *policy.noise_shape), generator=torch.Generator().manual_seed(0))
    bins = torch.full((16,), 9)
    mean, log_std, _ = algorithm.sac.actor.get_action_dist_params(policy.features_of(context, bins))
    expected = 1.5 * torch.tanh(mean + log_std.exp() * noise.flatten(1)).view_as(noise)
    torch.testing.assert_close(policy.steer(context, bins, noise), expected)


def test_the_distilled_critic_learns_the_other_one(make: Any) -> None:
    algorithm = make("na", warmup_chunks=10_000, learning_rate=3e-3)
    algorithm.learn(128)
    batch = algorithm.replay.draw(128, np.random.default_rng(0))
    first = algorithm.sac._distillation_loss(batch)
    for _ in range(200):
        loss = algorithm.sac._distillation_loss(batch)
        algorithm.sac.critic.optimizer.zero_grad()
        loss.backward()
        algorithm.sac.critic.optimizer.step()
    assert float(loss.detach()) < 0.1 * float(first.detach())
    # What a noise gives is stored as critics see it: sampled again it is the same.
    context = algorithm.policy.context_of(algorithm.env.reset(seed=3)[0])
    found = algorithm._aliases(context, torch.zeros((16, 8, 3)))
    noise = algorithm.policy.whole_noise(found["alias_chosen"])
    chunks = algorithm.policy.base.propose(context, noise, algorithm.policy.guidance)
    torch.testing.assert_close(algorithm.policy.normalise(chunks, context.state), found["alias_chunks"])


def test_recorded_chunks_are_learned_from_first(make: Any, lab: Any) -> None:
    algorithm = make("na", prefill_chunks=32, horizon=1)
    algorithm.learn(16)
    batch = batch_of(algorithm)
    assert not batch["own"].any()
    envs = lab.envs()
    envs.reset(seed=[int(s) for s in _seeds(algorithm)], options={})
    chunks, _ = envs.recorded_actions()
    _, rewards, *_ = envs.step(chunks)
    replayed = algorithm.replay._columns
    torch.testing.assert_close(replayed["rewards"][:16], 10 * torch.from_numpy(rewards).float())
    algorithm.learn(16, reset_num_timesteps=False)
    algorithm.learn(16, reset_num_timesteps=False)
    assert algorithm.replay._columns["own"][32:48].all()
    with pytest.raises(ConfigError, match='form="na"'):
        make("sac", prefill_chunks=32)


def _seeds(algorithm: DSRL) -> np.ndarray:
    rng = np.random.default_rng([algorithm.config.seed, 0])
    rng.integers(2**62)
    return rng.integers(2**31, size=algorithm.env.num_envs)


def test_repeated_noise_is_tried_first(make: Any, form: str, lab: Any) -> None:
    algorithm = make(form, repeat_noise=True).learn(128)
    assert algorithm.policy.steered_size == 3
    noise = algorithm.policy.whole_noise(torch.rand((2, 3)) - 0.5)
    assert noise.shape == (2, 8, 3)
    assert (noise == noise[:, :1]).all()
    policy = lab.policy(offset=0.3)
    sample = policy.sample

    def breaks(context: Any, bins: Any, noise: torch.Tensor, **how: Any) -> torch.Tensor:
        repeated = (noise == noise[:, :1]).all()
        return sample(context, bins, noise, **how) + (50.0 if repeated else 0.0)

    type(policy).sample, before = (lambda self, *args, **how: breaks(*args, **how)), type(policy).sample
    try:
        with pytest.raises(ConfigError, match="repeat_noise=false"):
            make_agent("dsrl", lab.envs(), policy, repeat_noise=True)
    finally:
        type(policy).sample = before  # type: ignore[method-assign]


def test_the_checkpoint_holds_base_and_actor(make: Any, form: str, tmp_path: Path, lab: Any) -> None:
    algorithm = make(form).learn(128)
    algorithm.save(tmp_path)
    loaded = load_policy(tmp_path / "model")
    assert isinstance(loaded, SteeredPolicy)
    observation, _ = algorithm.env.reset(seed=0)
    noise = torch.randn((16, *loaded.noise_shape), generator=torch.Generator().manual_seed(0))
    ours, theirs = (p.propose(p.context_of(observation), noise, 1.0) for p in (algorithm.policy, loaded))
    assert torch.equal(ours, theirs)
    assert (loaded.noise_scale, loaded.guidance, loaded.lags) == (1.0, lab.policy().guidance, (2,))
    again = make_agent("dsrl", lab.envs(), loaded, form=form, **SETTINGS)
    assert not isinstance(again.policy.base, SteeredPolicy)


def test_what_is_not_finite_is_not_learned(make: Any, form: str) -> None:
    algorithm = make(form)
    algorithm.learn(64)
    step = algorithm.env.step

    def broken(chunks: Any) -> Any:
        observations, rewards, *rest = step(chunks)
        return observations, np.full_like(rewards, np.nan), *rest

    algorithm.env.step = broken
    with pytest.raises(TrainingError, match="not finite"):
        algorithm.step()


@pytest.mark.slow
def test_pi05_is_steered_like_any_other(form: str, lab: Any, tokenizer: Any, tmp_path: Path) -> None:
    from rise_agents.policies.pi05 import Pi05Policy
    from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes

    torch.manual_seed(0)
    config = Pi05PolicyConfig(sizes=Pi05Sizes(vocabulary=300), tokens=200, image_size=28, steps=3)
    policy = Pi05Policy(lab.spec, config, lab.codec, tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=0.3 if weight.dim() > 1 else 0.1)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    settings = {**SETTINGS, "warmup_chunks": 4, "batch_size": 4, "updates_per_chunk": 0.5}
    algorithm = make_agent("dsrl", lab.envs(2), policy, form=form, **settings)
    actor = [weight.clone() for weight in algorithm.policy.actor.parameters()]
    algorithm.learn(8)
    assert algorithm.policy.steered_size == 8 * 32  # the model denoises its padding as well
    assert any((old != new).any() for old, new in zip(actor, algorithm.policy.actor.parameters(), strict=True))
    assert all(torch.equal(value, algorithm.policy.base.state_dict()[name]) for name, value in before.items())
    algorithm.save(tmp_path)
    loaded = load_policy(tmp_path / "model")
    observation, _ = algorithm.env.reset(seed=0)
    noise = torch.randn((2, *loaded.noise_shape), generator=torch.Generator().manual_seed(0))
    ours, theirs = (p.propose(p.context_of(observation), noise, 1.0) for p in (algorithm.policy, loaded))
    assert torch.equal(ours, theirs)
