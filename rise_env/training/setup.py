"""From recorded datasets and a preset to trained models: what `rise train dynamics` and `rise train value` do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rise_env.data import Dataset, Windows, open_dataset, split_episodes
from rise_env.dynamics.config import DynamicsConfig, load_dynamics_config
from rise_env.dynamics.distillation import distill
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.run import DynamicsTraining, FrameValues
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.training import train_dynamics
from rise_env.errors import ConfigError, requirement
from rise_env.pretrained import load_registered
from rise_env.registry import DYNAMICS
from rise_env.tasks import TaskSpec, load_task
from rise_env.training.loop import Budget, Progress
from rise_env.value.config import load_value_config
from rise_env.value.imagined import imagine_recorded_chunks
from rise_env.value.labels import FrameDataset, make_labels
from rise_env.value.latents import LatentDataset, weights_digest
from rise_env.value.training import train_value
from rise_env.world_model import resolve_device

__all__ = ["TrainingSetup", "distill_on", "train_dynamics_on", "train_value_on"]


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class TrainingSetup:
    """What the trainings of all parts have in common.

    Attributes:
        data: Recorded datasets.
        task: Task name, or path of a YAML file.
        preset: Preset.
        overrides: Dotted assignments such as "dynamics.training.batch_size=16".
        device: "auto", "cpu", "cuda" or "cuda:1".
        report: Called with the progress of decoding, encoding, imagining and training.
        log: Called with what else there is to say.
        skip_bad_episodes: Leave out episodes that cannot be used, with a warning.
    """

    data: Sequence[Path]
    task: str = "brick_sorting"
    preset: str = "small"
    overrides: Sequence[str] = ()
    device: str = "auto"
    report: Callable[[Progress], None] = _ignore
    log: Callable[[str], None] = _ignore
    skip_bad_episodes: bool = False

    @property
    def spec(self) -> TaskSpec:
        """The task."""
        return load_task(self.task, self.preset, self.overrides)

    def open_dataset(self) -> Dataset:
        """The datasets, joined."""
        return open_dataset(
            list(self.data),
            self.spec,
            progress=self.counter("decoding"),
            skip_bad_episodes=self.skip_bad_episodes,
        )

    def check_outcomes(self) -> None:
        """Raise a DatasetError now where a value model would miss the outcomes of recorded episodes hours later."""
        if load_value_config(self.task, self.preset, self.overrides).labels.outcome == "recorded":
            _ = self.open_dataset().success

    def counter(self, phase: str) -> Callable[[int, int], None]:
        """A function of (done, in all) that reports the progress of a phase."""
        return lambda done, total: self.report(Progress(phase, done, done / max(total, 1), 0.0, {}))


def train_dynamics_on(
    setup: TrainingSetup,
    out: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    autoencoder_steps: int | None = None,
    autoencoder: Path | None = None,
    initial: Path | None = None,
) -> Path:
    """Train autoencoder and transformer; an interrupted run goes on where it stood.

    Args:
        setup: Data and preset.
        out: Run folder.
        steps: Updates of the transformer; the preset's when neither `steps` nor `minutes` is given.
        minutes: Time for both instead, divided by `dynamics.training.autoencoder_share`.
        autoencoder_steps: Updates of the autoencoder, whatever else is given; `minutes` are the transformer's then.
        autoencoder: Dynamics model whose autoencoder is taken.
        initial: Dynamics model to go on from.

    Returns:
        Directory of the model.

    Raises:
        ConfigError, TrainingError, CheckpointError: As `train_dynamics`.
    """
    config = load_dynamics_config(setup.task, setup.preset, setup.overrides)
    settings = config.training
    first, second = Budget(autoencoder_steps or settings.autoencoder_steps), Budget(steps or settings.steps)
    if minutes is not None:
        share = 0.0 if autoencoder or initial or autoencoder_steps is not None else settings.autoencoder_share
        first = Budget(autoencoder_steps) if autoencoder_steps else Budget(seconds=60 * minutes * (share or 1.0))
        second = Budget(seconds=60 * minutes * (1 - share))
    if config.transformer_kind == "official":
        from rise_env.dynamics.memory import training_memory

        setup.log(training_memory(config, DynamicsShape.of(setup.spec)).describe())
    dataset = setup.open_dataset()
    values = _frame_values(setup, dataset, config)
    device = resolve_device(setup.device)
    training = DynamicsTraining(dataset, config, out, first, second, device, setup.report, values=values)
    setup.log(
        f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; {len(training.train)} windows to train on, "
        f"{len(training.held_out)} kept aside; TensorBoard: {out}/tensorboard"
    )
    train_dynamics(training, autoencoder, initial)
    return out / "model"


def distill_on(
    setup: TrainingSetup,
    out: Path,
    teacher: Path,
    sigmas: Sequence[float],
    *,
    teacher_steps: int = 25,
    steps: int | None = None,
    minutes: float | None = None,
) -> Path:
    """Train a student of a dynamics model that takes few steps; an interrupted run goes on where it stood.

    Args:
        setup: Data, and preset of the training settings (section `dynamics.training`); all else is the teacher's.
        out: Run folder.
        teacher: Dynamics model.
        sigmas: Noise levels of the student's steps, as `FlowConfig.sigmas`.
        teacher_steps: Steps of the teacher.
        steps: Updates; the preset's when neither `steps` nor `minutes` is given.
        minutes: Time instead.

    Returns:
        Directory of the model.

    Raises:
        ConfigError, TrainingError, CheckpointError: As `rise_env.dynamics.distillation.distill`.
    """
    requirement("distillation").whole(len(sigmas), teacher_steps=teacher_steps)
    settings = load_dynamics_config(setup.task, setup.preset, setup.overrides).training
    theirs = LatentDynamics.from_pretrained(teacher).config
    flow = dataclasses.replace(theirs.flow, sigmas=tuple(sigmas))
    config = dataclasses.replace(theirs, flow=flow, training=settings)
    budget = Budget(seconds=60 * minutes) if minutes is not None else Budget(steps or settings.steps)
    dataset, device = setup.open_dataset(), resolve_device(setup.device)
    values = _frame_values(setup, dataset, config)  # for the evaluation; the student learns the teacher's
    training = DynamicsTraining(dataset, config, out, Budget(1), budget, device, setup.report, values=values)
    distill(training, teacher, teacher_steps)
    return out / "model"


def _frame_values(setup: TrainingSetup, dataset: Dataset, config: DynamicsConfig) -> FrameValues | None:
    """Labels for the value head, if there is one."""
    if not config.predicts_values:
        return None
    labels = make_labels(dataset, load_value_config(setup.task, setup.preset, setup.overrides).labels)
    return FrameValues(labels.progress, labels.progress_known)


def train_value_on(
    setup: TrainingSetup,
    out: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    initial: Path | None = None,
    dynamics: Path | None = None,
    imagined: int = 0,
) -> dict[str, Any]:
    """Train a value model; an interrupted run goes on where it stood.

    Args:
        setup: Data and preset.
        out: Run folder; the model is in `model/`.
        steps: Updates of both phases; the preset's when neither `steps` nor `minutes` is given.
        minutes: Time instead.
        initial: Value model to go on from.
        dynamics: Dynamics model, for latents or imagined frames.
        imagined: Recorded chunks whose imagined frames are mixed in.

    Returns:
        The evaluation on held-out episodes, JSON-ready.

    Raises:
        ConfigError: If something in the configuration is wrong, or a dynamics model is needed and not given.
        TrainingError, CheckpointError: As `train_value`.
    """
    config = load_value_config(setup.task, setup.preset, setup.overrides)
    if steps is not None:
        config = config.with_steps(steps)
    spec, device = setup.spec, resolve_device(setup.device)
    if (config.model.reads_latents or imagined) and dynamics is None:
        raise ConfigError("latents and imagined frames come from a dynamics model: give one (--dynamics MODEL)")
    dataset = setup.open_dataset()
    setup.log(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {out}/tensorboard")
    source: FrameDataset = dataset
    frames = None
    if dynamics is not None:
        model = load_registered(dynamics, DYNAMICS, device=device)
        if config.model.reads_latents:
            source = LatentDataset(dataset, model, weights_digest(model))
        if imagined:
            held = config.training.held_out
            parts = split_episodes(dataset, {"train": 1 - held, "heldout": held}, seed=0) if held else {"train": None}
            windows = Windows(dataset, spec, episodes=parts["train"])
            show, total = setup.counter("imagining"), min(imagined, len(windows))
            frames = imagine_recorded_chunks(
                model, windows, imagined, config.training.seed,
                latents=config.model.reads_latents, on_chunk=lambda done: show(done, total),
            )  # fmt: skip
    result = train_value(
        config, source, out,
        cameras=tuple(spec.cameras), chunk=spec.chunk, budget=None if minutes is None else Budget(seconds=60 * minutes),
        imagined=frames, initial=initial, device=device, report=setup.report,
    )  # fmt: skip
    if problem := (result["held_out"] or {}).get("ranking_problem"):
        setup.log(f"WARNING: on held-out episodes {problem}")
    return result
