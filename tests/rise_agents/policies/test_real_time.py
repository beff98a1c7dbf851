"""Real-time chunking: a new chunk agrees with what is played, the more the sooner it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.real_time import RtcConstraint, prefix_weights
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

Observe = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def policy(spec: TaskSpec) -> FlowPolicy:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    made = FlowPolicy(spec, FlowPolicyConfig(network=network, lags=(2,), steps=6))
    with torch.no_grad():
        made.denoiser.write.weight.normal_(std=0.3)
        made.chunk_std.fill_(0.1)
    return made.eval()


def parts(policy: Policy, observe: Observe) -> tuple[Any, torch.Tensor, torch.Tensor]:
    context = policy.context(observe(policy.spec, 2, policy.lags), [policy.spec.prompt] * 2)
    noise = torch.randn((2, *policy.noise_shape), generator=torch.Generator().manual_seed(1))
    return context, torch.tensor([0, 1]), noise


def test_weights() -> None:
    np.testing.assert_allclose(prefix_weights(2, 5, 8), [1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
    np.testing.assert_allclose(prefix_weights(9, 3, 4), [1, 1, 1, 0])
    np.testing.assert_allclose(prefix_weights(0, 20, 3), [0.75, 0.5, 0.25])
    np.testing.assert_allclose(prefix_weights(0, 0, 3), [0, 0, 0])


@torch.no_grad()
def test_rows_that_will_be_played_agree_and_those_past_the_horizon_are_free(
    policy: FlowPolicy, observe: Observe
) -> None:
    context, levels, noise = parts(policy, observe)
    free = policy.sample(context, levels, noise, guidance=2.0)
    previous = free[:, :6] + 0.2
    tied = policy.sample(context, levels, noise, guidance=2.0, rtc=RtcConstraint(previous, 3, 5))
    assert tied.shape == free.shape
    apart = (tied[:, :6] - previous).abs().amax(dim=(0, 2))
    assert (apart[:3] < 0.05).all()
    assert (apart[:3] < 0.3 * (free[:, :3] - previous[:, :3]).abs().amax(dim=(0, 2))).all()
    assert apart[2] < apart[4] < apart[5]
    again = policy.sample(context, levels, noise, guidance=2.0, rtc=RtcConstraint(previous, 3, 5))
    torch.testing.assert_close(again, tied, rtol=0, atol=0)


@torch.no_grad()
def test_nothing_tied_changes_nothing(policy: FlowPolicy, observe: Observe) -> None:
    context, levels, noise = parts(policy, observe)
    free = policy.sample(context, levels, noise)
    torch.testing.assert_close(policy.sample(context, levels, noise, rtc=RtcConstraint(free[:, :1] + 9, 0, 0)), free)


@torch.no_grad()
def test_what_is_left_may_be_as_short_or_as_long_as_it_likes(policy: FlowPolicy, observe: Observe) -> None:
    context, levels, noise = parts(policy, observe)
    previous = policy.sample(context, levels, noise)
    for rows in (previous[:, :1], previous, torch.cat([previous, previous], dim=1)):
        assert torch.isfinite(policy.sample(context, levels, noise, rtc=RtcConstraint(rows, 4, 10))).all()


def test_an_actor_acts_as_before_and_in_agreement_when_told(policy: FlowPolicy, observe: Observe) -> None:
    observations = {key: value.numpy() for key, value in observe(policy.spec, 1, policy.lags).items()}
    plain, actor = PolicyActor(policy), PolicyActor(policy)
    for one in (plain, actor):
        one.reset([5], np.ones(1, bool))
    first = actor.act(observations)
    np.testing.assert_array_equal(first, plain.act(observations))
    second = actor.act_rtc(observations, first[:, 2:], 4, 6)
    other = plain.act(observations)
    assert np.abs(second[:, :4] - first[:, 2:6]).max() < np.abs(other[:, :4] - first[:, 2:6]).max()
    assert (second >= policy.spec.layout.low).all()
    assert (second <= policy.spec.layout.high).all()


def test_a_policy_need_not_know_it(policy: FlowPolicy, observe: Observe) -> None:
    class Other(FlowPolicy):
        supports_rtc = False

    observations = {key: value.numpy() for key, value in observe(policy.spec, 1, policy.lags).items()}
    actor = PolicyActor(Other(policy.spec, policy.config))
    actor.reset([5], np.ones(1, bool))
    with pytest.raises(ConfigError, match="Other knows no real-time chunking"):
        actor.act_rtc(observations, actor.act(observations)[:, :2], 1, 2)


@pytest.mark.slow
def test_pi05_by_lerobots_own_means(spec: TaskSpec, tokenizer: Any, observe: Observe) -> None:
    from rise_agents.policies.pi05 import Pi05Policy
    from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes

    torch.manual_seed(0)
    config = Pi05PolicyConfig(sizes=Pi05Sizes(vocabulary=300), tokens=360, image_size=28, steps=5)
    policy = Pi05Policy(spec, config, tokenizer=tokenizer)
    states = torch.randn(50, spec.layout.dim)
    policy.fit_normalisation(states, states[:, None] + 0.1 * torch.randn(50, spec.chunk, spec.layout.dim))
    policy.eval()
    assert policy.supports_rtc
    context, levels, noise = parts(policy, observe)
    free = policy.sample(context, levels, noise)
    torch.testing.assert_close(policy.sample(context, levels, noise, rtc=RtcConstraint(free[:, :1], 0, 0)), free)
    previous = free[:, :6] + 0.05
    tied = policy.sample(context, levels, noise, rtc=RtcConstraint(previous, 3, 5))
    closer = (tied[:, :3] - previous[:, :3]).abs().mean() / (free[:, :3] - previous[:, :3]).abs().mean()
    assert closer < 0.7
    torch.testing.assert_close(policy.sample(context, levels, noise), free)  # nothing was left switched on
    with pytest.raises(ConfigError, match="--guidance 1"):
        policy.sample(context, levels, noise, guidance=2.0, rtc=RtcConstraint(previous, 3, 5))
