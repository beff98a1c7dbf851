"""Training of the dynamics: first the autoencoder, then the transformer on latents that are encoded once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rise_env.data import Dataset, FocusedSampler, Sampler, ShuffledSampler, TaskCentricSampler, WindowBatch
from rise_env.dynamics.autoencoder import ImageAutoencoder, VideoAutoencoder, spread, to_unit
from rise_env.dynamics.evaluation import evaluate_autoencoder, evaluate_dynamics
from rise_env.dynamics.flow import add_noise, draw_sigma, foreground_weight
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining, FrameValues, Latents, conditions, draw_seed
from rise_env.errors import ConfigError
from rise_env.files import write_json

__all__ = ["train_autoencoder", "train_dynamics", "train_transformer", "transformer_loss"]


def train_dynamics(
    training: DynamicsTraining, autoencoder: str | Path | None = None, initial: str | Path | None = None
) -> LatentDynamics:
    """Train autoencoder and transformer; an interrupted run goes on where it stood.

    Args:
        training: The run.
        autoencoder: Directory of a dynamics model whose autoencoder is taken instead of training one.
        initial: Directory of a dynamics model to go on from, e.g. on new recordings: its autoencoder and its scales
            stay, its transformer is trained on.

    Returns:
        The model with averaged weights, as in `<folder>/model`.

    Raises:
        TrainingError: If a loss is not finite.
        CheckpointError: If a saved state is damaged or belongs to other settings.
        ConfigError: If there is no autoencoder.
    """
    training.start()
    config = training.config
    source = initial if initial is not None else autoencoder
    first = None if source is None else LatentDynamics.from_pretrained(source, device=training.device)
    taken = first.autoencoder if first is not None else None
    torch.manual_seed(config.training.seed)
    # The weights of a video autoencoder that is taken over need not be where its settings found them.
    video = taken.architecture if isinstance(taken, VideoAutoencoder) else None
    model = LatentDynamics(config, training.shape, video)
    _fit_scaler(model, training)
    model.to(training.device)
    if initial is not None:
        assert first is not None
        if first.shape != model.shape:
            raise ConfigError(f"{initial} has shape {first.shape}, the task {model.shape}")
        _take_over(model, first, initial)
        first = taken = None  # its weights would be in the way
    elif autoencoder is not None:
        assert taken is not None
        if taken.latent_shape != model.autoencoder.latent_shape or type(taken) is not type(model.autoencoder):
            raise ConfigError(
                f"the autoencoder of {autoencoder} makes latents {taken.latent_shape}, "
                f"the configuration wants {model.autoencoder.latent_shape}"
            )
        model.autoencoder = taken
    else:
        train_autoencoder(training, model)
    return train_transformer(training, model)


def _take_over(model: LatentDynamics, first: LatentDynamics, path: str | Path) -> None:
    """Take the weights of another model; a value head that it lacks begins anew."""
    given = first.state_dict()
    new = [name for name in model.state_dict() if name.startswith("transformer.value_head.") and name not in given]
    try:
        model.load_state_dict({**given, **{name: model.state_dict()[name] for name in new}})
    except RuntimeError as error:
        raise ConfigError(f"{path} has other sizes than the configuration: {error}") from error


def _fit_scaler(model: LatentDynamics, training: DynamicsTraining) -> None:
    dataset, pool = training.dataset, training.frames
    chosen = np.linspace(0, len(training.train) - 1, min(len(training.train), 4096)).astype(np.int64)
    batch = training.train.batch(chosen)
    relative = (batch.actions - batch.states[:, -1:]).reshape(-1, dataset.state.shape[1])
    model.scaler.fit(dataset.state[pool], dataset.action[pool], relative)


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
    parts = settings.gradient_accumulation_steps
    if size < parts:
        raise ConfigError(
            f"dynamics.training: autoencoder_batch_size is less than a picture a camera for {parts} parts"
        )
    sampler = ShuffledSampler(len(pool), size, settings.seed)
    mean = _mean_image(dataset, pool).to(device)
    held_out = training.held_out.index

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(draw_seed(settings.seed, step, part))
        frames = torch.from_numpy(dataset.frames(pool[sampler.draw(step)[part::parts]])).to(device)
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

    budget, identity = training.autoencoder_budget, training.identity("autoencoder")
    peak = settings.autoencoder_learning_rate
    loop = training.loop("autoencoder", autoencoder, loss, budget, identity, evaluate=evaluate, learning_rate=peak,
                         accumulate=parts)  # fmt: skip
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


def train_transformer(
    training: DynamicsTraining,
    model: LatentDynamics,
    batch_loss: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]] | None = None,
    told: Mapping[str, Any] | None = None,
) -> LatentDynamics:
    """Train the transformer of a model whose autoencoder is trained.

    Args:
        training: The run.
        model: The model.
        batch_loss: Another loss than `transformer_loss`, with its arguments.
        told: What else must not change when the run is resumed.

    Returns:
        A copy of the model with averaged weights, as in `<folder>/model`.
    """
    settings = training.config.training
    model.autoencoder.eval().requires_grad_(False)
    if settings.gradient_checkpointing:
        official: Any = model.transformer
        official.network.checkpointing = True
    latents = Latents(model, training)
    sampler = _sampler(training)
    averaged = _around(model)
    size = settings.batch_size // settings.gradient_accumulation_steps

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows, seed = slice(part * size, (part + 1) * size), draw_seed(settings.seed, step, part)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout of the official transformer draws from here
        batch = training.train.batch(sampler.draw(step)[rows])
        pair = latents.augmented(batch, generator)
        return (batch_loss or transformer_loss)(model, batch, *pair, generator, settings.precision, training.values)

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        averaged.transformer = average
        metrics = evaluate_dynamics(averaged, latents, training, step)
        averaged.save_pretrained(training.folder / "model")
        return metrics

    identity = {**training.identity("transformer"), **(told or {})}
    identity["latents"] = str(latents.frames.double().mean().item())
    parts = settings.gradient_accumulation_steps
    loop = training.loop(
        "transformer", model.transformer, loss, training.budget, identity, evaluate=evaluate, accumulate=parts
    )
    averaged.transformer = loop.run()
    averaged.save_pretrained(training.folder / "model")
    write_json(training.folder / "metrics.json", {"step": loop.step, "seconds": loop.elapsed, **loop.metrics})
    return averaged


def _around(model: LatentDynamics) -> LatentDynamics:
    """A copy of a model for another transformer, which is still to come; they share the autoencoder."""
    transformer, model.transformer = model.transformer, nn.Identity()
    copied = copy.deepcopy(model, {id(model.autoencoder): model.autoencoder}).eval().requires_grad_(False)
    model.transformer = transformer
    return copied


def transformer_loss(
    model: LatentDynamics,
    batch: WindowBatch,
    history: torch.Tensor,
    clean: torch.Tensor,
    generator: torch.Generator,
    precise: str,
    values: FrameValues | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of the transformer on some windows, and its metrics.

    Args:
        model: The model.
        batch: The windows.
        history: Latents of their histories (n, V, T, C, h, w).
        clean: Latents of their futures (n, V, F, C, h, w).
        generator: Source of noise and its levels.
        precise: See `TrainingConfig.precision`.
        values: What the value head learns; None leaves it alone.
    """
    device, flow = history.device, model.config.flow
    actions, states, text = conditions(model, batch, device)
    sigma = draw_sigma(len(batch), flow, generator)
    strength = sigma * torch.rand(len(batch), generator=generator) * flow.context_noise
    noise = torch.randn(clean.shape, generator=generator).to(device)
    context = torch.randn(history.shape, generator=generator).to(device)
    sigma, current = sigma.to(device), history[:, :, -1:]
    with precision(precise, device):
        noisy_history = add_noise(history, context, strength.to(device))
        inputs = (add_noise(clean, noise, sigma), noisy_history, sigma, *actions, text)
        output, residual, logits = model.denoise(*inputs, current=current)
    target = clean if flow.target == "x0_residual" else noise - clean
    weight = foreground_weight(clean, current, flow) if flow.foreground else 1.0
    total = error = (weight * (output.float() - target).square()).mean()
    if residual is not None:
        total = error + flow.state_weight * functional.smooth_l1_loss(residual, states)
    metrics = {"loss": error.detach()}
    if logits is not None and values is not None:
        metrics["value"] = _value_loss(values, batch, logits, sigma)
        total, metrics["value"] = total + flow.value_weight * metrics["value"], metrics["value"].detach()
    return total, metrics


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
    if settings.batching == "focused":
        return FocusedSampler(
            training.train, _in_focus(training), settings.focus_share, settings.batch_size, settings.seed
        )
    if settings.batch_size % settings.scenes:
        raise ConfigError(
            f"dynamics.training: batch_size {settings.batch_size} is not a multiple of scenes {settings.scenes}"
        )
    each = settings.batch_size // settings.scenes
    return TaskCentricSampler(training.train, settings.scenes, each, settings.seed, settings.scene)


def _in_focus(training: DynamicsTraining) -> np.ndarray:
    """Numbers of the training windows in focus; ConfigError if there is none."""
    settings, windows, values = training.config.training, training.train, training.values
    (low, high), begin = settings.focus, windows.index
    near = np.ones(len(windows), bool)
    if settings.focus_frames:
        near &= windows.frame < settings.focus_frames
    if (low, high) != (0.0, 1.0) or not settings.focus_frames:
        if values is None:
            raise ConfigError(
                "dynamics.training.batching=focused needs value labels, which a model with a value head has, or "
                "dynamics.training.focus_frames"
            )
        near &= values.known[begin] & (values.progress[begin] >= low) & (values.progress[begin] <= high)
    if not near.any():
        where = f" within the first {settings.focus_frames} frames" if settings.focus_frames else ""
        raise ConfigError(
            f"dynamics.training.focus=[{low:g}, {high:g}]: no recorded window begins at such a value{where}"
        )
    return np.flatnonzero(near)
