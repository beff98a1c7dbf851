"""The work cell in this process as a robot with ground truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from rise_env.errors import RobotError, requirement
from rise_env.tasks import TaskSpec
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import CellConfig, load_cell
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.config import RobotConfig
from rise_robot.drivers.base import JointSample, Observation
from rise_robot.pacing import Pacer

__all__ = ["CellDriver", "make_driver"]


class CellDriver:
    """A `SceneDriver` over a `WorkCell`.

    `tick` moves the physics on by one control period under the last command. Without `real_time` that takes as long as
    it takes and the driver's clock is the simulated time; with it, a tick waits for a monotonic clock, which is then
    the driver's. Between two ticks nothing moves, so what is measured is never old.

    `clock` (monotonic, s) and `sleep` serve `real_time`.
    """

    name = "cell"
    scripted_in_thread = False

    def __init__(
        self,
        task: TaskSpec,
        config: CellConfig,
        real_time: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        requirement("driver 'cell'").boolean(real_time=real_time)
        self.task = task
        self.real_time = real_time
        self.cell = WorkCell(task, config)
        self._renderer = CellRenderer(self.cell.model, self.cell.data, config.supersample)
        self._pacer = Pacer(1.0 / task.fps, clock, sleep)
        self._clock = clock
        self._command: np.ndarray | None = None
        self._connected = False
        self._ticks = 0

    def connect(self) -> None:
        """Make the cell answer; it shows its start pose and no episode yet."""
        if not self._connected:
            self._connected = True
            self.reset_scene(0)

    def now(self) -> float:
        """Simulated time since the start, or the monotonic clock with `real_time`, s."""
        return self._clock() if self.real_time else self._ticks / self.task.fps

    def observe(self) -> Observation:
        """Render the cameras and measure the joints."""
        joints, cameras = self.joints(), list(self.task.cameras)
        images = self._renderer.render(cameras, self.task.image_size)
        return Observation(dict(zip(cameras, images, strict=True)), joints, self.camera_stamps())

    def joints(self) -> JointSample:
        """Measure the joints."""
        self._require_connection()
        return JointSample(self.cell.state(), self.now())

    def camera_stamps(self) -> Mapping[str, float]:
        """Now: pictures are always of the present state."""
        self._require_connection()
        return dict.fromkeys(self.task.cameras, self.now())

    def target(self) -> np.ndarray | None:
        """The servos' present set-points."""
        return self.cell.command.copy() if self._connected else None

    def command(self, target: np.ndarray) -> None:
        """Follow `target` from the next tick on; ActionError if it has the wrong shape or is not finite."""
        self._require_connection()
        self._command = self.cell.checked_target(target)

    def fault(self) -> str | None:
        """Nothing can be wrong."""
        return None

    def tick(self) -> None:
        """One control period of physics."""
        self._require_connection()
        if self.real_time:
            self._pacer.wait()
        self.cell.step(self.cell.command if self._command is None else self._command)
        self._ticks += 1

    def hold(self) -> None:
        """Stay at the present set-points."""
        self._command = None

    def close(self) -> None:
        """Hold; nothing answers any more."""
        self.hold()
        self._connected = False

    def reset_scene(self, seed: int) -> None:
        """Start the episode that `CellEnv.reset(seed=seed)` starts."""
        self._require_connection()
        self.cell.reset(seeding.np_random(seed)[0])
        self._command = None
        self._pacer.restart()

    def outcome(self) -> dict[str, Any]:
        """Ground truth of the task."""
        return self.cell.status.outcome()

    @property
    def scripted_policies(self) -> tuple[str, ...]:
        """Names that `scripted` takes."""
        return self.cell.task.scripted_policies

    def scripted(self, name: str, seed: int = 0) -> ScriptedPolicy:
        """A policy that sees the ground truth, e.g. "expert"; ConfigError if there is none of this name."""
        return self.cell.task.scripted(name, seed)

    def _require_connection(self) -> None:
        if not self._connected:
            raise RobotError("the cell's driver is not connected: call connect() first")


def make_driver(
    task: str, preset: str, overrides: Sequence[str], robot: RobotConfig, real_time: bool = False
) -> CellDriver:
    """The cell of a preset (see `rise_robot.drivers`)."""
    del robot  # the cell's arms are what they are
    return CellDriver(*load_cell(task, preset, overrides), real_time=real_time)
