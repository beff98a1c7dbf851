"""Training of the transformer of a dynamics model, on latents that are encoded once."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from rise_env.data import Sampler, ShuffledSampler, TaskCentricSampler, WindowBatch
from rise_env.dynamics.batches import Latents, conditions
from rise_env.dynamics.evaluation import evaluate_dynamics
from rise_env.dynamics.flow import add_noise, draw_sigma, foreground_weight
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining, FrameValues, draw_seed
from rise_env.errors import ConfigError
from rise_env.files import write_json

__all__ = ["train_transformer"]


def train_transformer(training: DynamicsTraining, model: LatentDynamics) -> LatentDynamics:
    """Train the transformer of a model whose autoencoder is trained.

    Returns:
        A copy of the model with averaged weights, as in `<folder>/model`.
    """
    settings = training.config.training
    device, flow = training.device, training.config.flow
    model.autoencoder.eval().requires_grad_(False)
    latents = Latents(model, training)
    sampler = _sampler(training)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    size = settings.batch_size // settings.gradient_accumulation_steps

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = slice(part * size, (part + 1) * size)
        generator = torch.Generator().manual_seed(draw_seed(settings.seed, step, part))
        batch = training.train.batch(sampler.draw(step)[rows])
        history, clean = latents.history(batch), latents.future(batch)
        actions, states, text = conditions(model, batch, device)
        sigma = draw_sigma(len(batch), flow, generator)
        strength = sigma * torch.rand(len(batch), generator=generator) * flow.context_noise
        noise = torch.randn(clean.shape, generator=generator).to(device)
        context = torch.randn(history.shape, generator=generator).to(device)
        sigma, current = sigma.to(device), history[:, :, -1:]
        with precision(settings.precision, device):
            noisy_history = add_noise(history, context, strength.to(device))
            inputs = (add_noise(clean, noise, sigma), noisy_history, sigma, *actions, text)
            output, residual, logits = model.denoise(*inputs, current=current)
        target = clean if flow.target == "x0_residual" else noise - clean
        weight = foreground_weight(clean, current, flow) if flow.foreground else 1.0
        total = error = (weight * (output.float() - target).square()).mean()
        if residual is not None:
            total = error + flow.state_weight * functional.smooth_l1_loss(residual, states)
        metrics = {"loss": error.detach()}
        if logits is not None and training.values is not None:
            metrics["value"] = _value_loss(training.values, batch, logits, sigma)
            total, metrics["value"] = total + flow.value_weight * metrics["value"], metrics["value"].detach()
        return total, metrics

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        averaged.transformer.load_state_dict(average.state_dict())
        metrics = evaluate_dynamics(averaged, latents, training, step)
        averaged.save_pretrained(training.folder / "model")
        return metrics

    identity = training.identity("autoencoder", "transformer", "flow", "training", "alignment")
    identity["latents"] = str(latents.frames.double().mean().item())
    parts = settings.gradient_accumulation_steps
    loop = training.loop(
        "transformer", model.transformer, loss, training.budget, identity, evaluate=evaluate, accumulate=parts
    )
    averaged.transformer.load_state_dict(loop.run().state_dict())
    averaged.save_pretrained(training.folder / "model")
    write_json(training.folder / "metrics.json", {"step": loop.step, "seconds": loop.elapsed, **loop.metrics})
    return averaged


def _value_loss(values: FrameValues, batch: WindowBatch, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the value head (M, B, K), less the entropy of the labels: 0 is the best that can be had.

    Only where the future was pure noise: less noise would let the head read off what it is to predict. Each member
    learns from four fifths of the episodes, so that they differ where there is little to learn from.
    """
    labels, known = values.of(batch.future_index, logits.device)
    known = known * (sigma >= 1.0)[:, None]
    weight = known[None] * values.members(batch.episode, len(logits), logits.device)[:, :, None]
    losses = functional.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none")
    least = functional.binary_cross_entropy(labels, labels, reduction="none")  # entropy of the label itself
    return ((losses - least) * weight).sum() / weight.sum().clamp(min=1.0)


def _sampler(training: DynamicsTraining) -> Sampler:
    settings = training.config.training
    if settings.batching == "shuffled":
        return ShuffledSampler(training.train, settings.batch_size, settings.seed)
    if settings.batch_size % settings.scenes:
        raise ConfigError(
            f"dynamics.training: batch_size {settings.batch_size} is not a multiple of scenes {settings.scenes}"
        )
    each = settings.batch_size // settings.scenes
    return TaskCentricSampler(training.train, settings.scenes, each, settings.seed)
