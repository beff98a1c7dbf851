"""What a task says about its data, and what training on them will cost, for `rise check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rise_env.data.check import Checked
from rise_env.tasks import TaskSpec
from rise_env.value.config import load_value_config

__all__ = ["all_successes", "cost_of", "updates_of"]


def cost_of(
    checked: Checked, spec: TaskSpec | None, updates: Mapping[str, tuple[int, float]] | None = None
) -> dict[str, str]:
    """What training will take, in words.

    Args:
        checked: The dataset.
        spec: The task, if any.
        updates: By part of the models, updates and seconds per update, as `rise_env.training.cost.time_training` gives.
    """
    source = checked.source
    if source is None:
        return {}
    frames = float(source.lengths.mean() * checked.total)
    cost: dict[str, str] = {}
    if checked.motion is not None:
        dims = checked.motion.state.shape[1] + checked.motion.action.shape[1]
        cost["Memory for joint values"] = _bytes(frames * dims * 4)
    height, width = spec.image_size if spec else (48, 64)
    views = len(spec.cameras) if spec else len(source.cameras)
    cameras = "1 camera" if views == 1 else f"{views} cameras"
    cost[f"Disk for decoded frames ({cameras}, {width}x{height})"] = _bytes(frames * views * height * width * 3)
    decoded = sum(len(camera.brightness) for camera in checked.cameras)
    if checked.decoding_seconds and decoded:
        rate = decoded / checked.decoding_seconds
        text = f"{_time(frames * views / rate)}: {rate:.0f} camera frames a second here and now"
        cost["Decoding, once per dataset and image size"] = text
    for part, (count, each) in (updates or {}).items():
        cost[f"Training the {part}"] = f"{_time(count * each)}: {count} updates, {each:.3g} s each here and now"
    if updates:
        cost["Training these together"] = _time(sum(count * each for count, each in updates.values()))
    return cost


def all_successes(task: str, preset: str, overrides: Sequence[str]) -> bool:
    """Whether the value model of a task takes every episode for a success."""
    return load_value_config(task, preset, overrides).labels.outcome == "success"


def updates_of(task: str, preset: str, overrides: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Updates of a task's models, and seconds per update on this machine."""
    from rise_env.training.cost import time_training
    from rise_env.training.setup import TrainingSetup

    return time_training(TrainingSetup([], task, preset, overrides))


def _bytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} minutes"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
