"""The task of a dataset: derived from its metadata, or compared with them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rise_env.data.limits import LARGEST
from rise_env.data.schema import Feature
from rise_env.data.source import Source
from rise_env.errors import DatasetError, LayoutError
from rise_env.tasks import JointLayout, TaskSpec

__all__ = ["check_keys", "check_spec", "derive_spec", "shared_spec", "warn_of_sizes"]

_MOST_JOINTS = 4096


def check_keys(source: Source, keys: Mapping[str, str]) -> None:
    """Raise a DatasetError unless a dataset has the features of "state" and of "action", and they are no pictures."""
    columns = [key for key, feature in source.features.items() if feature.dtype not in ("video", "image")]
    for key in keys.values():
        if key not in columns:
            problem = "a camera" if key in source.features else f"no feature of {source.root}"
            raise DatasetError(
                f"{key!r} is {problem}, expected joint values. Features without pictures: {', '.join(columns)}. "
                "Name the right ones with --state-key and --action-key (state_key=..., action_key=...)."
            )


def derive_spec(source: Source, keys: Mapping[str, str], column: Callable[[str], np.ndarray]) -> TaskSpec:
    """A task that fits a dataset; `keys` has the feature of "state" and of "action", `column` reads one, (N, ...).

    Raises:
        LayoutError: If state and action have other joints than each other.
        DatasetError: If the dataset has no camera.
    """
    features = [source.features[key] for key in keys.values()]
    names = [_joint_names(feature, key) for feature, key in zip(features, keys.values(), strict=True)]
    named = [feature for feature in features if len(feature.names) == feature.count]
    if names[0] != names[1] and (len(named) == 2 or features[0].count != features[1].count):
        raise LayoutError(
            f"{source.root}: {keys['state']} has the joints {_listed(names[0])};\n"
            f"{keys['action']} has {_listed(names[1])}.\n"
            "They must be the same, in the same order. Pick other features with state_key and action_key."
        )
    joints = named[0].names if named else names[0]
    if not source.cameras:
        raise DatasetError(f"{source.root} has no camera: no feature is a video or an image")
    frames = int(source.lengths.sum())
    both = np.concatenate([_vectors(column(key), frames, joints, f"{source.root}, column {key!r}")
                           for key in keys.values()])  # fmt: skip
    low, high = np.nanmin(both, axis=0), np.nanmax(both, axis=0)
    for joint in np.flatnonzero(~(np.maximum(-low, high) <= LARGEST)):
        value = high[joint] if high[joint] > LARGEST else low[joint]
        raise DatasetError(
            f"{source.root}: {joints[joint]!r} reaches {value:g}, which no joint does in any unit. "
            "Drop or repair the episodes with such values."
        )
    margin = np.maximum(0.1 * (high - low), 0.01)
    lower, upper = np.round(low - margin, 4).tolist(), np.round(high + margin, 4).tolist()
    robot = source.robot_type or source.root.name
    layout = JointLayout(robot, joints, ("rad",) * len(joints), tuple(lower), tuple(upper))
    prompts = [text for text in source.tasks.values() if text.strip()]
    return TaskSpec(
        name=re.sub(r"\W+", "_", source.root.name).strip("_").lower() or "dataset",
        prompt=prompts[0] if prompts else "(the dataset has no instruction)",
        cameras=_camera_names(source.cameras),
        image_size=_small_size(source.features[source.cameras[0]]),
        layout=layout,
        fps=source.control_rate,
        chunk=16,
        stride=2,
        history=4,
        execute=8,
        max_seconds=float(math.ceil(source.lengths.max() / source.fps)),
        state_key=keys["state"],
        action_key=keys["action"],
    )


def shared_spec(specs: Sequence[TaskSpec]) -> TaskSpec:
    """The first of the tasks that several datasets gave, with limits that hold for all of them."""
    layouts = [spec.layout for spec in specs]
    if len({layout.names for layout in layouts}) > 1:
        return specs[0]  # where this is compared with the others, the difference is told
    lower = tuple(min(values) for values in zip(*(layout.lower for layout in layouts), strict=True))
    upper = tuple(max(values) for values in zip(*(layout.upper for layout in layouts), strict=True))
    return replace(specs[0], layout=replace(layouts[0], lower=lower, upper=upper))


def check_spec(source: Source, spec: TaskSpec, keys: Mapping[str, str], *, unnamed: bool) -> None:
    """Compare a task with a dataset; `unnamed` accepts one that does not name its joints.

    Raises:
        LayoutError: If joints differ; the message prints both.
        DatasetError: If a camera is missing or the frame rate is another.
    """
    try:
        _check_spec(source, spec, keys, unnamed=unnamed)
    except (LayoutError, DatasetError) as error:
        way_out = f"Is this not a dataset of task {spec.name!r}? `rise init-task {source.root}` writes a --task for it."
        raise type(error)(f"{error}\n{way_out}") from None


def _check_spec(source: Source, spec: TaskSpec, keys: Mapping[str, str], *, unnamed: bool) -> None:
    for key in keys.values():
        feature = source.features[key]
        names, count = feature.names, feature.count
        where = f"feature {key!r} of {source.root}"
        if len(names) == count:
            spec.layout.check_names(names, where)
        elif not unnamed or count != spec.layout.dim:
            hint = (
                ""
                if count != spec.layout.dim
                else " If this is the right one, say so: --trust-layout (trust_layout=True)."
            )
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
    if spec.fps != source.control_rate:
        raise DatasetError(
            f"{source.root} was recorded at {source.fps:g} Hz, task {spec.name!r} runs at {spec.fps} Hz. "
            f"Set task.fps={source.control_rate}, or record again."
        )


def warn_of_sizes(sources: Sequence[Source], spec: TaskSpec) -> None:
    """Warn if cameras of datasets differ in size, and nobody said which one their task should have."""
    found = {name: dict.fromkeys(source.features[key].image_size for source in sources)
             for name, key in spec.cameras.items()}  # fmt: skip
    if len({size for sizes in found.values() for size in sizes}) > 1:
        told = ", ".join(f"{name} " + ", ".join("{}x{}".format(*size) for size in found[name]) for name in found)
        warnings.warn(
            "cameras differ in size: {} (height x width); all are resized to {}x{}. Give a task for another "
            "image_size, or other cameras.".format(told, *spec.image_size), stacklevel=3,
        )  # fmt: skip


def _vectors(values: np.ndarray, frames: int, joints: Sequence[str], where: str) -> np.ndarray:
    values = values[:, None] if values.ndim == 1 else values
    if values.shape != (frames, len(joints)) or values.dtype.kind not in "fiu":
        expected = f"numbers ({frames}, {len(joints)}), as its names and shape in info.json say"
        raise DatasetError(f"{where} is {values.dtype} {values.shape}, expected {expected}")
    return values.astype(np.float64)


def _joint_names(feature: Feature, key: str) -> tuple[str, ...]:
    if feature.count > _MOST_JOINTS:
        raise DatasetError(f"{key} has {feature.count} values per frame, expected at most {_MOST_JOINTS} joints")
    return feature.names if len(feature.names) == feature.count else tuple(f"joint_{i}" for i in range(feature.count))


def _listed(names: Sequence[str], most: int = 40) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _camera_names(keys: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        name = re.sub(r"\W+", "_", key.removeprefix("observation.images.").removeprefix("observation."))
        name = name if name.isidentifier() else f"camera_{name}"
        if name in names:
            raise DatasetError(f"cameras {names[name]!r} and {key!r} would both be called {name!r}: give a TaskSpec")
        names[name] = key
    return names


def _small_size(feature: Feature, longest: int = 64) -> tuple[int, int]:
    """Height and width of a camera, scaled down to at most `longest` pixels, then in multiples of 4."""
    height, width = feature.image_size
    scale = longest / max(height, width)
    if scale >= 1:
        return height, width
    return max(8, 4 * round(height * scale / 4)), max(8, 4 * round(width * scale / 4))
