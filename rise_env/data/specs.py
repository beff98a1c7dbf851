"""The task of a dataset: derived from its metadata, or compared with them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rise_env.data.source import Source
from rise_env.errors import DatasetError, LayoutError
from rise_env.tasks import JointLayout, TaskSpec, flatten_names

__all__ = ["check_spec", "derive_spec"]


def derive_spec(source: Source, keys: Mapping[str, str], column: Callable[[str], np.ndarray]) -> TaskSpec:
    """A task that fits a dataset; `keys` has the feature of "state" and of "action", `column` reads one, (N, ...).

    Raises:
        LayoutError: If state and action have other joints than each other.
        DatasetError: If the dataset has no camera.
    """
    names = {which: _joint_names(source.features[keys[which]]) for which in ("state", "action")}
    if names["state"] != names["action"]:
        raise LayoutError(
            f"{source.root}: {keys['state']} has the joints {', '.join(names['state'])};\n"
            f"{keys['action']} has {', '.join(names['action'])}.\n"
            "They must be the same, in the same order. Pick other features with state_key and action_key."
        )
    if not source.cameras:
        raise DatasetError(f"{source.root} has no camera: no feature is a video or an image")
    frames = int(source.lengths.sum())
    both = np.concatenate([column(key).reshape(frames, -1) for key in keys.values()])
    low, high = np.nanmin(both, axis=0).astype(float), np.nanmax(both, axis=0).astype(float)
    margin = np.maximum(0.1 * (high - low), 0.01)
    lower, upper = np.round(low - margin, 4).tolist(), np.round(high + margin, 4).tolist()
    joints, robot = names["state"], source.robot_type or source.root.name
    layout = JointLayout(robot, joints, ("rad",) * len(joints), tuple(lower), tuple(upper))
    prompts = [text for text in source.tasks.values() if text.strip()]
    return TaskSpec(
        name=re.sub(r"\W+", "_", source.root.name).strip("_").lower() or "dataset",
        prompt=prompts[0] if prompts else "(the dataset has no instruction)",
        cameras=_camera_names(source.cameras),
        image_size=_small_size(source.features[source.cameras[0]]),
        layout=layout,
        fps=source.fps,
        chunk=16,
        stride=2,
        history=4,
        execute=8,
        max_seconds=float(math.ceil(source.lengths.max() / source.fps)),
    )


def check_spec(source: Source, spec: TaskSpec, keys: Mapping[str, str], *, unnamed: bool) -> None:
    """Compare a task with a dataset; `unnamed` accepts one that does not name its joints.

    Raises:
        LayoutError: If joints differ; the message prints both.
        DatasetError: If a camera is missing or the frame rate is another.
    """
    for key in keys.values():
        feature = source.features[key]
        names = flatten_names(feature.get("names"))
        count = math.prod(feature["shape"])
        where = f"feature {key!r} of {source.root}"
        if len(names) == count:
            spec.layout.check_names(names, where)
        elif not unnamed or count != spec.layout.dim:
            hint = "" if count != spec.layout.dim else " If this is the right one, pass trust_layout=True."
            raise LayoutError(
                f"{where} has {count} dimensions without names;\n"
                f"layout {spec.layout.name!r} has {spec.layout.dim}: {', '.join(spec.layout.names)}.{hint}"
            )
    absent = [key for key in spec.cameras.values() if key not in source.cameras]
    if absent:
        raise DatasetError(
            f"{source.root} has no camera {absent[0]!r}, which task {spec.name!r} asks for. "
            f"Its cameras: {', '.join(source.cameras) or '(none)'}. Change 'cameras' of the task."
        )
    if spec.fps != source.fps:
        raise DatasetError(
            f"{source.root} was recorded at {source.fps} Hz, task {spec.name!r} runs at {spec.fps} Hz. "
            f"Set task.fps={source.fps}, or record again."
        )


def _joint_names(feature: Mapping[str, Any]) -> tuple[str, ...]:
    count = math.prod(feature["shape"])
    names = flatten_names(feature.get("names"))
    return names if len(names) == count else tuple(f"joint_{i}" for i in range(count))


def _camera_names(keys: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        name = re.sub(r"\W+", "_", key.removeprefix("observation.images.").removeprefix("observation."))
        name = name if name.isidentifier() else f"camera_{name}"
        if name in names:
            raise DatasetError(f"cameras {names[name]!r} and {key!r} would both be called {name!r}: give a TaskSpec")
        names[name] = key
    return names


def _small_size(feature: Mapping[str, Any], longest: int = 64) -> tuple[int, int]:
    """Height and width of a camera, scaled down to at most `longest` pixels, then in multiples of 4."""
    shape = list(feature["shape"])
    names = [str(name) for name in feature.get("names") or ()]
    height, width = (shape[1], shape[2]) if names[:1] in (["channels"], ["channel"]) else (shape[0], shape[1])
    scale = longest / max(height, width)
    if scale >= 1:
        return int(height), int(width)
    return max(8, 4 * round(height * scale / 4)), max(8, 4 * round(width * scale / 4))
