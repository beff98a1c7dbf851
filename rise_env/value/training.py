"""Training of value models: progress first, then temporal differences on explicit outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from rise_env.config import decode
from rise_env.data.splits import split_episodes
from rise_env.errors import TrainingError
from rise_env.files import to_plain, write_json
from rise_env.provenance import config_hash, provenance
from rise_env.training.loop import Budget, Progress
from rise_env.training.state import start_run
from rise_env.value.config import TrainingConfig, ValueConfig
from rise_env.value.evaluation import evaluate_value, read_values
from rise_env.value.imagined import ImaginedFrames
from rise_env.value.labels import FrameDataset, make_labels
from rise_env.value.loop import ValueLoop
from rise_env.value.model import InputShape, ValueModel
from rise_env.value.pictures import draw_values

__all__ = ["train_value"]

#: Held-out episodes that TensorBoard shows.
_SHOWN = 3


def train_value(
    config: ValueConfig | Mapping[str, Any],
    dataset: FrameDataset,
    out: str | Path,
    *,
    cameras: tuple[str, ...],
    chunk: int,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    budget: Budget | None = None,
    imagined: ImaginedFrames | None = None,
    initial: str | Path | None = None,
    device: str | torch.device = "cpu",
    report: Callable[[Progress], None] | None = None,
    tensorboard: bool = True,
) -> dict[str, Any]:
    """Train a value model, or go on with a run that was interrupted.

    Args:
        config: `value` section of a preset.
        dataset: Training and held-out episodes; `open_dataset` joins several datasets.
        out: Run folder: `model/` (what `ValueModel.from_pretrained` loads), `value_state.pt` (for resuming),
            `config.json` (resolved configuration and provenance), `metrics.json`, `tensorboard/`.
        cameras: Names of the views.
        chunk: Control steps per action chunk, for the advantage in the evaluation.
        split: Training and held-out episodes; by `rise_env.data.split_episodes` when omitted.
        budget: How long; the configured steps when None, whose ratio divides any budget between the phases.
        imagined: Imagined frames to mix in; see `rise_env.value.imagined`.
        initial: Value model to start from instead of random weights, e.g. to fine-tune it on imagined frames.
        device: Where to train.
        report: Called with the progress.
        tensorboard: Whether to write TensorBoard files.

    Returns:
        The evaluation on held-out episodes, JSON-ready.

    Raises:
        TrainingError: If a loss is not finite, or labels are missing.
        CheckpointError: If the state of an interrupted run is damaged, or of another run.
    """
    values = asdict(config) if isinstance(config, ValueConfig) else config
    config = decode(ValueConfig, values, "section 'value'")  # a 1 where a 1.0 belongs is the same configuration
    settings, out = config.training, Path(out)
    if config.model.heads == ("td",) and settings.progress_steps:
        raise TrainingError("nothing to train in the first phase: with the head 'td' alone, set progress_steps: 0")
    labels = make_labels(dataset, config.labels)
    train, held_out = _split(dataset, settings) if split is None else split
    train, held_out = np.asarray(train, np.int64), np.asarray(held_out, np.int64)
    index = labels.frames_of(train)
    if not len(index):
        raise TrainingError("no training episodes are left; lower value.training.held_out or record more")
    shape = _input_shape(dataset, cameras, config.model.reads_latents)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ValueModel(config.model, shape)
    if config.model.reads_latents:
        _standardise(model, dataset, index, settings.seed)
    if initial is not None:
        model = _start_from(initial, model)
    passing = ("checkpoint_seconds", "eval_frames")  # settings that do not decide what a run ends with
    lasting = {name: value for name, value in asdict(settings).items() if name not in passing}
    identity = {
        "value": {**to_plain(config), "training": lasting}, "input": shape, "episodes": config_hash(train.tolist()),
        "frames": dataset.num_frames, "tasks": sorted(set(labels.tasks)), "imagined": imagined is not None,
        "initial": None if initial is None else str(initial),
    }  # fmt: skip
    writer = start_run(out, {"value": config}, settings.seed, {"value": identity}, tensorboard)
    budget = budget or Budget(steps=settings.progress_steps + settings.td_steps)
    loop = ValueLoop(
        out, model.to(device), config, budget, identity, dataset, labels, index, imagined, report=report, writer=writer
    )
    best = cast(ValueModel, loop.run())
    measured = evaluate_value(best, dataset, labels, held_out, chunk, settings.eval_frames) if len(held_out) else None
    result = {
        "steps": loop.step,
        "minutes": loop.elapsed / 60,
        "train_frames": len(index),
        "return_scales": labels.return_scales,
        "held_out": measured,
        "provenance": provenance(asdict(config), settings.seed),
    }
    write_json(out / "metrics.json", result)
    for head, metrics in measured["heads"].items() if writer is not None and measured is not None else ():
        for name, value in metrics.items():
            if value is not None:
                writer.add_scalar(f"held_out/{head}/{name}", value, loop.step)
    if writer is not None:
        if not config.model.reads_latents:
            _show(writer, best, dataset, held_out[:_SHOWN], loop.step)
        writer.flush()
    return result


def _show(writer: Any, model: ValueModel, pixels: FrameDataset, episodes: np.ndarray, step: int) -> None:
    """Pictures of held-out episodes for TensorBoard."""
    for number in episodes.tolist():
        frames = int(pixels.starts[number]) + np.arange(int(pixels.lengths[number]))
        values, spread = read_values(model, pixels, frames, [str(pixels.episodes[number].task)] * len(frames))["output"]
        picture = np.asarray(draw_values(pixels, number, values, spread))
        writer.add_image(f"held_out/episode_{number}", picture, step, dataformats="HWC")


def _split(dataset: FrameDataset, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray]:
    if not config.held_out:
        return np.arange(len(dataset.lengths)), np.empty(0, np.int64)
    shares = {"train": 1 - config.held_out, "heldout": config.held_out}
    parts = split_episodes(cast("Any", dataset), shares, seed=0)
    return parts["train"], parts["heldout"]


def _input_shape(dataset: FrameDataset, cameras: tuple[str, ...], reads_latents: bool) -> InputShape:
    sample = np.asarray(dataset.frames(np.zeros(1, np.int64)))
    if sample.ndim != 5 or sample.shape[1] != len(cameras):
        raise TrainingError(f"frames have shape {sample.shape}, expected (n, V, ...) with the views {cameras}")
    if reads_latents and sample.dtype == np.uint8:
        raise TrainingError("value.model.reads_latents is true, but the dataset gives pixels; encode it first")
    if not reads_latents and sample.dtype != np.uint8:
        raise TrainingError(f"frames are {sample.dtype}, expected uint8 pixels (or set value.model.reads_latents)")
    if reads_latents:
        return InputShape(tuple(cameras), sample.shape[3], sample.shape[4], sample.shape[2])
    return InputShape(tuple(cameras), sample.shape[2], sample.shape[3])


def _standardise(model: ValueModel, dataset: FrameDataset, index: np.ndarray, seed: int) -> None:
    chosen = np.random.default_rng([seed, 0x57D]).choice(index, min(len(index), 512), replace=False)
    latents = torch.from_numpy(np.asarray(dataset.frames(np.sort(chosen)), np.float32))
    model.latent_mean.copy_(latents.mean((0, 1, 3, 4)).reshape(-1, 1, 1))
    model.latent_std.copy_(latents.std((0, 1, 3, 4)).clamp(min=1e-4).reshape(-1, 1, 1))


def _start_from(initial: str | Path, model: ValueModel) -> ValueModel:
    loaded = ValueModel.from_pretrained(initial)
    if (loaded.config, loaded.input_shape) != (model.config, model.input_shape):
        raise TrainingError(
            f"{initial} has another shape: {loaded.config}, {loaded.input_shape}; this run is configured as "
            f"{model.config}, {model.input_shape}"
        )
    return loaded
