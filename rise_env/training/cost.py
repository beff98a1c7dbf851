"""What a training will cost on this machine: its updates, timed for a few seconds on made-up recordings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.array_dataset import ArrayDataset
from rise_env.dynamics.config import load_dynamics_config
from rise_env.dynamics.run import DynamicsTraining, FrameValues
from rise_env.dynamics.training import train_dynamics
from rise_env.tasks import TaskSpec
from rise_env.training.bundle import count_updates
from rise_env.training.loop import Budget, Progress
from rise_env.training.setup import TrainingSetup
from rise_env.value.config import load_value_config
from rise_env.value.labels import make_labels
from rise_env.value.training import train_value
from rise_env.world_model import resolve_device

__all__ = ["time_training"]


class _EnoughError(Exception):
    """Enough updates have been timed."""


def time_training(setup: TrainingSetup, seconds: float = 3.0) -> dict[str, tuple[int, float]]:
    """Time the updates of a task's autoencoder, transformer and value model.

    Args:
        setup: Task, preset and device; its data are not read.
        seconds: How long each is timed.

    Returns:
        By part its updates, as the preset has them, and seconds per update. Left out is what cannot be trained without
        other models: video autoencoders, and value models that read latents.
    """
    spec, counts = setup.spec, count_updates(setup)
    dynamics = load_dynamics_config(setup.task, setup.preset, setup.overrides)
    value = load_value_config(setup.task, setup.preset, setup.overrides)
    device = resolve_device(setup.device)
    first: dict[str, tuple[int, float]] = {}
    latest: dict[str, tuple[int, float]] = {}
    budget = Budget(seconds=seconds)

    def report(progress: Progress) -> None:
        if progress.step:
            latest[progress.phase] = (progress.step, progress.elapsed)
            first.setdefault(progress.phase, latest[progress.phase])
        if progress.phase in ("transformer", "value") and progress.elapsed >= seconds:
            raise _EnoughError  # before it is evaluated

    with tempfile.TemporaryDirectory() as folder:
        dataset = _made_up(spec, Path(folder))
        labels = make_labels(dataset, value.labels)
        if dynamics.autoencoder_kind == "image":
            values = FrameValues(labels.progress, labels.progress_known) if dynamics.predicts_values else None
            run = DynamicsTraining(dataset, dynamics, Path(folder, "dynamics"), budget, budget, device, report,
                                   tensorboard=False, values=values)  # fmt: skip
            _until_enough(lambda: train_dynamics(run))
        if not value.model.reads_latents:
            _until_enough(lambda: train_value(
                value, dataset, Path(folder, "value"), cameras=tuple(spec.cameras), chunk=spec.chunk, budget=budget,
                device=device, report=report, tensorboard=False,
            ))  # fmt: skip
    updates = {"autoencoder": counts.autoencoder, "transformer": counts.transformer,
               "value": counts.value + counts.imagined}  # fmt: skip
    timed = {}
    for name in latest.keys() & updates:
        (step, elapsed), (begun, before) = latest[name], first[name]
        # The first update makes what the others use again, and takes longer.
        each = (elapsed - before) / (step - begun) if step > begun else elapsed / step
        timed[name] = (updates[name], each)
    return {name: timed[name] for name in updates if name in timed}


def _until_enough(train: Callable[[], Any]) -> None:
    with contextlib.suppress(_EnoughError):
        train()


def _made_up(spec: TaskSpec, folder: Path) -> ArrayDataset:
    """Ten episodes of noise, half of them successes."""
    rng = np.random.default_rng(0)
    lengths = [2 * spec.chunk + 2] * 10
    count = sum(lengths)
    low, high = spec.layout.low, spec.layout.high
    state, action = (rng.uniform(low, high, (count, spec.layout.dim)).astype(np.float32) for _ in range(2))
    frames = rng.integers(0, 256, (count, len(spec.cameras), *spec.image_size, 3), np.uint8)
    outcomes = np.arange(10) % 2 == 0
    progress = np.concatenate([np.linspace(0, 1, length, dtype=np.float32) for length in lengths])
    dataset = ArrayDataset(spec, lengths, state, action, frames=frames, outcomes=outcomes, progress=progress)
    dataset.cache = folder / "cache"
    return dataset
