"""From recorded datasets to a bundle: dynamics, value, value on imagined frames, start states."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_env.bundle import Bundle, save_bundle
from rise_env.data import Dataset, split_episodes
from rise_env.dynamics.config import load_dynamics_config
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.errors import ConfigError, requirement
from rise_env.pretrained import load_registered
from rise_env.registry import DYNAMICS, VALUES
from rise_env.training.held_out import evaluate_world_model
from rise_env.training.setup import TrainingSetup, train_dynamics_on, train_value_on
from rise_env.value.config import load_value_config
from rise_env.value.labelling import label_frames, ranking_problem_of
from rise_env.value.latents import LatentDataset, weights_digest
from rise_env.value.model import ValueModel
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Updates", "count_updates", "train_bundle"]

#: Share of a time budget that the dynamics get, and share of the value's time that goes to imagined frames.
_DYNAMICS_SHARE, _FINE_TUNE_SHARE = 0.75, 0.3
#: Share of the episodes to measure models on that were trained elsewhere.
_HELD_OUT = 0.1


class Updates(NamedTuple):
    """Number of updates of every part."""

    autoencoder: int
    transformer: int
    value: int
    imagined: int


def count_updates(
    setup: TrainingSetup, steps: int | None = None, imagined: int = 3000, imagined_steps: int | None = None
) -> Updates:
    """Updates of every part: the preset's, or `steps` of the transformer and the others in proportion.

    Raises:
        ConfigError: If the configuration is wrong or `steps` is not positive.
    """
    dynamics = load_dynamics_config(setup.task, setup.preset, setup.overrides).training
    value = load_value_config(setup.task, setup.preset, setup.overrides).training
    transformer = dynamics.steps if steps is None else steps
    requirement("bundle").at_least(1, steps=transformer)

    def scaled(updates: float) -> int:
        return max(1, round(updates * transformer / dynamics.steps))

    whole = value.progress_steps + value.td_steps
    # As many as the share of the value's time that a budget in minutes gives to imagined frames.
    fine_tuning = scaled(whole * _FINE_TUNE_SHARE / (1 - _FINE_TUNE_SHARE))
    last = (imagined_steps or fine_tuning) if imagined else 0
    return Updates(scaled(dynamics.autoencoder_steps), transformer, scaled(whole), last)


def train_bundle(
    setup: TrainingSetup,
    out: Path,
    *,
    runs: Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    dynamics: Path | None = None,
    value: Path | None = None,
    policy: Path | None = None,
    starts: int = 512,
    imagined: int = 3000,
    imagined_steps: int | None = None,
) -> Bundle:
    """Train what is not given, then write the bundle; an interrupted run goes on where it stood.

    The value is trained on recorded frames, and then again with imagined ones among them: a run of its own, whose
    learning rate rises and falls again, because its frames have other statistics.

    Args:
        setup: Data and preset.
        out: Directory of the bundle.
        runs: Folder of the training runs; `<out>-runs` when None.
        steps: See `count_updates`.
        minutes: Time for everything instead of numbers of updates.
        dynamics: Trained dynamics model to use, of any registered kind.
        value: Trained value model to use, of any registered kind.
        policy: Directory of the base policy to put in.
        starts: Number of start states.
        imagined: Recorded chunks to imagine for the value; 0 for none.
        imagined_steps: Updates of the value on imagined frames.

    Raises:
        ConfigError: If the arguments do not go together, before anything is trained.
        CheckpointError, TrainingError: As `train_dynamics_on` and `train_value_on`; given models are read at once.
    """
    _check(out, starts, imagined, imagined_steps, minutes, value)
    # What is given is read now: an hour of training is no moment to find a wrong path.
    for given, registry in ((dynamics, DYNAMICS), (value, VALUES)):
        if given is not None:
            load_registered(given, registry)
    if value is None:
        setup.check_outcomes()
    runs = runs or out.with_name(f"{out.name}-runs")
    updates = None if minutes is not None else count_updates(setup, steps, imagined, imagined_steps)
    trained = [dynamics is None] * 2 + [value is None] * 2
    counts = updates._asdict().items() if updates else ()
    ours = {name: count for (name, count), one in zip(counts, trained, strict=False) if one}
    if ours:
        setup.log(f"updates: {', '.join(f'{name} {count}' for name, count in ours.items())}")
    if dynamics is None:
        dynamics = train_dynamics_on(
            setup, runs / "dynamics",
            steps=updates and updates.transformer, autoencoder_steps=updates and updates.autoencoder,
            minutes=None if minutes is None else minutes * _DYNAMICS_SHARE,
        )  # fmt: skip
    ready, problem = value is not None, None
    if value is None:
        rest = None if minutes is None else minutes * (1 - _DYNAMICS_SHARE)
        first, second = (rest and rest * share for share in (1 - _FINE_TUNE_SHARE, _FINE_TUNE_SHARE))
        out_value, tuned = runs / "value", runs / "value-imagined"
        result = train_value_on(setup, out_value, steps=updates and updates.value, minutes=first, dynamics=dynamics)
        value = out_value / "model"
        if imagined:
            result = train_value_on(
                setup, tuned, steps=updates and updates.imagined, minutes=second,
                dynamics=dynamics, initial=value, imagined=imagined,
            )  # fmt: skip
            value = tuned / "model"
        problem = (result["held_out"] or {}).get("ranking_problem")
    setup.log("drawing start states")
    dataset = setup.open_dataset()
    found = starts_from_dataset(dataset, setup.spec, starts, seed=0)
    imagines = load_registered(dynamics, DYNAMICS)
    source = "dynamics" if getattr(imagines, "predicts_values", False) else "value"
    model = CompositionalWorldModel(imagines, load_registered(value, VALUES), setup.spec, reward_source=source)
    if ready and (problem := _ranking_problem(model, dataset)):
        setup.log(f"WARNING: {value}: {problem}")
    about = {
        "data": [Path(path).name for path in setup.data], "minutes": minutes, "updates": ours or None,
        "ranking_problem": problem, "held_out": _held_out(setup, model, dataset, trained[0], trained[2]),
    }  # fmt: skip
    return save_bundle(out, found, model, policy=policy, about=about, seed=0)


def _ranking_problem(model: CompositionalWorldModel, dataset: Dataset) -> str | None:
    """What is wrong with how a given value model ranks the recordings; a model of another kind is not asked."""
    if not isinstance(model.value, ValueModel):
        return None
    dynamics: Any = model.dynamics
    source = LatentDataset(dataset, dynamics, weights_digest(dynamics)) if model.value.reads_latents else dataset
    return ranking_problem_of(dataset, label_frames(model.value, source, model.spec.chunk).value)


def _held_out(
    setup: TrainingSetup, model: CompositionalWorldModel, dataset: Dataset, dynamics: bool, value: bool
) -> dict[str, Any] | None:
    """Figures on the episodes that the trainings of what was trained here kept aside; None where they kept none."""
    where = setup.task, setup.preset, setup.overrides
    shares = [load_dynamics_config(*where).training.held_out] * dynamics
    shares += [load_value_config(*where).training.held_out] * value
    shares = shares or [_HELD_OUT]
    if not all(shares) or dataset.num_episodes < 2:
        return None
    kept = [split_episodes(dataset, {"train": 1 - share, "heldout": share}, seed=0)["heldout"]
            for share in shares]  # fmt: skip
    episodes = functools.reduce(np.intersect1d, kept)
    if not len(episodes):
        return None
    setup.log("measuring on held-out episodes")
    figures = evaluate_world_model(model, dataset, episodes).figures
    given = [name for name, trained in (("dynamics", dynamics), ("value", value)) if not trained]
    return {**figures, "of": dataset.num_episodes, "given": given}


def _check(
    out: Path, starts: int, imagined: int, imagined_steps: int | None, minutes: float | None, value: Path | None
) -> None:
    requirement("bundle").at_least(1, starts=starts, imagined_steps=imagined_steps)
    requirement("bundle").at_least(0, imagined=imagined)
    for useless, why in (
        (minutes is not None, "a budget in minutes is shared by the parts"),
        (value is not None, "the value model is trained already"),
        (not imagined, "nothing is imagined"),
    ):
        if imagined_steps is not None and useless:
            raise ConfigError(f"imagined_steps has nothing to count: {why}. Leave one of them out.")
    if out.exists() and not (out / "bundle.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no bundle: it is left alone. Choose another directory.")
