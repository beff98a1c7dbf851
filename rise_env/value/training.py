"""Training of value models: progress first, then temporal differences on explicit outcomes.

Everything random in step s is drawn from a generator seeded by (seed, s). A run that was killed and resumed therefore
ends with the same weights as one that was not.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from rise_env.config import decode
from rise_env.data.splits import split_episodes
from rise_env.errors import CheckpointError, TrainingError
from rise_env.files import atomic_path, write_json
from rise_env.provenance import config_hash, provenance
from rise_env.value.augment import augment_latents, augment_pixels
from rise_env.value.config import TrainConfig, ValueConfig
from rise_env.value.evaluation import evaluate_value
from rise_env.value.imagined import FrameSource
from rise_env.value.labels import FrameDataset, Labels, make_labels
from rise_env.value.losses import (
    distributional_loss,
    progress_loss,
    success_loss,
    td_loss,
    td_target,
    td_transition,
)
from rise_env.value.model import InputShape, ValueModel

__all__ = ["train_value"]

_MODEL, _STATE, _RUN, _METRICS = "model", "trainer_state.pt", "run.json", "metrics.json"


def train_value(
    config: ValueConfig | Mapping[str, Any],
    dataset: FrameDataset,
    out: str | Path,
    *,
    cameras: tuple[str, ...],
    chunk: int,
    split: tuple[np.ndarray, np.ndarray] | None = None,
    minutes: float | None = None,
    imagined: FrameSource | None = None,
    initial: str | Path | None = None,
    device: str | torch.device = "cpu",
    on_step: Callable[[float, dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Train a value model, or go on with a run that was interrupted.

    Args:
        config: `value` section of a preset.
        dataset: Training and held-out episodes; `open_dataset` joins several datasets.
        out: Run folder: `model/` (what `ValueModel.from_pretrained` loads), `trainer_state.pt`, `run.json` (resolved
            configuration and provenance), `metrics.json`, `tensorboard/`.
        cameras: Names of the views.
        chunk: Control steps per action chunk, for the advantage in the evaluation.
        split: Training and held-out episodes; by `rise_env.data.split_episodes` when omitted.
        minutes: Train for so long instead of for the configured steps, whose ratio then divides the time between the
            phases. Such a run depends on the speed of the machine.
        imagined: Imagined frames to mix in; see `rise_env.value.imagined`.
        initial: Value model to start from instead of random weights, e.g. to fine-tune it on imagined frames.
        device: Where to train.
        on_step: Called after each step with the finished part, 0 to 1, and the losses.

    Returns:
        The evaluation on held-out episodes, JSON-ready.

    Raises:
        TrainingError: If a loss is not finite, labels are missing, or `out` holds another run.
        CheckpointError: If the state of an interrupted run is damaged.
    """
    values = asdict(config) if isinstance(config, ValueConfig) else config
    config = decode(ValueConfig, values, "section 'value'")  # a 1 where a 1.0 belongs is the same configuration
    if minutes is not None and not minutes > 0:
        raise TrainingError(f"a budget of {minutes} minutes is not positive")
    labels = make_labels(dataset, config.labels)
    train, held_out = _split(dataset, config.training) if split is None else split
    held_out = np.asarray(held_out, np.int64)
    run = _Run(config, dataset, labels, np.asarray(train, np.int64), Path(out), cameras, imagined, initial, device)
    run.loop(minutes, on_step)
    return run.finish(held_out, chunk)


class _Run:
    """One training run: models, optimiser and where it stands."""

    def __init__(
        self,
        config: ValueConfig,
        dataset: FrameDataset,
        labels: Labels,
        episodes: np.ndarray,
        out: Path,
        cameras: tuple[str, ...],
        imagined: FrameSource | None,
        initial: str | Path | None,
        device: str | torch.device,
    ) -> None:
        self.config, self.dataset, self.labels, self.out = config, dataset, labels, out
        self.imagined, self.device = imagined, torch.device(device)
        self.index = labels.frames_of(episodes)
        if not len(self.index):
            raise TrainingError("no training episodes are left; lower value.training.held_out or record more")
        train = config.training
        shape = _input_shape(dataset, cameras, config.model.reads_latents)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(train.seed)
            model = ValueModel(config.model, shape)
        if config.model.reads_latents:
            _standardise(model, dataset, self.index, train.seed)
        if initial is not None:
            model = _start_from(initial, model)
        self.model = model.to(self.device).train()
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval() if train.ema else None
        self.target: ValueModel | None = None
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, train.lr, (0.9, 0.95), weight_decay=train.weight_decay)
        keep = np.random.default_rng([train.seed, 0xB007]).random((config.model.members, len(labels.lengths)))
        self.members = torch.from_numpy((keep < train.bootstrap).astype(np.float32))
        self.step, self.elapsed = 0, 0.0
        self.signature = config_hash(
            {
                "config": {**asdict(config), "training": _lasting(train)},
                "input": asdict(shape),
                "episodes": config_hash(episodes.tolist()),
                "frames": dataset.num_frames,
                "tasks": sorted(set(labels.tasks)),
                "imagined": imagined is not None,
                "initial": None if initial is None else str(initial),
            }
        )
        self.steps = train.progress_steps + train.td_steps
        self._resume()

    # ------------------------------------------------------------------ the loop

    def loop(self, minutes: float | None, on_step: Callable[[float, dict[str, float]], None] | None) -> None:
        """Train until the steps or the time are used up."""
        part = self._part(minutes)
        if part >= 1:
            return
        from torch.utils.tensorboard import SummaryWriter

        write_json(
            self.out / _RUN,
            {"value": asdict(self.config), **provenance(asdict(self.config), self.config.training.seed)},
        )
        saved = clock = time.monotonic()
        with SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step) as writer:
            while part < 1:
                losses = self._update(part)
                self.step += 1
                now = time.monotonic()
                self.elapsed, clock = self.elapsed + now - clock, now
                part = self._part(minutes)
                if self.step % self.config.training.log_every == 0:
                    for name, value in losses.items():
                        writer.add_scalar(f"train/{name}", value, self.step)
                    writer.add_scalar("time/steps_per_second", self.step / max(self.elapsed, 1e-9), self.step)
                if now - saved >= self.config.training.save_seconds and part < 1:
                    self._save()
                    saved = time.monotonic()
                if on_step is not None:
                    on_step(min(part, 1.0), losses)
        self._save()

    def _part(self, minutes: float | None) -> float:
        return self.step / self.steps if minutes is None else self.elapsed / (60 * minutes)

    def _update(self, part: float) -> dict[str, float]:
        train = self.config.training
        with_td = "td" in self.config.model.heads and part >= train.progress_steps / self.steps
        if with_td and self.target is None:
            self.target = copy.deepcopy(self.model).requires_grad_(False).eval()
        rate = self._rate(part)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        losses = self._losses(with_td)
        total = torch.stack([train.weights.get(head, 1.0) * loss for head, loss in losses.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip)
        report = {head: float(loss.detach()) for head, loss in losses.items()}
        if not (math.isfinite(float(norm)) and all(math.isfinite(value) for value in report.values())):
            raise TrainingError(
                f"step {self.step}: losses {report}, gradient norm {float(norm)}: not finite. What was saved before "
                f"is intact in {self.out}; lower value.training.lr (now {train.lr}) and start in another directory."
            )
        self.optimizer.step()
        with torch.no_grad():
            if self.average is not None:
                _follow(self.average, self.model, 1 - min(train.ema, (1 + self.step) / (10 + self.step)))
            if self.target is not None:
                _follow(self.target, self.model, self.config.td.tau)
        return {**report, "lr": rate, "gradient_norm": float(norm)}

    def _rate(self, part: float) -> float:
        train = self.config.training
        cosine = 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        warm = min(1.0, (self.step + 1) / train.warmup) if train.warmup else 1.0
        return train.lr * warm * (train.final_lr + (1 - train.final_lr) * cosine)

    def _losses(self, with_td: bool) -> dict[str, torch.Tensor]:
        config, labels = self.config, self.labels
        rng = np.random.default_rng([config.training.seed, self.step])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        count = round(config.training.batch * config.training.imagined_ratio) if self.imagined is not None else 0
        index = self.index[rng.integers(len(self.index), size=config.training.batch - count)]
        frames = self.dataset.frames(index)
        if self.imagined is not None and count:
            others, imitated = self.imagined.draw(rng, count)
            frames, index = np.concatenate([frames, others]), np.concatenate([index, imitated])
        moments = self.model.prepare(torch.from_numpy(np.ascontiguousarray(frames)))
        if self.model.reads_latents:
            moments = augment_latents(moments, self.model.latent_std, config.training, noise)
        else:
            moments = augment_pixels(moments, config.training, noise)
        owner = labels.episode[index]
        prompts = [labels.tasks[i] for i in owner]
        outputs = self.model(moments, prompts)
        seen = self.members[:, torch.from_numpy(owner)].to(self.device)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

        ended = seen * tensor(labels.ended[owner])
        losses: dict[str, torch.Tensor] = {}
        if "progress" in outputs:
            known = seen * tensor(labels.progress_known[index])
            losses["progress"] = progress_loss(outputs["progress"], tensor(labels.progress[index]), known)
        if "success" in outputs:
            losses["success"] = success_loss(outputs["success"], tensor(labels.success[owner]), ended)
        if "distributional" in outputs:
            returns, centers = tensor(labels.returns[index]), self.model.bin_centers
            losses["distributional"] = distributional_loss(outputs["distributional"], returns, centers, ended)
        if with_td and self.target is not None:
            step = td_transition(labels, index, config.td)
            following = self.model.prepare(torch.from_numpy(np.ascontiguousarray(self.dataset.frames(step.next_index))))
            with torch.no_grad():
                ahead = torch.tanh(self.target(following, prompts)["td"])
            target = td_target(tensor(step.reward), tensor(step.discount), ahead, config.td)
            losses["td"] = td_loss(outputs["td"], target, seen * tensor(step.known))
        if not losses:
            raise TrainingError("nothing to train in the first phase: with the head 'td' alone, set progress_steps: 0")
        return losses

    # ------------------------------------------------------------------ files

    def finish(self, held_out: np.ndarray, chunk: int) -> dict[str, Any]:
        """Evaluate, and write what was found."""
        train = self.config.training
        report: dict[str, Any] = {
            "steps": self.step,
            "minutes": self.elapsed / 60,
            "train_frames": len(self.index),
            "return_scales": self.labels.return_scales,
            "held_out": None,
            "provenance": provenance(asdict(self.config), train.seed),
        }
        if len(held_out):
            best = self._best()
            report["held_out"] = evaluate_value(best, self.dataset, self.labels, held_out, chunk, train.eval_frames)
        write_json(self.out / _METRICS, report)
        return report

    def _best(self) -> ValueModel:
        return self.model if self.average is None else self.average

    def _save(self) -> None:
        """Write the training state in one step, then the model that it belongs to."""
        state = {
            "signature": self.signature,
            "step": self.step,
            "elapsed": self.elapsed,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "target": None if self.target is None else self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_path(self.out / _STATE) as aside:
            aside.write_bytes(buffer.getbuffer())
        self._best().save_pretrained(self.out / _MODEL)

    def _resume(self) -> None:
        path = self.out / _STATE
        if not path.exists():
            return
        advice = f"Delete {self.out} to start over, or choose another directory."
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            signature = state["signature"]
        except Exception as error:  # torch raises whatever the damage makes it raise
            raise CheckpointError(f"{path} is damaged: {error}. {advice}") from error
        if signature != self.signature:
            raise TrainingError(f"{self.out} holds a run with another configuration or other data. {advice}")
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["target"] is not None:
            self.target = copy.deepcopy(self.model).requires_grad_(False).eval()
            self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])


def _lasting(train: TrainConfig) -> dict[str, Any]:
    """Settings that decide what a run ends with."""
    free = ("save_seconds", "log_every", "eval_frames")
    return {name: value for name, value in asdict(train).items() if name not in free}


def _split(dataset: FrameDataset, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    if not config.held_out:
        return np.arange(len(dataset.lengths)), np.empty(0, np.int64)
    shares = {"train": 1 - config.held_out, "heldout": config.held_out}
    parts = split_episodes(cast("Any", dataset), shares, seed=0)
    return parts["train"], parts["heldout"]


def _input_shape(dataset: FrameDataset, cameras: tuple[str, ...], reads_latents: bool) -> InputShape:
    sample = np.asarray(dataset.frames(np.zeros(1, np.int64)))
    if sample.ndim != 5 or sample.shape[1] != len(cameras):
        raise TrainingError(
            f"frames have shape {sample.shape}, expected (n, V, ...) with {len(cameras)} views: {cameras}"
        )
    if reads_latents:
        if sample.dtype == np.uint8:
            raise TrainingError("value.model.reads_latents is true, but the dataset gives pixels; encode it first")
        return InputShape(tuple(cameras), sample.shape[3], sample.shape[4], sample.shape[2])
    if sample.dtype != np.uint8:
        raise TrainingError(f"frames are {sample.dtype}, expected uint8 pixels (or set value.model.reads_latents)")
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


def _follow(slow: ValueModel, fast: ValueModel, part: float) -> None:
    """Move the weights of `slow` by `part` of the way to those of `fast`."""
    torch._foreach_lerp_(list(slow.parameters()), [parameter.detach() for parameter in fast.parameters()], part)
