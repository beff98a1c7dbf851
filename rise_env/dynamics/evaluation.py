"""Metrics and pictures on held-out windows, while a dynamics model is trained."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rise_env.dynamics.autoencoder import ImageAutoencoder, spread, to_pixels, to_unit
from rise_env.dynamics.flow import draw_noise
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining, Latents, conditions
from rise_env.files import atomic_path

__all__ = ["evaluate_autoencoder", "evaluate_dynamics", "psnr", "write_picture"]

_WINDOWS, _BATCH = 256, 64
_MOVED = 0.08  # a pixel is foreground if it changes by more than this between current frame and chunk end


def psnr(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Peak signal to noise ratio in dB of uint8 images, over all pixels or those of a mask."""
    square = (first.float() - second.float()).square() / 255.0**2
    error = float(square.mean() if mask is None else (square * mask).sum() / (mask.sum() * 3).clamp(min=1))
    return -10.0 * float(np.log10(max(error, 1e-10)))


@torch.no_grad()
def evaluate_autoencoder(
    autoencoder: ImageAutoencoder, training: DynamicsTraining, held_out: np.ndarray, step: int
) -> dict[str, float]:
    """PSNR per camera and spread of the latents on held-out frames; writes a picture of frames and reconstructions."""
    chosen = held_out[np.linspace(0, len(held_out) - 1, min(len(held_out), 96)).astype(int)]
    frames = torch.from_numpy(training.dataset.frames(chosen)).to(training.device)
    with precision(training.config.flow.precision, training.device):
        raw = autoencoder.encode_images(to_unit(frames).flatten(0, 1))
        decoded = to_pixels(autoencoder.decode_images(raw)).unflatten(0, frames.shape[:2])
    metrics = {
        f"psnr_{camera}": psnr(decoded[:, view], frames[:, view]) for view, camera in enumerate(training.shape.cameras)
    }
    # The parts: a collapsed encoder has a spread near zero while the overall deviation looks normal.
    metrics["spread"] = spread(raw) / max(float(raw.float().std()), 1e-9)
    rows = [images[:6, view] for view in range(len(training.shape.cameras)) for images in (frames, decoded)]
    write_picture(training.folder / "samples" / f"autoencoder_{step:07d}.png", rows)
    return metrics


@torch.no_grad()
def evaluate_dynamics(
    model: LatentDynamics, latents: Latents, training: DynamicsTraining, step: int
) -> dict[str, float]:
    """Imagination against what happened, on held-out windows.

    Latent mean squared errors (`latent_mse`, of copying the current frame, and with another window's actions), PSNR at
    the end of the chunk (of imagination, of copying, of the autoencoder alone), overall and where something moved.
    Writes a picture of real and imagined frames.
    """
    windows, device = training.held_out, training.device
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _WINDOWS)).astype(np.int64))
    sums: dict[str, float] = collections.defaultdict(float)
    pictures: list[torch.Tensor] = []
    ends: dict[str, list[torch.Tensor]] = {name: [] for name in ("true", "current", "imagined", "coded")}
    for start in range(0, len(chosen), _BATCH):
        batch = windows.batch(chosen[start : start + _BATCH])
        history, clean = latents.history(batch), latents.future(batch)
        (tokens, state), states, text = conditions(model, batch, device)
        generators = [torch.Generator().manual_seed(int(index)) for index in batch.index]
        noise = draw_noise(clean.shape[1:], generators, device)
        with precision(model.config.flow.precision, device):
            imagined, residual, logits = model.sample(noise, history, tokens, state, text)
            shuffled = model.sample(noise, history, tokens.roll(len(tokens) // 2 or 1, 0), state, text).latents
            pixels = model._decode(imagined.transpose(1, 2))
            coded = model._decode(clean.transpose(1, 2))
            present = torch.from_numpy(training.dataset.frames(batch.index)).to(device)
            if model.config.details:
                details = torch.stack([present, model._decode(history[:, :, -1:].transpose(1, 2))[:, 0]], dim=1)
                pixels = model.with_details(pixels, details)
        current = history[:, :, -1:]
        errors = {"latent_mse": imagined, "latent_mse_shuffled": shuffled}
        if model.autoencoder.per_frame:
            errors["latent_mse_copy"] = current
        for name, guess in errors.items():
            sums[name] += float((guess - clean).square().mean()) * len(batch)
        if residual is not None:
            for name, error in (("state_error", residual - states), ("state_error_command", states)):
                sums[name] += float(error.abs().mean()) * len(batch)
        if logits is not None and training.values is not None:
            labels, known = training.values.of(batch.future_index, device)
            wrong = (logits.sigmoid().mean(0) - labels).square() * known
            sums["value_error"] += float(wrong.sum() / known.sum().clamp(min=1)) * len(batch)
        true = torch.from_numpy(training.dataset.frames(batch.future_index)).to(device)
        for kept, images in zip(ends.values(), (true[:, -1], present, pixels[:, -1], coded[:, -1]), strict=True):
            kept.append(images)
        if len(pictures) < 8:
            views, which = range(len(training.shape.cameras)), (0, len(true) // 2)
            pictures += [video[i, :, view] for i in which for view in views for video in (true, pixels)]
    metrics = {name: total / len(chosen) for name, total in sums.items()}
    end = {name: torch.cat(parts) for name, parts in ends.items()}
    moved = (end["true"].float() - end["current"].float()).abs().mean(dim=-1, keepdim=True) > 255 * _MOVED
    for name, key in (("", "imagined"), ("_copy", "current"), ("_autoencoder", "coded")):
        metrics[f"psnr_end{name}"] = psnr(end[key], end["true"])
        metrics[f"psnr_end_moved{name}"] = psnr(end[key], end["true"], moved)
    write_picture(training.folder / "samples" / f"imagined_{step:07d}.png", pictures)
    if training.writer is not None:
        strip = torch.cat([torch.cat(list(row), dim=1) for row in pictures])
        training.writer.add_image("imagined", strip.cpu().numpy(), step, dataformats="HWC")
    return metrics


def write_picture(path: Path, rows: Sequence[torch.Tensor]) -> None:
    """Write rows of uint8 images (n, H, W, 3) below each other as a PNG."""
    from PIL import Image

    width = min(len(row) for row in rows)
    image = Image.fromarray(torch.cat([torch.cat(list(row[:width]), dim=1) for row in rows]).cpu().numpy())
    if max(image.size) < 1600:
        image = image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
    with atomic_path(path) as aside:
        image.save(aside)
