"""Log-probabilities of denoising chains against numbers that were found in another way, and FPO's losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.flow_likelihood import DenoisingChain, FlowLosses, flow_sde_deviations

SHAPE, DIM, STEPS = (3, 4), 2, 5  # two of four components are padding
Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Some velocity; no component depends on another."""
    return torch.sin(2.0 * noisy) + time.view(-1, 1, 1)


def noise(count: int = 6, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn((count, *shape), generator=generator(1))


def one_step(level: float = 0.5, steps: int = STEPS, shape: tuple[int, ...] = SHAPE, dim: int = DIM) -> DenoisingChain:
    return DenoisingChain(shape, dim, flow_sde_deviations(steps, level), every_step=False)


def all_steps(steps: int = STEPS) -> DenoisingChain:
    return DenoisingChain(SHAPE, DIM, torch.linspace(0.14, 0.08, steps), every_step=True)


def test_deviations_are_those_of_the_flow_sde() -> None:
    # level sqrt(t / (1 - t)) sqrt(1 / 4) at t = 1, 3/4, 1/2, 1/4, where 1 - t of the first is that of the second
    expected = [0.5 * math.sqrt(4) / 2, 0.5 * math.sqrt(3) / 2, 0.5 / 2, 0.5 * math.sqrt(1 / 3) / 2]
    np.testing.assert_allclose(flow_sde_deviations(4, 0.5), expected, rtol=1e-6)
    np.testing.assert_allclose(flow_sde_deviations(1, 0.3), [0.3])


def test_the_log_probability_of_the_random_step_is_the_density_of_a_normal_distribution() -> None:
    chain, level = one_step(), 0.5
    chunks, record = chain.propose(field, noise(200), generator())
    step = record[:, 0].long()
    assert set(step.tolist()) == set(range(STEPS))  # drawn for every chunk
    before, after = record[:, 1:].unflatten(1, (2, *SHAPE)).unbind(1)
    expected, delta = [], 1.0 / STEPS
    for row in range(len(record)):
        k = int(step[row])
        time = 1.0 - k * delta
        sigma = level * math.sqrt(time / (1.0 - (time if k else 1.0 - delta)))
        velocity = field(before[row : row + 1], torch.tensor([time]))[0]
        clean, pure = before[row] - time * velocity, before[row] + (1 - time) * velocity
        mean = (1 - (time - delta)) * clean + (time - delta - sigma**2 * delta / (2 * time)) * pure
        normal = torch.distributions.Normal(mean, math.sqrt(delta) * sigma)
        expected.append(normal.log_prob(after[row])[:, :DIM].sum())
    torch.testing.assert_close(chain.log_prob(field, record), torch.stack(expected), rtol=1e-4, atol=1e-4)
    # All other steps are those of the ODE: from where the random one leads, the chunk follows.
    for row in range(20):
        x = after[row : row + 1]
        for k in range(int(step[row]) + 1, STEPS):
            x = x - field(x, torch.tensor([1.0 - k / STEPS])) / STEPS
        torch.testing.assert_close(x[0], chunks[row])


def test_the_density_of_a_random_step_integrates_to_one() -> None:
    chain = one_step(shape=(1, 1), dim=1)
    _, record = chain.propose(field, noise(8, (1, 1)), generator())
    for row in record:
        places = torch.linspace(-6.0, 6.0, 4001)
        records = row.repeat(len(places), 1)
        records[:, 2] = places
        density = chain.log_prob(field, records).double().exp()
        assert float(torch.trapezoid(density, places.double())) == pytest.approx(1.0, abs=1e-4)


def test_all_steps_average_the_log_density_over_steps_and_components() -> None:
    chain = all_steps()
    chunks, record = chain.propose(field, noise(), generator())
    points = record.unflatten(1, (STEPS + 1, *SHAPE))
    torch.testing.assert_close(points[:, -1], chunks)
    torch.testing.assert_close(points[:, 0], noise())
    expected = torch.zeros(len(record))
    for k in range(STEPS):
        mean = points[:, k] - field(points[:, k], torch.full((len(record),), 1.0 - k / STEPS)) / STEPS
        deviation = 0.14 - 0.06 * k / (STEPS - 1)
        density = torch.distributions.Normal(mean, deviation).log_prob(points[:, k + 1])
        expected += density[..., :DIM].sum(dim=(1, 2)) / (STEPS * SHAPE[0] * DIM)
    torch.testing.assert_close(chain.log_prob(field, record), expected)


@pytest.mark.parametrize("level", [0.0001, 0.5, 1.0])
def test_noise_leaves_the_distribution_of_chunks_as_it_is(level: float) -> None:
    """A flow to the normal distribution with mean 1 and deviation 0.5, whose velocity is known."""

    def gaussian(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = time.view(-1, 1, 1)
        away = (noisy - (1 - t)) / (t**2 + (1 - t) ** 2 * 0.25)
        return t * away - (1 + (1 - t) * 0.25 * away)

    chain = one_step(level, steps=300, shape=(1, 1), dim=1)
    start = torch.randn((20_000, 1, 1), generator=generator(2))
    chunks, _ = chain.propose(gaussian, start, generator(3))
    assert float(chunks.mean()) == pytest.approx(1.0, abs=0.015)
    assert float(chunks.std()) == pytest.approx(0.5, abs=0.012)


@pytest.mark.parametrize("kind", ["one_step", "all_steps", "fpo"])
def test_padding_has_no_part_in_it_and_the_same_policy_has_the_ratio_one(kind: str) -> None:
    made: Any = {
        "one_step": one_step, "all_steps": all_steps, "fpo": lambda: FlowLosses(SHAPE, DIM, STEPS, 8, torch.ones_like)
    }[kind]()  # fmt: skip
    _, record = made.propose(field, noise(), generator())
    assert record.shape == (6, made.size)
    before = made.log_prob(field, record)
    assert torch.equal(made.log_prob(field, record), before)

    def only_padding(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        found = field(noisy, time)
        return torch.cat([found[..., :DIM], found[..., DIM:] + 1.0], dim=-1)

    assert torch.equal(made.log_prob(only_padding, record), before)
    assert (made.log_prob(lambda noisy, time: field(noisy, time) + 0.1, record) != before).all()
    again = made.propose(field, noise(), generator())[1]
    assert torch.equal(again, record)


def test_fpo_averages_losses_under_the_noises_and_times_of_the_proposal() -> None:
    losses = FlowLosses(SHAPE, DIM, STEPS, 8, lambda time: 1.0 + time)
    chunks, record = losses.propose(field, noise(), generator())
    x = noise()
    for k in range(STEPS):  # a chunk is what the ODE gives
        x = x - field(x, torch.full((6,), 1.0 - k / STEPS)) / STEPS
    torch.testing.assert_close(chunks, x)
    found = losses.log_prob(field, record)
    drawn = np.asarray(record[:, math.prod(SHAPE) : -8]).reshape(6, 8, *SHAPE)
    times = np.asarray(record[:, -8:])
    assert 0.3 < times.mean() < 0.7  # uniform
    assert len(np.unique(times)) == 48
    for row in range(6):
        values = []
        for sample in range(8):
            t, eps, clean = times[row, sample], drawn[row, sample], np.asarray(chunks[row])
            velocity = np.sin(2 * (t * eps + (1 - t) * clean)) + t
            values.append((1 + t) * np.mean((velocity - (eps - clean))[:, :DIM] ** 2))
        assert float(found[row]) == pytest.approx(-np.mean(values), rel=1e-4)


def test_the_loss_is_the_policys_own(lab: Any) -> None:
    for prediction in ("velocity", "sample"):
        policy = lab.policy(prediction_type=prediction).eval()
        with torch.no_grad():
            policy.denoiser.write.weight.normal_(std=0.1, generator=generator())
        observations, _ = lab.envs(4).reset(seed=0)
        context, best = policy.context_of(observations), torch.full((4,), policy.codec.best_bin)
        chunks = policy.propose(context, torch.randn((4, *policy.noise_shape), generator=generator()), 1.0)
        wanted = policy.loss(context, best, chunks, generator(5), condition_dropout=0.0)
        clean = policy.normalise(chunks, context.state)
        eps, time, _ = policy.training_draws(clean, best, generator(5), 0.0)
        flat = torch.cat([clean, eps, time[:, None]], dim=1)
        losses = FlowLosses(policy.noise_shape, policy.spec.layout.dim, 3, 1, policy.loss_weight)
        found = losses.log_prob(policy.velocity_field(context, best), flat)
        torch.testing.assert_close(found, -wanted, rtol=1e-3, atol=1e-4)


def test_the_velocity_field_is_what_sampling_integrates(lab: Any) -> None:
    policy = lab.policy(guidance=2.0).eval()
    with torch.no_grad():
        policy.denoiser.write.weight.normal_(std=0.1, generator=generator())
    observations, _ = lab.envs(4).reset(seed=0)
    context, best = policy.context_of(observations), torch.full((4,), policy.codec.best_bin)
    start = torch.randn((4, *policy.noise_shape), generator=generator())
    for guidance in (1.0, 2.0):
        losses = FlowLosses(policy.noise_shape, policy.spec.layout.dim, policy.config.steps, 1, policy.loss_weight)
        flat, _ = losses.propose(policy.velocity_field(context, best, guidance), start, generator())
        expected = policy.sample(context, best, start, guidance=guidance)
        torch.testing.assert_close(policy.denormalise(flat, context.state), expected)
