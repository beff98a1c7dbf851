"""From labelled recordings and a preset to a policy: what `rise train policy` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.algorithms.bc import BehaviourCloning, train_policy
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.config import load_policy_config
from rise_agents.policies.data import advantage_bins_of, measured_advantages
from rise_agents.policies.resolve import resolve_policy
from rise_env.bundle import Bundle
from rise_env.data import Dataset
from rise_env.errors import ConfigError, requirement
from rise_env.training.loop import Budget
from rise_env.training.setup import TrainingSetup
from rise_env.value.labelling import label_frames, ranking_problem_of
from rise_env.value.latents import LatentDataset, weights_digest
from rise_env.value.model import ValueModel
from rise_env.world_model import resolve_device

__all__ = ["FIRST_SEED", "closed_loop_eval", "train_policy_on"]

_GIVEN = ("policy.kind", "policy.model", "policy.advantage")
#: Seed of the first episode in which a policy in training is tried out.
FIRST_SEED = 500_000


def train_policy_on(
    setup: TrainingSetup,
    out: Path,
    labels: str | Bundle | None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    initial: str | None = None,
    encoders: str | None = None,
    first: int | None = None,
    measure: Callable[[Policy], dict[str, float]] | None = None,
    demonstrations: bool = False,
    successes: bool = False,
) -> Policy:
    """Clone recorded chunks; an interrupted run goes on where it stood.

    Args:
        setup: Data and preset.
        out: Run folder.
        labels: Tag of the advantages that condition the policy, or a bundle whose value model measures them; None for
            plain behaviour cloning, or demonstrations.
        steps: Updates; the preset's when neither `steps` nor `minutes` is given.
        minutes: Time instead.
        initial: Policy to go on from.
        encoders: Policy whose image encoders are taken over and kept as they are; all else begins anew.
        first: Use the first so many episodes only.
        measure: Called with the averaged policy at every evaluation; see `closed_loop_eval`.
        demonstrations: Whether all that was recorded is worth doing: it has the best advantage then, without labels.
        successes: Whether the episodes that succeeded are, and the others are left out.

    Raises:
        ConfigError: If something in the configuration is wrong.
        TrainingError: If a loss is not finite.
        CheckpointError: If a saved state is damaged or belongs to other settings.
    """
    if initial and (fixed := [item for item in setup.overrides if item.startswith(_GIVEN)]):
        raise ConfigError(f"--initial {initial}: its model and advantage bins are given; leave out {fixed}")
    if initial and encoders:
        raise ConfigError("give either a policy to go on from (initial) or one to see with (encoders)")
    config = load_policy_config(setup.task, setup.preset, setup.overrides)
    policy = resolve_policy(initial, task=setup.task, spec=setup.spec) if initial else None
    dataset = setup.open_dataset()
    codec = config.advantage if policy is None else policy.codec
    if labels is None:
        bins = np.full(
            dataset.num_frames, codec.best_bin if demonstrations or successes else codec.unconditional, np.int64
        )
    else:
        bins, codec = advantage_bins_of(*_advantages(setup, dataset, labels), codec)
    setup.log(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {out}/tensorboard")
    budget = Budget(steps=steps or config.training.steps) if minutes is None else Budget(seconds=60 * minutes)
    eyes = resolve_policy(encoders, task=setup.task, spec=setup.spec) if encoders else None
    run = BehaviourCloning(
        dataset, bins, config, out, budget,
        codec=codec, initial=policy, eyes=eyes, first=first, successes=successes, device=resolve_device(setup.device),
        report=setup.report, closed_loop_eval=measure,
    )  # fmt: skip
    return train_policy(run)


def _advantages(setup: TrainingSetup, dataset: Dataset, labels: str | Bundle) -> tuple[np.ndarray, np.ndarray]:
    """As `measured_advantages`, of labels or by the value model of a bundle."""
    if isinstance(labels, str):
        return measured_advantages(dataset, labels)
    require = requirement(f"bundle {labels.path}")
    for name in ("cameras", "image_size"):
        theirs, ours = getattr(labels.spec, name), getattr(setup.spec, name)
        require(
            theirs == ours,
            f"its {name} are {theirs}, those of task {setup.spec.name!r}, preset {setup.preset!r}, {ours}",
        )
    model: Any = labels.world_model(device=resolve_device(setup.device))
    require(isinstance(model.value, ValueModel), "its value model is of another kind: use `rise label` and --labels")
    source: Any = dataset
    if model.value.reads_latents:
        source = LatentDataset(dataset, model.dynamics, weights_digest(model.dynamics))
    show = setup.counter("labelling")
    found = label_frames(model.value, source, setup.spec.chunk, on_frames=lambda done: show(done, dataset.num_frames))
    if problem := ranking_problem_of(dataset, found.value):
        setup.log(f"WARNING: {labels.path}: {problem}")
    return found.measured, found.forced


def closed_loop_eval(
    env_id: str, episodes: int, plain: bool, log: Callable[[str], None]
) -> Callable[[Policy], dict[str, float]]:
    """A function that lets a policy act in an environment and gives its success and score.

    Args:
        env_id: Environment.
        episodes: How many, always the same.
        plain: Ask for no advantage, not for the best.
        log: Told the result.
    """

    def measure(policy: Policy) -> dict[str, float]:
        asked = policy.codec.unconditional if plain else policy.codec.best_bin
        result = evaluate(env_id, PolicyActor(policy, asked), episodes, FIRST_SEED)
        low, high = result.success_interval
        log(f"success {result.success_rate:.1%} ({low:.1%} to {high:.1%}), {result.failure_modes}")
        return {"success": result.success_rate, "score": result.score_mean}

    return measure
