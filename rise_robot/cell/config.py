"""Configuration of the work cell: section `cell` of a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rise_env.config import decode, load_config
from rise_env.errors import ConfigError, requirement
from rise_env.registry import no_cell
from rise_env.tasks import TaskSpec, task_from_section

__all__ = ["CameraPose", "CellConfig", "CommandDelay", "VariationConfig", "cell_overrides", "load_cell"]


@dataclass(frozen=True)
class CameraPose:
    """Pose of the fixed head camera.

    Attributes:
        pos: Position in the world, m (x forward from the arm bases, y to the left, z up from the table).
        tilt: Angle between the viewing direction and straight down, degrees; positive looks forward.
        fovy: Vertical field of view, degrees.
    """

    pos: tuple[float, float, float] = (0.10, 0.0, 0.76)
    tilt: float = 10.0
    fovy: float = 46.0


@dataclass(frozen=True)
class CommandDelay:
    """Dead time between a command and the servos; recordings of real Pipers show 0.2 to 0.33 s and 0.13 s.

    Attributes:
        arm: Delay of the arm joints, s.
        gripper: Delay of the grippers, s.
    """

    arm: float = 0.0
    gripper: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("arm", self.arm), ("gripper", self.gripper)):
            if not 0 <= value <= 2:
                raise ConfigError(f"cell.command_delay.{name} is {value} s, expected 0 to 2")


@dataclass(frozen=True)
class VariationConfig:
    """Domain variation, drawn anew at every reset where `enabled`.

    Attributes:
        enabled: Whether to vary at all.
        light: Relative half-range of the light's brightness; its direction moves by up to twice this angle (rad).
        colour: Half-range of every colour channel of the surroundings, in [0, 1].
        friction: Relative half-range of the sliding friction of all surfaces.
        camera_position: Half-range of the head camera's position, m.
        camera_angle: Half-range of the head camera's rotation about each axis, rad.
        command_delay: Relative half-range of `CellConfig.command_delay`, at most 1.
    """

    enabled: bool = False
    light: float = 0.3
    colour: float = 0.06
    friction: float = 0.25
    camera_position: float = 0.008
    camera_angle: float = 0.015
    command_delay: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.command_delay <= 1:
            raise ConfigError(f"cell.variation.command_delay is {self.command_delay}, expected 0 to 1")


@dataclass(frozen=True)
class CellConfig:
    """The simulated work cell.

    Attributes:
        difficulty: Key into `difficulties`.
        difficulties: Randomisation ranges of the task per difficulty; decoded by the task.
        max_timestep: Upper bound of the physics time step, s; the control period is divided evenly.
        arm_spacing: Distance of each arm's base from the middle, m.
        head_camera: Pose of the head camera.
        wrist_fovy: Vertical field of view of the wrist cameras, degrees.
        supersample: Images are rendered at this multiple of their size and averaged (anti-aliasing).
        start_joints: Start pose of one arm: six joints (rad) and the total gripper opening (m). By default the tool
            points down and the head camera sees the table in front of the arms.
        start_noise: Half-range of the uniform noise on the arms' start joints, rad.
        command_delay: Dead time between commands and servos; none by default.
        variation: Domain variation.
    """

    difficulties: dict[str, dict[str, Any]]
    difficulty: str = "normal"
    max_timestep: float = 0.004
    arm_spacing: float = 0.20
    head_camera: CameraPose = field(default_factory=CameraPose)
    wrist_fovy: float = 62.0
    supersample: int = 2
    start_joints: tuple[float, ...] = (0.12, 1.02, -1.20, 0.0, 0.95, 0.0, 0.07)
    start_noise: float = 0.03
    command_delay: CommandDelay = field(default_factory=CommandDelay)
    variation: VariationConfig = field(default_factory=VariationConfig)

    def __post_init__(self) -> None:
        if self.difficulty not in self.difficulties:
            known = ", ".join(self.difficulties)
            raise ConfigError(f"unknown difficulty {self.difficulty!r}. Known difficulties: {known}.")
        if not 1 <= self.supersample <= 8:
            raise ConfigError(f"cell.supersample is {self.supersample}, expected 1 to 8")
        if (count := len(self.start_joints)) != 7:
            raise ConfigError(f"cell.start_joints has {count} values, expected six joints and the opening")
        if not 0.0005 <= self.max_timestep <= 0.01:
            raise ConfigError(f"cell.max_timestep is {self.max_timestep} s, expected 0.0005 to 0.01")

    @property
    def ranges(self) -> Mapping[str, Any]:
        """Randomisation ranges of the chosen difficulty."""
        return self.difficulties[self.difficulty]


def load_cell(
    task: str = "brick_sorting", preset: str = "small", overrides: Sequence[str] = ()
) -> tuple[TaskSpec, CellConfig]:
    """Load the task and the cell of a preset; ConfigError if the configuration is wrong or the preset describes no
    cell.
    """
    config = load_config(task, preset, overrides)
    for section in ("task", "cell"):
        if section not in config:
            raise ConfigError(f"configuration {task!r}/{preset!r} has no section {section!r}: {no_cell(task)}")
    return task_from_section(config["task"]), decode(CellConfig, config["cell"], "section 'cell'")


def cell_overrides(
    difficulty: str | None, execute: int | None, image_size: Sequence[int] | None, variation: bool | None
) -> list[str]:
    """Configuration overrides that the environment's keyword arguments stand for; a ConfigError if `variation` is no
    truth value.
    """
    requirement("work cell").boolean(variation=variation)
    values = {
        "cell.difficulty": difficulty,
        "task.execute": execute,
        "task.image_size": None if image_size is None else list(image_size),
        "cell.variation.enabled": None if variation is None else str(bool(variation)).lower(),
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]
