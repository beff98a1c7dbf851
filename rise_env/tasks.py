"""TaskSpec: the description of a task that all three packages share, independent of simulation and learning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_env.config import config_files, decode, load_config, load_yaml, task_files, task_folder
from rise_env.errors import ConfigError, LayoutError, requirement
from rise_env.registry import TASKS, no_cell

__all__ = ["JointLayout", "Outside", "TaskSpec", "cell_id", "evaluation_id", "flatten_names", "imagination_id",
           "load_layout", "load_task", "name_of_task"]  # fmt: skip

#: What joint values may have been recorded in by mistake: name and size of the unit, by the unit of the layout.
_UNITS = {
    "rad": {"degrees": math.pi / 180, "0.001 degrees": math.pi / 180_000},
    "m": {"millimetres": 1e-3, "0.001 millimetres": 1e-6},
    "deg": {"radians": 180 / math.pi},
    "none": {},
}

_DEEPEST = 8  # lists within lists


class Outside(NamedTuple):
    """A joint value outside the limits of a layout.

    Attributes:
        row: Which of the vectors it is in.
        joint: Its dimension.
        excess: How far it is outside, as a part of the joint's range.
        message: All this in words, with value, limits and tolerance.
    """

    row: int
    joint: int
    excess: float
    message: str


@dataclass(frozen=True)
class JointLayout:
    """Names, units and limits of every dimension of `state` and `action`, in order.

    Attributes:
        name: Name of the layout, e.g. "piper_bimanual".
        names: One name per dimension.
        units: Per dimension "rad", "deg", "m", or "none" for a number without unit, such as a hand that is closed from
            0 to 1. Policies predict changes of angles, and everything else as it is.
        lower: Lower limit per dimension, in its unit; finite.
        upper: Upper limit per dimension, in its unit; finite and above `lower`.
        tolerance: How far recorded or received values may lie outside the limits without a warning, as a part of the
            joint's range; `.inf` accepts everything. The cell's grippers overshoot theirs by a tenth.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    tolerance: float = 0.25

    def __post_init__(self) -> None:
        require, count = requirement(f"layout {self.name!r}", LayoutError), len(self.names)
        require(count, "it has no joints")
        for field in ("units", "lower", "upper"):
            length = len(getattr(self, field))
            require(length == count, f"{count} names but {length} {field}")
        require(len(set(self.names)) == count, f"joint names repeat: {', '.join(self.names)}")
        for name, unit, low, high in zip(self.names, self.units, self.lower, self.upper, strict=True):
            require(unit in _UNITS, f"joint {name!r}: unit {unit!r}, expected one of {tuple(_UNITS)}")
            rising = -math.inf < low < high < math.inf
            require(rising, f"joint {name!r}: limits [{low}, {high}] must be finite and rise")
        require(self.tolerance >= 0, f"tolerance is {self.tolerance}, expected at least 0")

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return len(self.names)

    @property
    def angles(self) -> np.ndarray:
        """Which dimensions are angles, bool (D,)."""
        return np.isin(self.units, ("rad", "deg"))

    def sizes(self, rad: float, m: float) -> np.ndarray:
        """A size of every dimension in its unit, float64 (D,).

        Args:
            rad: That of an angle; of a number without unit it is the same part of its range as of half a turn.
            m: That of a length.
        """
        turns = {"rad": rad, "deg": math.degrees(rad), "m": m}
        spans = zip(self.units, self.lower, self.upper, strict=True)
        return np.array([turns[unit] if unit in turns else rad / math.pi * (high - low) for unit, low, high in spans])

    @property
    def low(self) -> np.ndarray:
        """Lower limits, float32 (D,)."""
        return np.asarray(self.lower, np.float32)

    @property
    def high(self) -> np.ndarray:
        """Upper limits, float32 (D,)."""
        return np.asarray(self.upper, np.float32)

    def furthest_outside(self, values: Any) -> Outside | None:
        """The value that lies furthest outside its limits, measured by the joint's range; None if all are inside.

        Args:
            values: float (D,) or (N, D), in the units of the layout; finite.

        Example:
            >>> layout = JointLayout("one", ("elbow",), ("rad",), (-2.0,), (2.0,))
            >>> layout.furthest_outside([[0.0], [90.0]]).message
            "'elbow' is 90 rad, its limits are [-2, 2] (degrees would fit)"
        """
        rows = np.asarray(values).reshape(-1, self.dim)
        if not len(rows):
            return None
        least, most = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
        low, high = np.array(self.lower), np.array(self.upper)
        over, under = (most - high) / (high - low), (low - least) / (high - low)
        joint = int(np.argmax(np.maximum(over, under)))
        excess = float(max(over[joint], under[joint]))
        # Limits are compared in single precision, like the values.
        if excess <= 1e-6:
            return None
        row = int(rows[:, joint].argmax() if over[joint] >= under[joint] else rows[:, joint].argmin())
        span, slack = (least[joint], most[joint]), 0.05 * (high[joint] - low[joint])
        share = {"0 to 1": float(high[joint])} if self.units[joint] == "m" else {}
        units = {**share, **_UNITS[self.units[joint]]}
        fits = [
            name for name, size in units.items()
            if low[joint] - slack <= span[0] * size and span[1] * size <= high[joint] + slack
        ]  # fmt: skip
        hint = f" ({fits[0]} would fit)" if fits else ""
        message = (
            f"{self.names[joint]!r} is {rows[row, joint]:g} {self.units[joint]}, "
            f"its limits are [{low[joint]:g}, {high[joint]:g}]{hint}"
        )
        return Outside(row, joint, excess, message)

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
    """Flatten the `names` entry of a LeRobot feature: None, a list, a nested list, a mapping of lists, one of names to
    their places, or one of places to names.

    Raises:
        LayoutError: If there is something else in it, places have gaps or repeat, it cannot be told which are the names
            and which the places, or it is nested without end.

    Example:
        >>> flatten_names({"motors": ["left", "right"]})
        ('left', 'right')
        >>> flatten_names({"right": 1, "left": 0})
        ('left', 'right')
    """
    return tuple(_names_in(names, 0))


def _names_in(names: Any, depth: int) -> Iterable[str]:
    if names is None:
        return
    if isinstance(names, str) or type(names) is int:
        yield str(names)
    elif isinstance(names, Mapping | list | tuple) and depth < _DEEPEST:
        for part in _in_order(names) if isinstance(names, Mapping) else names:
            yield from _names_in(part, depth + 1)
    else:
        raise LayoutError(f"joint names {names!s:.80}: expected texts, in lists or a mapping, or names to places")


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    """Names in a mapping, by their places; in its own order where it has none."""
    keys, values = [str(key) for key in names], list(names.values())
    numbers = {text: int(text) for text in keys if text.isdecimal() and len(text) < 10}
    where = f"joint names {dict(names)!s:.200}"
    if all(isinstance(value, int | float) for value in values):
        if len(numbers) == len(keys) and list(numbers.values()) != values:
            raise LayoutError(f"{where}: which are the names, and which the places? Give a list in order")
        pairs = list(zip(values, keys, strict=True))
    elif len(numbers) == len(keys):
        pairs = list(zip(numbers.values(), values, strict=True))
    elif all(isinstance(value, str) and value.isdecimal() for value in values):
        raise LayoutError(f"{where}: are the numbers places (then without quotes), or names? Give a list in order")
    else:
        return values
    places = sorted(place for place, _ in pairs)
    if places != list(range(len(pairs))) or any(isinstance(place, bool) for place in places):
        raise LayoutError(f"{where}: the places must be 0, 1, ..., {len(pairs) - 1}, each once")
    return [name for _, name in sorted(pairs, key=lambda pair: pair[0])]


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
        state_key: Feature of recorded datasets that holds the joint state.
        action_key: Feature of recorded datasets that holds the action.
        trust_layout: Accept recorded datasets that do not name their joints, if their number is right.
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
    state_key: str = "observation.state"
    action_key: str = "action"
    trust_layout: bool = False

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


def name_of_task(task: str) -> str:
    """Name of a task that is given by name, or by the path of its folder or of a YAML file, whose own word counts.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    if "/" in task and not Path(task).exists():
        raise ConfigError(f"there is no task at {task}: `rise init-task DATASET --out {task}` writes one")
    if task_folder(task) is None and not task.endswith((".yaml", ".yml")):
        return task.replace("-", "_")
    return load_task(task, next(iter(task_files(task)), "small")).name


def imagination_id(task: str) -> str:
    """Id of the imagination environment of a task, by its name: its own, or the one of any task."""
    return str(TASKS.load(task).env_id()) if task in TASKS else "RISE-Imagination-v0"


def cell_id(task: str) -> str:
    """Id of the work cell of a task, by its name or the path of its folder.

    Raises:
        ConfigError: If it has none; the message says what is possible instead. If nobody knows the task.
    """
    if task not in TASKS and task_files(task):
        raise ConfigError(no_cell(task))
    return str(TASKS.load(task).env_id("-Cell"))


def evaluation_id(task: str) -> str:
    """Id of the environment that counts the successes of a task: its simulation's, if it has one, else its work cell's.

    The task is given, and errors are, as for `cell_id`.
    """
    registered = TASKS.find(task).target if task in TASKS else None
    return str(registered.env_id("-Sim")) if registered is not None and registered.simulation else cell_id(task)


def task_from_section(section: Mapping[str, Any]) -> TaskSpec:
    """Build a TaskSpec from a plain mapping: `layout` may be a name, and `cameras` a list of `observation.images.*`."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"section 'task' is {section!r:.80}, expected a mapping")
    values = dict(section)
    if "layout" in values:
        values["layout"] = asdict(load_layout(values["layout"]))
    if isinstance(values.get("cameras"), list):
        named = all(isinstance(name, str) for name in values["cameras"])
        requirement("section 'task'")(named, f"cameras are {values['cameras']!r:.80}, expected names")
        values["cameras"] = {name: f"observation.images.{name}" for name in values["cameras"]}
    return decode(TaskSpec, values, "section 'task'")
