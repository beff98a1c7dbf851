"""Training of the dynamics: first the autoencoder, then the transformer on latents that are encoded once."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rise_env.data import Dataset, Sampler, ShuffledSampler, TaskCentricSampler, WindowBatch, Windows, split_episodes
from rise_env.dynamics.actions import hash_text
from rise_env.dynamics.autoencoder import ImageAutoencoder, spread, to_unit
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.evaluation import evaluate_autoencoder, evaluate_dynamics
from rise_env.dynamics.flow import add_noise, draw_sigma, foreground_weight
from rise_env.dynamics.model import DynamicsShape, LatentDynamics, precision
from rise_env.errors import ConfigError
from rise_env.files import to_plain, write_json
from rise_env.provenance import provenance
from rise_env.training.loop import Budget, Loop, Progress, settings_of

__all__ = ["FrameValues", "Training", "train_autoencoder", "train_dynamics"]

_BOOTSTRAP = 0.8


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
class Training:
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

    def start(self) -> None:
        """Write what the run is, and open TensorBoard."""
        content = {"dynamics": dataclasses.asdict(self.config), "shape": self.shape, "data": self._data()}
        described = to_plain(content)
        write_json(self.folder / "config.json", {**described, **provenance(described, self.config.training.seed)})
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder / "tensorboard"))

    def identity(self, *sections: str) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        config = to_plain(dataclasses.asdict(self.config))
        paced = {"checkpoint_seconds", "evaluate_seconds", "steps", "autoencoder_steps", "autoencoder_share"}
        config["training"] = {key: value for key, value in config["training"].items() if key not in paced}
        return {"data": self._data(), "shape": to_plain(self.shape), **{key: config[key] for key in sections}}

    def _data(self) -> dict[str, Any]:
        return {"episodes": self.dataset.num_episodes, "frames": self.dataset.num_frames}


def train_dynamics(
    training: Training, autoencoder: str | Path | None = None, initial: str | Path | None = None
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
        ConfigError: If there is no autoencoder to be had.
    """
    training.start()
    config = training.config
    torch.manual_seed(config.training.seed)
    model = LatentDynamics(config, training.shape)
    _fit_scaler(model, training)
    model.to(training.device)
    if initial is not None:
        first = LatentDynamics.from_pretrained(initial, device=training.device)
        if first.shape != model.shape:
            raise ConfigError(f"{initial} has shape {first.shape}, the task {model.shape}")
        _take_over(model, first, initial)
    elif autoencoder is not None:
        given = LatentDynamics.from_pretrained(autoencoder, device=training.device).autoencoder
        if given.latent_shape != model.autoencoder.latent_shape or type(given) is not type(model.autoencoder):
            raise ConfigError(
                f"the autoencoder of {autoencoder} makes latents {given.latent_shape}, "
                f"the configuration wants {model.autoencoder.latent_shape}"
            )
        model.autoencoder = given
    else:
        train_autoencoder(training, model)
    return _train_transformer(training, model)


def _take_over(model: LatentDynamics, first: LatentDynamics, path: str | Path) -> None:
    """Take the weights of another model; a value head that it lacks begins anew."""
    given = first.state_dict()
    new = [name for name in model.state_dict() if name.startswith("transformer.value_head.") and name not in given]
    try:
        model.load_state_dict({**given, **{name: model.state_dict()[name] for name in new}})
    except RuntimeError as error:
        raise ConfigError(f"{path} has other sizes than the configuration: {error}") from error


# ---------------------------------------------------------------------- autoencoder


def train_autoencoder(training: Training, model: LatentDynamics) -> None:
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
    device, dataset = training.device, training.dataset
    pool = _frames_of(dataset, training.episodes)
    sampler = ShuffledSampler(
        len(pool), max(settings.autoencoder_batch // len(training.shape.cameras), 1), settings.seed
    )
    mean = _mean_image(dataset, pool).to(device)
    held_out = training.held_out.index

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(_seed(settings.seed, step))
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
        figures = {"loss": total.detach(), "spread": torch.tensor(spread(latents.detach()))}
        return total, figures

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, ImageAutoencoder)
        return evaluate_autoencoder(average, training, held_out, step)

    loop = Loop(
        "autoencoder",
        training.folder,
        autoencoder,
        loss,
        evaluate,
        settings_of(settings, settings.autoencoder_rate),
        training.autoencoder_budget,
        training.identity("autoencoder", "training"),
        training.report,
        training.writer,
    )
    model.autoencoder.load_state_dict(loop.run().state_dict())
    _fit_latents(autoencoder, dataset, pool, device, settings.seed)


def _frames_of(dataset: Dataset, episodes: np.ndarray) -> np.ndarray:
    parts = [np.arange(dataset.starts[e], dataset.starts[e] + dataset.lengths[e]) for e in episodes.tolist()]
    return np.concatenate(parts)


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


# ---------------------------------------------------------------------- transformer


class Latents:
    """Latents of a dataset's frames, made once, kept in memory as float16."""

    def __init__(
        self,
        model: LatentDynamics,
        dataset: Dataset,
        device: torch.device,
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        self.model, self.dataset, self.device = model, dataset, device
        autoencoder = model.autoencoder
        digest = hashlib.sha256()
        for name, tensor in autoencoder.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())

        def make(index: np.ndarray) -> np.ndarray:
            with torch.no_grad(), precision(model.config.flow.precision, device):
                frames = torch.from_numpy(dataset.frames(index)).to(device)
                latents = autoencoder.encode_frames(frames.flatten(0, 1))
            return latents.unflatten(0, frames.shape[:2]).half().cpu().numpy()

        views = len(model.shape.cameras)
        shape = (views, *autoencoder.latent_shape)

        def progress(done: int, total: int) -> None:
            if report is not None:
                report(Progress("encoding", done, done / total, 0.0, {}))

        tag = f"latents-{digest.hexdigest()[:16]}"
        made = dataset.cached(tag, shape, np.float16, make, batch=64, progress=progress)
        self.frames = torch.from_numpy(np.array(made)).to(device)

    def history(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, T, C, h, w)."""
        return self.frames[torch.from_numpy(batch.history_index).to(self.device)].transpose(1, 2).float()

    def future(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, F, C, h, w)."""
        if self.model.autoencoder.per_frame:
            return self.frames[torch.from_numpy(batch.future_index).to(self.device)].transpose(1, 2).float()
        frames = torch.from_numpy(self.dataset.frames(batch.future_index)).to(self.device)
        with torch.no_grad():
            latents = self.model.autoencoder.encode_chunk(frames.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (len(batch), -1))


def _train_transformer(training: Training, model: LatentDynamics) -> LatentDynamics:
    settings = training.config.training
    device, flow = training.device, training.config.flow
    model.autoencoder.eval().requires_grad_(False)
    latents = Latents(model, training.dataset, device, training.report)
    sampler = _sampler(training)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    size = settings.batch // settings.accumulate

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = slice(part * size, (part + 1) * size)
        generator = torch.Generator().manual_seed(_seed(settings.seed, step, part))
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
        figures = {"loss": error.detach()}
        if logits is not None and training.values is not None:
            figures["value"] = _value_loss(training.values, batch, logits, sigma)
            total, figures["value"] = total + flow.value_weight * figures["value"], figures["value"].detach()
        return total, figures

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        averaged.transformer.load_state_dict(average.state_dict())
        figures = evaluate_dynamics(averaged, latents, training, step)
        averaged.save_pretrained(training.folder / "model")
        return figures

    loop = Loop(
        "transformer",
        training.folder,
        model.transformer,
        loss,
        evaluate,
        settings_of(settings, settings.rate, settings.accumulate),
        training.budget,
        {
            **training.identity("autoencoder", "transformer", "flow", "training", "alignment"),
            "latents": str(latents.frames.double().mean().item()),
        },
        training.report,
        training.writer,
    )
    averaged.transformer.load_state_dict(loop.run().state_dict())
    averaged.save_pretrained(training.folder / "model")
    write_json(training.folder / "metrics.json", {"step": loop.step, "seconds": loop.elapsed, **loop.metrics})
    return averaged


def _value_loss(values: FrameValues, batch: WindowBatch, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the value head (M, B, K), less the entropy of the labels: 0 is the best that can be had.

    Only where the future was pure noise: less noise would let the head read off what it is to foresee. Each member
    learns from four fifths of the episodes, so that they differ where there is little to learn from.
    """
    labels, known = values.of(batch.future_index, logits.device)
    known = known * (sigma >= 1.0)[:, None]
    weight = known[None] * values.members(batch.episode, len(logits), logits.device)[:, :, None]
    losses = functional.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none")
    least = functional.binary_cross_entropy(labels, labels, reduction="none")  # entropy of the label itself
    return ((losses - least) * weight).sum() / weight.sum().clamp(min=1.0)


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


def _sampler(training: Training) -> Sampler:
    settings = training.config.training
    if settings.batching == "shuffled":
        return ShuffledSampler(training.train, settings.batch, settings.seed)
    if settings.batch % settings.scenes:
        raise ConfigError(f"dynamics.training: batch {settings.batch} is not a multiple of scenes {settings.scenes}")
    each = settings.batch // settings.scenes
    return TaskCentricSampler(training.train, settings.scenes, each, settings.seed)


def _fit_scaler(model: LatentDynamics, training: Training) -> None:
    dataset = training.dataset
    pool = _frames_of(dataset, training.episodes)
    chosen = np.linspace(0, len(training.train) - 1, min(len(training.train), 4096)).astype(np.int64)
    batch = training.train.batch(chosen)
    relative = (batch.actions - batch.states[:, -1:]).reshape(-1, dataset.state.shape[1])
    model.scaler.fit(dataset.state[pool], dataset.action[pool], relative)


def _seed(seed: int, step: int, part: int = 0) -> int:
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0] >> 1)
