"""Changes to training frames: what light does, and what imagination does (blur)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from rise_env.value.config import TrainingConfig

__all__ = ["augment_latents", "augment_pixels"]


def augment_pixels(images: torch.Tensor, config: TrainingConfig, generator: torch.Generator) -> torch.Tensor:
    """Images float (n, V, C, H, W) in [-1, 1] with other brightness and contrast, some blurred, shifted by pixels."""
    count, device = len(images), images.device

    def uniform(low: float, high: float) -> torch.Tensor:
        drawn = torch.rand(count, 1, 1, 1, 1, generator=generator) * (high - low) + low
        return drawn.to(device)

    if config.blur:
        chosen = uniform(0, 1) < config.blur
        strength = uniform(0, 1) * chosen
        flat = images.flatten(0, 1)
        blurred = F.avg_pool2d(flat, 3, stride=1, padding=1, count_include_pad=False).unflatten(0, images.shape[:2])
        images = torch.lerp(images, blurred, strength)
    if config.brightness:
        contrast = uniform(1 - config.brightness, 1 + config.brightness)
        images = (images * contrast + uniform(-config.brightness, config.brightness)).clamp(-1, 1)
    return _shift(images, config.shift, generator) if config.shift else images


def _shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    count, _, _, height, width = images.shape
    padded = F.pad(images.flatten(0, 1), [pixels] * 4, mode="replicate").unflatten(0, images.shape[:2])
    moves = torch.randint(0, 2 * pixels + 1, (count, 2), generator=generator).tolist()
    return torch.stack([padded[i, :, :, y : y + height, x : x + width] for i, (y, x) in enumerate(moves)])


def augment_latents(
    latents: torch.Tensor, scale: torch.Tensor, config: TrainingConfig, generator: torch.Generator
) -> torch.Tensor:
    """Latents float (n, V, C, h, w) with noise, relative to the standard deviation (C, 1, 1) of each channel."""
    if not config.latent_noise:
        return latents
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    return latents + noise * (config.latent_noise * scale)
