"""Training of the image autoencoder of a dynamics model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from rise_env.data import Dataset, ShuffledSampler
from rise_env.dynamics.autoencoder import ImageAutoencoder, spread, to_unit
from rise_env.dynamics.evaluation import evaluate_autoencoder
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining, draw_seed
from rise_env.errors import ConfigError

__all__ = ["train_autoencoder"]


def train_autoencoder(training: DynamicsTraining, model: LatentDynamics) -> None:
    """Train the autoencoder of a model in place, and measure the statistics of its latents.

    Raises:
        ConfigError: If it is a video autoencoder without weights: that is not trained here.
    """
    autoencoder = model.autoencoder
    if not isinstance(autoencoder, ImageAutoencoder):
        if training.config.video_autoencoder.weights:
            return
        raise ConfigError(
            "the LTX video autoencoder is not trained here: give dynamics.video_autoencoder.weights (a directory or "
            "Hub id with sub-folder vae, e.g. Lightricks/LTX-Video), or use dynamics.autoencoder_kind=image"
        )
    config, settings = training.config.autoencoder, training.config.training
    device, dataset, pool = training.device, training.dataset, training.frames
    size = max(settings.autoencoder_batch_size // len(training.shape.cameras), 1)
    sampler = ShuffledSampler(len(pool), size, settings.seed)
    mean = _mean_image(dataset, pool).to(device)
    held_out = training.held_out.index

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(draw_seed(settings.seed, step))
        frames = torch.from_numpy(dataset.frames(pool[sampler.draw(step)])).to(device)
        images = to_unit(frames)
        weight = 1.0 + config.foreground * (images - mean).abs().mean(dim=-3, keepdim=True).clamp(max=1.0)
        weight, images = (weight / weight.mean()).flatten(0, 1), images.flatten(0, 1)
        with precision(settings.precision, device):
            latents = autoencoder.encode_images(images)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            decoded = autoencoder.decode_images(latents + config.noise * noise).float()
        error = decoded - images
        reconstruction = (weight * (error.abs() + config.squares * error.square())).mean()
        edges = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
        edges = edges + (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
        penalty = latents.float().square().mean()
        total = reconstruction + config.edges * edges + config.latent_penalty * penalty
        metrics = {"loss": total.detach(), "spread": torch.tensor(spread(latents.detach()))}
        return total, metrics

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, ImageAutoencoder)
        return evaluate_autoencoder(average, training, held_out, step)

    budget, identity = training.autoencoder_budget, training.identity("autoencoder", "training")
    peak = settings.autoencoder_learning_rate
    loop = training.loop("autoencoder", autoencoder, loss, budget, identity, evaluate=evaluate, learning_rate=peak)
    model.autoencoder.load_state_dict(loop.run().state_dict())
    _fit_latents(autoencoder, dataset, pool, device, settings.seed)


def _mean_image(dataset: Dataset, pool: np.ndarray) -> torch.Tensor:
    """Mean image of each camera, (V, 3, H, W) in [-1, 1]: what differs from it is foreground."""
    chosen = pool[np.linspace(0, len(pool) - 1, min(len(pool), 512)).astype(int)]
    return to_unit(torch.from_numpy(dataset.frames(chosen))).mean(dim=0)


@torch.no_grad()
def _fit_latents(autoencoder: ImageAutoencoder, dataset: Dataset, pool: np.ndarray, device: Any, seed: int) -> None:
    """Set the mean and standard deviation by which latents are normalised."""
    chosen = np.sort(np.random.default_rng(seed).choice(pool, min(len(pool), 1024), replace=False))
    parts = []
    for start in range(0, len(chosen), 128):
        frames = torch.from_numpy(dataset.frames(chosen[start : start + 128])).to(device)
        parts.append(autoencoder.encode_images(to_unit(frames).flatten(0, 1)).float())
    latents = torch.cat(parts)
    autoencoder.latents_mean.copy_(latents.mean(dim=(0, 2, 3)))
    autoencoder.latents_std.copy_(latents.std(dim=(0, 2, 3)).clamp(min=1e-4))
