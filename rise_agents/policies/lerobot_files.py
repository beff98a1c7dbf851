"""Directories that LeRobot's trainer writes: where they are, and whether they can be trusted.

LeRobot itself goes on with random weights or without normalisation where files do not fit, and imports what they name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rise_env.errors import CheckpointError
from rise_env.pretrained import CONFIG, flaws, listed, load_tensors, misfits

__all__ = ["check_statistics", "check_steps", "check_weights", "find_lerobot", "lerobot_config"]

#: Where a run of lerobot-train keeps its policy.
_PLACES = (".", "pretrained_model", "checkpoints/last/pretrained_model")
_TRUSTED = ("lerobot", "rise_agents")  # packages that a pre-processing may name its steps in
_PIPELINES = ("policy_preprocessor.json", "policy_postprocessor.json")
_CURE = "Copy the checkpoint again, or make it again."
#: What normalises by what; of a mode that is not here LeRobot itself complains.
_STATISTICS = {
    "MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")
}  # fmt: skip


def find_lerobot(path: str | Path) -> Path | None:
    """The directory of LeRobot's policy in a run folder or checkpoint of lerobot-train, None where there is none."""
    return next((folder for place in _PLACES if lerobot_config(folder := Path(path) / place) is not None), None)


def lerobot_config(folder: Path) -> dict[str, Any] | None:
    """`config.json` of a policy of LeRobot, which has a type where ours have a kind; None if it is none."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = not isinstance(config, dict) or "kind" in config or not isinstance(config.get("type"), str)
    return None if ours else config


def check_steps(folder: Path) -> None:
    """Refuse a pre-processing that imports code of a stranger: LeRobot imports any class that the file names.

    Raises:
        CheckpointError: If it does, or a file is missing or damaged.
    """
    for name in _PIPELINES:
        try:
            steps = json.loads((folder / name).read_text(encoding="utf-8"))["steps"]
            classes = [str(step["class"]) for step in steps if "registry_name" not in step]
        except FileNotFoundError:
            raise CheckpointError(f"{folder} has no {name}: it is no checkpoint of LeRobot 0.4 or later") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{folder / name} is damaged: {error}") from error
        for found in classes:
            if found.split(".")[0] not in _TRUSTED:
                raise CheckpointError(f"{folder / name} wants to import {found!r}, not of {', '.join(_TRUSTED)}")


def check_weights(policy: Any, file: Path) -> None:
    """Compare a loaded policy with its file, weight by weight.

    Raises:
        CheckpointError: If they differ in anything, or the file is damaged.
    """
    expected, tensors = policy.state_dict(), load_tensors(file)
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        # As LeRobot's pi0 and pi0.5 read older files.
        newer = name.replace("action_time_mlp_", "time_mlp_")
        names = (name, f"model.{name}", newer, f"model.{newer}")
        renamed[next((one for one in names if one in expected), name)] = tensor
    # Of tied weights a file holds one; a language head is read by no policy.
    held = {expected[name].data_ptr() for name in renamed.keys() & expected.keys()}
    wanted = {
        name: tensor
        for name, tensor in expected.items()
        if name in renamed or not (tensor.data_ptr() in held or "lm_head" in name)
    }
    problems = misfits(renamed, wanted)
    for name in renamed.keys() & wanted.keys():
        mine, theirs = wanted[name], renamed[name]
        if mine.shape == theirs.shape and not theirs.is_complex() and not bool((theirs.to(mine) == mine).all()):
            problems.append(f"{name} was not loaded by LeRobot")
    if problems:
        raise CheckpointError(f"{file} does not fit its {CONFIG}: {listed(sorted(problems))}. {_CURE}")


def check_statistics(pipelines: Iterable[Any], folder: Path) -> None:
    """Make sure that pipelines have the statistics by which they normalise: LeRobot passes on what it has none for.

    Raises:
        CheckpointError: If some are missing, are no real numbers or not finite.
    """
    problems: list[str] = []
    needed: set[str] = set()
    for step in (step for pipeline in pipelines for step in pipeline.steps if hasattr(step, "norm_map")):
        given, acts = step.state_dict(), "Unnormalizer" in type(step).__name__
        only = getattr(step, "normalize_observation_keys", None)
        for key, feature in step.features.items():
            if (feature.type.name == "ACTION") != acts or (only is not None and key not in only and not acts):
                continue
            mode = step.norm_map.get(feature.type)
            wanted = _STATISTICS.get(mode.name, ()) if mode is not None else ()
            needed |= {f"{key}.{name}" for name in wanted}
            problems += [f"missing {key}.{name}" for name in wanted if f"{key}.{name}" not in given]
    for file in sorted(folder.glob("policy_*.safetensors")):
        problems += flaws({name: one for name, one in load_tensors(file).items() if name in needed})
    if problems:
        raise CheckpointError(f"{folder}: statistics for normalising: {listed(sorted(set(problems)))}. {_CURE}")
