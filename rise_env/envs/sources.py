"""From keyword arguments to start states and a world model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rise_env.bundle import Bundle, find_bundle, load_bundle
from rise_env.envs.starts import StartStates
from rise_env.errors import ConfigError
from rise_env.world_model import CompositionalWorldModel

__all__ = ["resolve"]

type PathLike = str | os.PathLike[str]


def resolve(
    *,
    task: str | None,
    preset: str | None,
    bundle: PathLike | None,
    dataset: str | Path | Sequence[str | Path] | None,
    starts: PathLike | StartStates | None,
    world_model: PathLike | CompositionalWorldModel | None,
    uncertainty: str | None,
    max_batch: int | None,
    imagine: Mapping[str, Any] | None,
    device: str,
) -> tuple[StartStates, CompositionalWorldModel, dict[str, Any]]:
    """Start states and world model of an environment, and the keyword arguments for which the bundle has defaults.

    Raises:
        ConfigError, LayoutError: If something is missing, given twice (the message names it), or does not fit the rest.
    """
    if dataset is not None and starts is not None:
        raise ConfigError("dataset= and starts= both give start states; give one of them")
    found: Bundle | None = None
    if bundle is not None:
        found = load_bundle(os.fspath(bundle))
    elif (starts is None and dataset is None) or world_model is None:
        if task is None:
            missing = "world_model=" if world_model is None else "dataset= (a LeRobot dataset) or starts="
            raise ConfigError(f"{missing} is missing. Give it, or bundle= with the directory of a bundle.")
        found = load_bundle(find_bundle(task, preset))

    if isinstance(world_model, CompositionalWorldModel):
        model = world_model.with_options(imagine=imagine)
    elif world_model is not None:
        model = CompositionalWorldModel.from_pretrained(os.fspath(world_model), device=device, imagine=imagine)
    else:
        assert found is not None
        model = found.world_model(device=device, imagine=imagine)
    model = model.with_options(uncertainty=uncertainty, max_batch=max_batch)
    if isinstance(starts, StartStates):
        states = starts
    elif starts is not None:
        states = StartStates.load(os.fspath(starts))
    elif dataset is not None:
        from rise_env.envs.start_dataset import starts_from_dataset

        states = starts_from_dataset(dataset, model.spec)
    else:
        assert found is not None
        states = found.starts()
    states.check(model.spec)
    return states, model, found.env if found is not None else {}
