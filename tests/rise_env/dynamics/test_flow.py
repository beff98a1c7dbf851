from __future__ import annotations

import pytest
import torch

from rise_env.dynamics.config import FlowConfig
from rise_env.dynamics.flow import (
    add_noise,
    draw_noise,
    draw_sigma,
    euler,
    foreground_weight,
    sigma_schedule,
    to_velocity,
)
from rise_env.errors import ConfigError

MEAN, DEVIATION = 1.5, 0.4
FEW = (1.0, 0.9375, 0.8333, 0.625)


def gaussian(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """E[x0 | x] and E[noise | x] for x0 ~ N(MEAN, DEVIATION^2)."""
    keep = 1.0 - sigma
    variance = keep**2 * DEVIATION**2 + sigma**2
    centred = x - keep * MEAN
    return MEAN + keep * DEVIATION**2 / variance * centred, sigma / variance * centred


def test_many_steps_give_the_gaussian_they_were_told_of() -> None:
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))

    def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
        clean, eps = gaussian(x, sigma)
        return eps - clean

    samples = euler(velocity, noise, sigma_schedule(200))
    assert float(samples.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(samples.std()) == pytest.approx(DEVIATION, abs=0.02)


def test_clean_prediction_and_velocity_are_the_same_sampler() -> None:
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    for schedule in (sigma_schedule(7), sigma_schedule(1, FEW)):
        by_velocity = euler(lambda x, s: gaussian(x, s)[1] - gaussian(x, s)[0], noise, schedule)
        by_clean = euler(lambda x, s: to_velocity(x, gaussian(x, s)[0], s), noise, schedule)
        torch.testing.assert_close(by_velocity, by_clean, rtol=1e-4, atol=1e-4)


def test_one_step_is_the_prediction_itself() -> None:
    clean = torch.randn(4, 2)
    torch.testing.assert_close(
        euler(lambda x, s: to_velocity(x, clean, 1.0), torch.randn(4, 2), sigma_schedule(1)), clean
    )


def test_schedule_is_the_official_one() -> None:
    torch.testing.assert_close(sigma_schedule(4), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    assert sigma_schedule(1).tolist() == [1.0, 0.0]


def test_schedule_may_be_an_explicit_list() -> None:
    """Shift 5 of four equal steps, as others run it: s -> 5 s / (1 + 4 s)."""
    shifted = [5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    assert sigma_schedule(9, FEW).tolist() == pytest.approx([*shifted, 0.0], abs=1e-4)
    assert FlowConfig(steps=9, sigmas=FEW).denoising_steps == 4
    assert FlowConfig(steps=9).denoising_steps == 9


@pytest.mark.parametrize(
    "sigmas", [(0.9, 0.5), (1.0, 0.5, 0.5), (1.0, 0.5, 0.0), (1.0, -0.5), (1.5, 1.0), (1.0, float("nan"))]
)
def test_a_list_that_is_no_schedule_is_an_error(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="fall strictly"):
        FlowConfig(sigmas=sigmas)


def test_noise_of_an_environment_comes_from_its_own_generator() -> None:
    def generators(seeds: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    device = torch.device("cpu")
    together = draw_noise((2, 3), generators([0, 1, 2]), device)
    assert torch.equal(draw_noise((2, 3), generators([1]), device)[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_levels_of_noise() -> None:
    config = FlowConfig(pure_noise=0.3, sigma_mean=0.2)
    sigma = draw_sigma(20_000, config, torch.Generator().manual_seed(0))
    assert float((sigma == 1.0).float().mean()) == pytest.approx(0.3, abs=0.02)
    drawn = sigma[sigma < 1]
    assert float(torch.logit(1 - drawn).mean()) == pytest.approx(0.2, abs=0.03)
    assert bool(((sigma > 0) & (sigma <= 1)).all())


def test_adding_noise() -> None:
    clean, noise = torch.ones(2, 3), torch.full((2, 3), 5.0)
    torch.testing.assert_close(add_noise(clean, noise, torch.tensor([0.0, 1.0])), torch.stack([clean[0], noise[1]]))


def test_weight_is_on_what_moves() -> None:
    current = torch.zeros(1, 1, 1, 2, 2, 2)
    clean = torch.zeros(1, 1, 3, 2, 2, 2)
    clean[..., 0, 0] = 1.0
    weight = foreground_weight(clean, current, FlowConfig(foreground=2.0))
    assert weight.shape == (1, 1, 3, 1, 2, 2)
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight[..., 0, 0].mean() / weight[..., 1, 1].mean()) == pytest.approx(3.0)
