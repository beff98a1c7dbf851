"""What a robot is to the rest of the project: a driver. Everything above it works on the cell and on hardware alike.

A constructor opens nothing and moves nothing. `connect` starts all input and output; `close` ends it and leaves the
robot holding its position. A driver never switches motors off by itself: an arm without torque falls. All methods are
called from one thread, the one that controls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rise_env.tasks import TaskSpec
from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["Driver", "JointSample", "Observation", "SceneDriver", "ScriptedDriver"]


@dataclass(frozen=True)
class JointSample:
    """A measured joint state.

    Attributes:
        position: float32 (D,), rad and m, in the order of the task's layout.
        stamp: When it was measured, s on the driver's clock (`Driver.now`).
    """

    position: np.ndarray
    stamp: float


@dataclass(frozen=True)
class Observation:
    """Camera images and joint state of one moment.

    Attributes:
        images: uint8 (H, W, 3) RGB at the task's size for every camera of the task.
        joints: The joint state nearest to the images.
        stamps: When each camera's image was taken, s on the driver's clock.
    """

    images: Mapping[str, np.ndarray]
    joints: JointSample
    stamps: Mapping[str, float] = field(default_factory=dict)

    @property
    def stamp(self) -> float:
        """The oldest of its parts, s."""
        return min([self.joints.stamp, *self.stamps.values()])


@runtime_checkable
class Driver(Protocol):
    """A robot: cameras and joint states in, joint targets out.

    Attributes:
        task: Cameras, image size, joint layout and control rate.
        name: Short name for messages and infos.
        real_time: Whether time goes on while nobody calls `tick`: True for every real robot. False for a simulation
            that moves only in `tick`; several of those may run in one process.
    """

    task: TaskSpec
    name: str
    real_time: bool

    def connect(self) -> None:
        """Start input and output and wait for the first complete observation. Nothing moves.

        RobotError if something is missing or unsafe: no master, no camera, another node commands the arm.
        """

    def now(self) -> float:
        """The driver's clock, s; monotonic. All stamps are on it."""

    def observe(self) -> Observation:
        """The newest observation whose parts belong together (by their stamps), however old; never waits.

        RobotError if there is none.
        """

    def joints(self) -> JointSample:
        """The newest joint state; cheap, for checks at the control rate. RobotError if there is none."""

    def camera_stamps(self) -> Mapping[str, float]:
        """When every camera's newest image was taken, s on `now`'s clock; cheap. RobotError if one has given none."""

    def target(self) -> np.ndarray | None:
        """The joint targets that the robot follows or holds now, float64 (D,), rad and m; None where nobody knows."""

    def command(self, target: np.ndarray) -> None:
        """Send joint targets float64 (D,), rad and m, at once; the robot obeys. RobotError if they cannot be sent."""

    def fault(self) -> str | None:
        """What the robot or the link to it reports to be wrong, in words; None while all is well."""

    def tick(self) -> None:
        """Wait until the next control period (1 / `task.fps` s) begins; a late caller is not made to catch up.

        Simulated robots that do not run in real time move on by one period instead.
        """

    def hold(self) -> None:
        """Make the robot stay where its last safe command or its measured position is. Must not raise."""

    def close(self) -> None:
        """Hold, then end input and output. Twice is fine."""


@runtime_checkable
class SceneDriver(Driver, Protocol):
    """A driver that can also set the scene and knows the ground truth: a simulation, in this process or another."""

    def reset_scene(self, seed: int) -> None:
        """Start the episode of a seed: objects and arms as `RISE-<Task>-Cell-v0` has them after `reset(seed=seed)`."""

    def outcome(self) -> dict[str, Any]:
        """Ground truth: `progress`, `score`, `is_success`, `failure_mode`, `finished` (nothing can change it)."""


@runtime_checkable
class ScriptedDriver(Driver, Protocol):
    """A driver with policies that see the ground truth.

    Attributes:
        scripted_policies: Names that `scripted` takes, e.g. "expert".
        scripted_in_thread: Whether they may plan in another thread while `tick` is called.
    """

    scripted_in_thread: bool

    @property
    def scripted_policies(self) -> tuple[str, ...]:
        """See above."""

    def scripted(self, name: str, seed: int = 0) -> ScriptedPolicy:
        """Make a scripted policy; ConfigError if there is none of this name."""
