"""TaskSpec: the description of a task that all three packages share, independent of simulation and learning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.config import config_files, decode, load_config, load_yaml
from rise_env.errors import ConfigError, LayoutError, requirement

__all__ = ["JointLayout", "TaskSpec", "flatten_names", "load_layout", "load_task"]

_UNITS = ("rad", "m")


@dataclass(frozen=True)
class JointLayout:
    """Names, units and limits of every dimension of `state` and `action`, in order.

    Attributes:
        name: Name of the layout, e.g. "piper_bimanual".
        names: One name per dimension.
        units: "rad" or "m" per dimension.
        lower: Lower limit per dimension, in its unit; finite.
        upper: Upper limit per dimension, in its unit; finite and above `lower`.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        require, count = requirement(f"layout {self.name!r}", LayoutError), len(self.names)
        require(count, "it has no joints")
        for field in ("units", "lower", "upper"):
            length = len(getattr(self, field))
            require(length == count, f"{count} names but {length} {field}")
        require(len(set(self.names)) == count, f"joint names repeat: {', '.join(self.names)}")
        for name, unit, low, high in zip(self.names, self.units, self.lower, self.upper, strict=True):
            require(unit in _UNITS, f"joint {name!r}: unit {unit!r}, expected one of {_UNITS}")
            rising = -math.inf < low < high < math.inf
            require(rising, f"joint {name!r}: limits [{low}, {high}] must be finite and rise")

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return len(self.names)

    @property
    def low(self) -> np.ndarray:
        """Lower limits, float32 (D,)."""
        return np.asarray(self.lower, np.float32)

    @property
    def high(self) -> np.ndarray:
        """Upper limits, float32 (D,)."""
        return np.asarray(self.upper, np.float32)

    def check_names(self, names: Any, where: str) -> None:
        """Compare this layout with the joint names of a dataset or robot, as they are in a LeRobot `info.json`.

        Raises:
            LayoutError: If number, names or order differ; the message prints both, and says `where` they are from.
        """
        found = flatten_names(names)
        if found != self.names:
            raise LayoutError(
                f"{where} has {len(found)} dimensions: {', '.join(found) or '(unnamed)'};\n"
                f"layout {self.name!r} has {self.dim}: {', '.join(self.names)}.\n"
                "Choose the layout that names these dimensions in this order (TaskSpec key 'layout')."
            )


def flatten_names(names: Any) -> tuple[str, ...]:
    """Flatten the `names` entry of a LeRobot feature, None, a list, a nested list or a mapping of lists."""
    if names is None:
        return ()
    if isinstance(names, str):
        return (names,)
    parts: Iterable[Any] = names.values() if isinstance(names, Mapping) else names
    return tuple(name for part in parts for name in flatten_names(part))


@dataclass(frozen=True)
class TaskSpec:
    """A task as the learned simulator, the agents and the robot see it.

    Attributes:
        name: Task name, e.g. "brick_sorting".
        prompt: Language instruction.
        cameras: Camera name to dataset feature key, in view order, e.g. `{"head": "observation.images.top_head"}`.
        image_size: Image height and width in pixels.
        layout: Joint layout of `state` and `action`.
        fps: Control rate in Hz; one action per control step.
        chunk: Control steps per action chunk (H in the paper, 50).
        stride: Control steps between two imagined frames (2 in the paper).
        history: Past frames, the current one included, that the dynamics model sees (4 in the paper).
        execute: Leading actions of a chunk that an executing environment runs before it asks for the next chunk.
        max_seconds: Time limit of an episode in the cell or on the robot, in seconds.
    """

    name: str
    prompt: str
    cameras: dict[str, str]
    image_size: tuple[int, int]
    layout: JointLayout
    fps: int
    chunk: int
    stride: int
    history: int
    execute: int
    max_seconds: float

    def __post_init__(self) -> None:
        require = requirement(f"task {self.name!r}")
        require(bool(self.prompt.strip()), "the prompt is empty")
        require(bool(self.cameras), "at least one camera is needed")
        for camera in self.cameras:
            require(camera.isidentifier(), f"camera name {camera!r} must be an identifier (no dots or spaces)")
        require(len(set(self.cameras.values())) == len(self.cameras), "two cameras share one dataset feature key")
        require(min(self.image_size) >= 8, f"image_size {self.image_size} must be at least 8 x 8 pixels")
        require.at_least(1, self, "fps", "chunk", "stride", "history", "execute")
        require(self.chunk % self.stride == 0, f"chunk {self.chunk} is not a multiple of stride {self.stride}")
        require(self.execute <= self.chunk, f"execute {self.execute} is more than chunk {self.chunk}")
        require.positive(self, "max_seconds")

    @property
    def frames_per_chunk(self) -> int:
        """Imagined frames per chunk and camera, `chunk // stride`."""
        return self.chunk // self.stride

    @property
    def max_steps(self) -> int:
        """Time limit in control steps."""
        return round(self.max_seconds * self.fps)


def load_layout(layout: str | Mapping[str, Any]) -> JointLayout:
    """Load a joint layout by name (`configs/layouts/<name>.yaml`), from a YAML path, or from an inline mapping.

    Raises:
        ConfigError: If the layout is unknown or malformed.
        LayoutError: If its fields contradict each other.
    """
    if isinstance(layout, Mapping):
        return decode(JointLayout, {"name": "inline", **layout}, "joint layout")
    if not isinstance(layout, str):
        raise ConfigError(f"joint layout {layout!r}: expected a name, the path of a YAML file, or a mapping")
    known = config_files("layouts")
    if not layout.endswith((".yaml", ".yml")) and layout not in known:
        names = ", ".join(sorted(known))
        raise ConfigError(f"unknown joint layout {layout!r}. Known layouts: {names}; or give the path of a YAML file.")
    path = known.get(layout, Path(layout))
    return decode(JointLayout, {"name": path.stem, **load_yaml(path)}, f"joint layout {path}")


def load_task(task: str = "brick_sorting", preset: str = "small", overrides: Sequence[str] = ()) -> TaskSpec:
    """Load the TaskSpec of a preset; arguments as for `rise_env.config.load_config`.

    Raises:
        ConfigError: If something in the configuration is wrong.

    Example:
        >>> load_task("brick_sorting", "small").layout.dim
        14
    """
    config = load_config(task, preset, overrides)
    requirement(f"configuration {task!r}")("task" in config, "it has no 'task' section")
    return task_from_section(config["task"])


def task_from_section(section: Mapping[str, Any]) -> TaskSpec:
    """Build a TaskSpec from a plain mapping: `layout` may be a name, and `cameras` a list of `observation.images.*`."""
    values = dict(section)
    if "layout" in values:
        values["layout"] = asdict(load_layout(values["layout"]))
    if isinstance(values.get("cameras"), list):
        values["cameras"] = {name: f"observation.images.{name}" for name in values["cameras"]}
    return decode(TaskSpec, values, "section 'task'")
