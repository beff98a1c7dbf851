"""What a training run of a dynamics model is: data, settings, folder, encoded frames, conditions of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rise_env.data import Dataset, WindowBatch, Windows, split_episodes
from rise_env.dynamics.actions import hash_text
from rise_env.dynamics.augmentation import color_jitter
from rise_env.dynamics.autoencoder import VideoAutoencoder
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.shape import DynamicsShape
from rise_env.errors import ConfigError
from rise_env.files import to_plain
from rise_env.training.loop import Budget, Loop, Progress
from rise_env.training.state import start_run
from rise_env.value.latents import weights_digest

__all__ = ["PHASES", "DynamicsTraining", "FrameValues", "Latents", "conditions", "draw_seed"]

_BOOTSTRAP = 0.8
#: Sections of the settings that decide what the phases of a run end with.
PHASES = {"autoencoder": ("autoencoder", "training"),
          "transformer": ("autoencoder", "transformer", "flow", "training", "alignment")}  # fmt: skip


@dataclass(frozen=True)
class FrameValues:
    """What the value head learns: the value labels of recorded frames (`rise_env.value.labels.Labels`).

    Attributes:
        progress: float32 (N,), in [0, 1].
        known: Whether a frame has a label, bool (N,).
    """

    progress: np.ndarray
    known: np.ndarray

    def of(self, index: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels of frames, and 1 where there is one, else 0: two float32 tensors like `index`."""
        pair = self.progress[index], self.known[index].astype(np.float32)
        labels, known = (torch.from_numpy(column).to(device) for column in pair)
        return labels, known

    @staticmethod
    def members(episode: np.ndarray, count: int, device: torch.device) -> torch.Tensor:
        """1 for the members that learn from an episode, else 0: float32 (count, n)."""
        share = [np.random.default_rng([0xB007, int(one)]).random(count) < _BOOTSTRAP for one in episode]
        return torch.from_numpy(np.stack(share, axis=1).astype(np.float32)).to(device)


@dataclass
class DynamicsTraining:
    """One run: data, settings and where it writes.

    Attributes:
        dataset: Recorded episodes.
        config: Settings of the model and of its training.
        folder: Run folder: `autoencoder_state.pt` and `transformer_state.pt` (for resuming), `model/` (what
            `LatentDynamics.from_pretrained` loads), `config.json`, `metrics.json`, `samples/` (pictures) and
            `tensorboard/`.
        autoencoder_budget: How long to train the autoencoder.
        budget: How long to train the transformer.
        device: Where.
        report: Called with the progress.
        tensorboard: Whether to write TensorBoard files.
        values: Labels for the value head, if the model has one.

    Raises:
        ConfigError: If the model has a value head and there are no labels for it.
    """

    dataset: Dataset
    config: DynamicsConfig
    folder: Path
    autoencoder_budget: Budget
    budget: Budget
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Progress], None] | None = None
    tensorboard: bool = True
    values: FrameValues | None = None

    def __post_init__(self) -> None:
        spec = self.dataset.spec
        if self.config.predicts_values and self.values is None:
            raise ConfigError("dynamics.transformer.value_head needs value labels: give `values`, or set it to 0")
        share = self.config.training.held_out
        self.shape = DynamicsShape.of(spec)
        parts = split_episodes(self.dataset, {"train": 1.0 - share, "heldout": share}, seed=0)
        self.train = Windows(self.dataset, spec, episodes=parts["train"])
        self.held_out = Windows(self.dataset, spec, episodes=parts["heldout"])
        self.episodes = parts["train"]
        self.writer: Any = None

    def loop(
        self, phase: str, module: nn.Module, loss: Any, budget: Budget, identity: dict[str, Any], **kwargs: Any
    ) -> Loop:
        """The loop of a phase; arguments as for `Loop`."""
        settings = self.config.training
        kwargs |= {"evaluate_seconds": settings.evaluate_seconds, "report": self.report, "writer": self.writer}
        return Loop(phase, self.folder, module, loss, settings, budget, identity, **kwargs)

    def start(self) -> None:
        """Write what the run is, and open TensorBoard."""
        content = {"dynamics": self.config, "shape": self.shape, "data": self._data()}
        identities = {phase: self.identity(phase) for phase in PHASES}
        self.writer = start_run(self.folder, content, self.config.training.seed, identities, self.tensorboard)

    def identity(self, phase: str) -> dict[str, Any]:
        """What must not change when a phase is resumed."""
        config = to_plain(self.config)
        paced = {"checkpoint_seconds", "evaluate_seconds", "steps", "autoencoder_steps", "autoencoder_share",
                 "gradient_checkpointing"}  # fmt: skip
        config["training"] = {key: value for key, value in config["training"].items() if key not in paced}
        del config["flow"]["sigmas"]  # of imagination alone; runs of before know nothing of it
        return {"data": self._data(), "shape": to_plain(self.shape), **{key: config[key] for key in PHASES[phase]}}

    def _data(self) -> dict[str, Any]:
        return {"episodes": self.dataset.num_episodes, "frames": self.dataset.num_frames}

    @property
    def frames(self) -> np.ndarray:
        """Numbers of the frames of the training episodes, int64 (n,)."""
        starts, lengths = self.dataset.starts, self.dataset.lengths
        return np.concatenate([np.arange(starts[e], starts[e] + lengths[e]) for e in self.episodes.tolist()])


def draw_seed(seed: int, step: int, part: int = 0) -> int:
    """Seed of what is random in a part of an update."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> 1)


class Latents:
    """Latents of a dataset's frames, made once, kept in memory as float16."""

    def __init__(self, model: LatentDynamics, training: DynamicsTraining) -> None:
        self.model, self.dataset, self.device = model, training.dataset, training.device
        dataset, device, autoencoder = self.dataset, self.device, model.autoencoder

        def make(index: np.ndarray) -> np.ndarray:
            with torch.no_grad(), precision(model.config.flow.precision, device):
                frames = torch.from_numpy(dataset.frames(index)).to(device)
                latents = autoencoder.encode_frames(frames.flatten(0, 1))
            return latents.unflatten(0, frames.shape[:2]).half().cpu().numpy()

        def progress(done: int, total: int) -> None:
            if training.report is not None:
                training.report(Progress("encoding", done, done / total, 0.0, {}))

        shape = (len(model.shape.cameras), *autoencoder.latent_shape)
        tag = f"latents-{weights_digest(autoencoder)}"
        made = dataset.cached(tag, shape, np.float16, make, batch=64, progress=progress)
        self.frames = torch.from_numpy(np.array(made)).to(device)

    def augmented(self, batch: WindowBatch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """History and future of training samples, encoded anew where the settings change colours or draw latents."""
        settings = self.model.config.training
        if not any(settings.color_jitter) and settings.posterior == "mode":
            return self.history(batch), self.future(batch)
        index = np.concatenate([batch.history_index, batch.future_index], axis=1)
        frames = torch.from_numpy(self.dataset.frames(index)).to(self.device)
        if any(settings.color_jitter):
            frames = color_jitter(frames, settings.color_jitter, generator)
        clips = frames.transpose(1, 2).flatten(0, 1)  # (n V, T + K, H, W, 3)
        history, future = clips.split([batch.history_index.shape[1], batch.future_index.shape[1]], dim=1)
        autoencoder = self.model.autoencoder
        with torch.no_grad(), precision(self.model.config.flow.precision, self.device):
            if isinstance(autoencoder, VideoAutoencoder):
                drawn = generator if settings.posterior == "sample" else None
                single = autoencoder.encode_chunk(history.flatten(0, 1)[:, None], generator=drawn)[:, 0]
                coded = autoencoder.encode_chunk(future, generator=drawn)
            else:
                single = autoencoder.encode_frames(history.flatten(0, 1))
                coded = autoencoder.encode_frames(future.flatten(0, 1)).unflatten(0, future.shape[:2])
        past = single.unflatten(0, history.shape[:2])
        return past.unflatten(0, (len(batch), -1)).float(), coded.unflatten(0, (len(batch), -1)).float()

    def history(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, T, C, h, w)."""
        return self.frames[torch.from_numpy(batch.history_index).to(self.device)].transpose(1, 2).float()

    def future(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, F, C, h, w)."""
        autoencoder = self.model.autoencoder
        if not isinstance(autoencoder, VideoAutoencoder):
            return self.frames[torch.from_numpy(batch.future_index).to(self.device)].transpose(1, 2).float()
        frames = torch.from_numpy(self.dataset.frames(batch.future_index)).to(self.device)
        with torch.no_grad():
            latents = autoencoder.encode_chunk(frames.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (len(batch), -1))


def conditions(
    model: LatentDynamics, batch: WindowBatch, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """(Action tokens, normalised current state), target of the state head, and text of a batch, as in imagination."""
    actions = torch.from_numpy(batch.actions).to(device)
    current = torch.from_numpy(batch.states[:, -1]).to(device)
    future = torch.from_numpy(batch.future_states).to(device)
    states = model.scaler.residual(future, model.scaler.command_at_frames(actions))
    text = hash_text(batch.prompts, model._text_buckets).to(device)
    return (model.scaler.tokens(actions, current), model.scaler.normalise_state(current)), states, text
