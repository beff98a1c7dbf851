"""Flow matching: x_sigma = (1 - sigma) x0 + sigma noise, and Euler's way back from sigma = 1 to 0."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from rise_env.dynamics.config import FlowConfig

__all__ = ["add_noise", "draw_noise", "draw_sigma", "euler", "foreground_weight", "sigma_schedule", "to_velocity"]


def draw_sigma(count: int, config: FlowConfig, generator: torch.Generator) -> torch.Tensor:
    """Noise levels of training samples, float32 (count,): 1 - logit-normal, and exactly 1 for a share of them."""
    normal = torch.randn(count, generator=generator) * config.sigma_std + config.sigma_mean
    sigma = 1.0 - torch.sigmoid(normal)
    pure = torch.rand(count, generator=generator) < config.pure_noise
    return torch.where(pure, torch.ones_like(sigma), sigma)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """(1 - sigma) clean + sigma noise, with sigma (B,) for tensors (B, ...)."""
    sigma = sigma.reshape(-1, *[1] * (clean.dim() - 1)).to(clean)
    return (1.0 - sigma) * clean + sigma * noise


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> torch.Tensor:
    """Normal noise float32 (B, *shape); row i comes from generator i alone, drawn on the generator's device."""
    rows = [torch.randn(tuple(shape), generator=generator, device=generator.device) for generator in generators]
    return torch.stack(rows).to(device)


def sigma_schedule(steps: int, sigmas: Sequence[float] = ()) -> torch.Tensor:
    """Noise levels of Euler steps, float32 (n + 1,): `sigmas`, or from 1 to 1/steps in equal steps, then 0."""
    levels = torch.tensor(sigmas) if sigmas else torch.linspace(1.0, 1.0 / steps, steps)
    return torch.cat([levels, torch.zeros(1)])


def to_velocity(sample: torch.Tensor, clean: torch.Tensor, sigma: float) -> torch.Tensor:
    """Velocity (noise - x0) that belongs to a prediction of the clean sample."""
    return (sample - clean) / sigma


def euler(
    velocity: Callable[[torch.Tensor, float], torch.Tensor], noise: torch.Tensor, schedule: torch.Tensor
) -> torch.Tensor:
    """Integrate from noise to a sample, in float32.

    Args:
        velocity: Given x (B, ...) and its noise level, the velocity noise - x0.
        noise: Start, (B, ...).
        schedule: Noise levels; see `sigma_schedule`.
    """
    sample = noise.float()
    for level, following in itertools.pairwise(schedule.tolist()):
        sample = sample + (following - level) * velocity(sample, level).float()
    return sample


def foreground_weight(clean: torch.Tensor, current: torch.Tensor, config: FlowConfig) -> torch.Tensor:
    """Loss weight of every latent position, mean 1 per batch: more where the future differs from the current frame.

    Args:
        clean: (B, V, F, C, h, w).
        current: (B, V, 1, C, h, w).
        config: `foreground` is the extra weight at distance `foreground_scale` or more.

    Returns:
        (B, V, F, 1, h, w).
    """
    distance = (clean - current).square().mean(dim=3, keepdim=True).sqrt() / config.foreground_scale
    weight = 1.0 + config.foreground * distance.clamp(max=1.0)
    return weight / weight.mean()
