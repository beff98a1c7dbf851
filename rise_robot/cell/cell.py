"""The work cell: physics, servo commands, measured state, and exact save and restore."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from rise_env.envs.arguments import checked_target
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec
from rise_robot.cell.config import CellConfig
from rise_robot.cell.delay import DelayLine
from rise_robot.cell.piper import ARM_JOINTS, MAX_GRIPPER_SPEED, MAX_JOINT_SPEED
from rise_robot.cell.scene import SIDES, build_model, substeps
from rise_robot.cell.task import TaskStatus, make_cell_task
from rise_robot.cell.variation import DomainVariation

__all__ = ["CellState", "WorkCell"]

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
#: Servo set-points are updated at about this rate within a control step, Hz.
_SERVO_RATE = 50
_GRIPPER = ARM_JOINTS


@dataclass(frozen=True)
class CellState:
    """Everything that decides the cell's future, as plain arrays (so that it can be stored with `numpy.savez`).

    Attributes:
        arrays: `physics`, `command`, `steps`, `episode_key`, and the entries `task/...`, `variation/...` and, where
            commands are delayed, `delay/...`.
    """

    arrays: Mapping[str, np.ndarray]


class WorkCell:
    """Two Piper arms, three cameras and a task's objects in MuJoCo.

    The control period is `1 / spec.fps`. A command is the vector of absolute joint targets in the order of
    `spec.layout`. Servo set-points move in a straight line to the target within the period, no faster than the arm's
    speed limits; gravity is compensated as on the robot.

    Args:
        spec: Task; its layout must name the joints of two Piper arms.
        config: Cell configuration.

    Raises:
        ConfigError: If the task has no cell or uses cameras the cell does not have.
        LayoutError: If the layout is not that of the cell's arms.
    """

    def __init__(self, spec: TaskSpec, config: CellConfig) -> None:
        self.spec = spec
        self.config = config
        self.task = make_cell_task(spec.name, config.ranges)
        parts = [*(f"joint{i + 1}" for i in range(ARM_JOINTS)), "gripper"]
        names = [f"{side}_{part}" for side in SIDES for part in parts]
        spec.layout.check_names(names, "the dual-Piper work cell")
        self.model = build_model(spec, config, self.task)
        self.data = mujoco.MjData(self.model)
        available = [self.model.camera(i).name for i in range(self.model.ncam)]
        if missing := [camera for camera in spec.cameras if camera not in available]:
            raise ConfigError(f"the work cell has no camera {missing[0]!r}. Its cameras: {', '.join(available)}.")
        self.substeps = substeps(spec, config)
        self.steps = 0
        #: Number drawn at the reset; seeds what else is random about an episode (an operator's habits, say).
        self.episode_key = 0
        #: Components of the last command that lay outside the joint limits and were clamped.
        self.clamped = 0
        self.status = TaskStatus(0.0, 0.0, False, "none", False)

        self._low, self._high = spec.layout.low.astype(float), spec.layout.high.astype(float)
        arm = np.r_[np.full(ARM_JOINTS, MAX_JOINT_SPEED), MAX_GRIPPER_SPEED]
        self._max_change = np.tile(arm, 2) / spec.fps
        self._actuators = np.array([self.model.actuator(name).id for name in names])
        # The gripper's servo positions one of its two coupled fingers: half of the opening.
        self._to_servo = np.tile(np.r_[np.ones(ARM_JOINTS), 0.5], 2)
        joint = lambda name: int(self.model.joint(name).qposadr[0])  # noqa: E731
        self._joint_addresses = {side: np.array([joint(f"{side}_{part}") for part in parts[:-1]]) for side in SIDES}
        self._finger_addresses = {side: np.array([joint(f"{side}_finger{i}") for i in (1, 2)]) for side in SIDES}
        self._grasp_sites = {side: self.model.site(f"{side}_grasp").id for side in SIDES}
        self.bases = {side: self.model.body(f"{side}_base").pos.copy() for side in SIDES}
        #: Present set-points of all servos, (D,) rad and m; within a step they move to the target.
        self.command: np.ndarray = np.zeros(spec.layout.dim)
        self._knots = max(1, round(_SERVO_RATE / spec.fps))
        # Share of the way at each physics step of a control step, as `step` has it.
        ends = [self.substeps * knot // self._knots for knot in range(1, self._knots + 1)]
        self._shares = (np.searchsorted(ends, np.arange(self.substeps), side="right") + 1) / self._knots
        self._substep = 0
        self._variation = DomainVariation(self.model, config.variation)
        lags = config.command_delay
        self._nominal_delay = np.tile(np.r_[np.full(ARM_JOINTS, lags.arm), lags.gripper], 2)
        varied = config.variation.command_delay if config.variation.enabled else 0.0
        longest = self._nominal_delay.max() * (1 + varied) * spec.fps * self.substeps
        self._delay = DelayLine(math.ceil(longest - 1e-9), spec.layout.dim)
        self.task.bind(self)

    def reset(self, rng: np.random.Generator) -> TaskStatus:
        """Start an episode: draw the variation, the start pose and the task's objects from `rng`."""
        mujoco.mj_resetData(self.model, self.data)
        self._variation.draw(rng)
        start = np.concatenate(list(self.home().values()))
        noise = rng.uniform(-self.config.start_noise, self.config.start_noise, start.shape)
        noise[_GRIPPER :: _GRIPPER + 1] = 0.0
        self.command = np.clip(start + noise, self._low, self._high)
        for side in SIDES:
            part = self.command[self.side_slice(side)]
            self.data.qpos[self._joint_addresses[side]] = part[:_GRIPPER]
            half = part[_GRIPPER] / 2
            self.data.qpos[self._finger_addresses[side]] = (half, -half)
        self.data.ctrl[self._actuators] = self.command * self._to_servo
        if self._delay.longest:
            share = rng.uniform(-1, 1) * self.config.variation.command_delay if self.config.variation.enabled else 0.0
            delays = self._nominal_delay * (1 + share) * self.spec.fps * self.substeps
            self._delay.reset(self.command, np.rint(delays))
        self.steps = self._substep = 0
        self.clamped = 0
        self.task.reset(rng)
        self.episode_key = int(rng.integers(2**31))
        mujoco.mj_forward(self.model, self.data)
        self.status = self.task.advance()
        return self.status

    def step(self, target: np.ndarray) -> TaskStatus:
        """Run one control step.

        Args:
            target: (D,) absolute joint targets, rad and m. Values outside the joint limits are clamped and counted in
                `clamped`; changes faster than the arm's speed limits are cut to them.

        Raises:
            ActionError: If the shape is wrong or a value is not finite. Nothing has moved then.
        """
        target = self.checked_target(target)
        beyond = np.abs(target - np.clip(target, self._low, self._high))
        self.clamped = int(np.count_nonzero(beyond > 1e-6))
        start = self.command
        self.command = self.reachable(start, target)
        if self._delay.longest:
            for point in self._delay.apply(start + (self.command - start) * self._shares[:, None]):
                self.data.ctrl[self._actuators] = point * self._to_servo
                mujoco.mj_step(self.model, self.data)
            return self._end_step()
        done = 0
        for knot in range(1, self._knots + 1):
            until = self.substeps * knot // self._knots
            point = start + (self.command - start) * (knot / self._knots)
            self.data.ctrl[self._actuators] = point * self._to_servo
            mujoco.mj_step(self.model, self.data, until - done)
            done = until
        return self._end_step()

    def advantages(self, state: CellState, progress: float, chunks: np.ndarray) -> np.ndarray:
        """What chunks (G, chunk, D) gain, each run from a state of that progress, float32 (G,); the cell stays there.

        As imagination counts it: the mean progress over the chunk, all of which is run, less the progress before.
        """
        found = np.zeros(len(chunks), np.float32)
        for number, chunk in enumerate(chunks):
            self.restore(state)
            found[number] = np.mean([self.step(target).progress for target in chunk]) - progress
        return found

    def reachable(self, start: np.ndarray, target: np.ndarray) -> np.ndarray:
        """How far set-points at `start` get towards `target` within a control period, inside all limits, (D,)."""
        inside = np.clip(target, self._low, self._high)
        return start + np.clip(inside - start, -self._max_change, self._max_change)

    def substep(self, start: np.ndarray, goal: np.ndarray, elapsed: np.ndarray) -> bool:
        """Run a single physics step, for those who keep real time.

        `substeps` of them are a control step. Where every line begins with it, the outcome is that of `step`, bit for
        bit.

        Args:
            start: (D,) where each servo's straight line began, rad and m.
            goal: (D,) where it leads to within a control period; see `reachable`.
            elapsed: (D,) physics steps since it began, int.

        Returns:
            Whether a control step ended, and with it `status` was brought up to date.
        """
        share = self._shares[np.minimum(elapsed, self.substeps - 1)]
        point = start + (goal - start) * share
        served = self._delay.apply(point[None])[0] if self._delay.longest else point
        self.data.ctrl[self._actuators] = served * self._to_servo
        mujoco.mj_step(self.model, self.data)
        self.command = np.where(share < 1, point, goal)
        self._substep += 1
        if self._substep < self.substeps:
            return False
        self._end_step()
        return True

    @property
    def command_delay(self) -> np.ndarray:
        """Dead time of every joint in this episode, (D,) in control steps."""
        return self._delay.steps / self.substeps

    def under_way(self, steps: int) -> np.ndarray:
        """Set-points of the servos after 1 ... `steps` control steps if nothing more is commanded, (steps, D)."""
        if not self._delay.longest:
            return np.tile(self.command, (steps, 1))
        return self._delay.under_way(self.substeps * np.arange(1, steps + 1))

    def _end_step(self) -> TaskStatus:
        self._substep = 0
        self.steps += 1
        # Positions and contacts of the new state, without touching what the next step starts from.
        mujoco.mj_fwdPosition(self.model, self.data)
        self.status = self.task.advance()
        return self.status

    def checked_target(self, target: np.ndarray, steps: tuple[int, ...] = ()) -> np.ndarray:
        """Joint targets as float64 (*steps, D); ActionError if the shape is wrong or a value is not finite."""
        return checked_target(target, self.spec.layout, steps)

    @property
    def seconds(self) -> float:
        """Time since the reset, s."""
        return self.steps / self.spec.fps

    def state(self) -> np.ndarray:
        """Measured joint positions and gripper openings, float32 (D,), rad and m."""
        return np.concatenate([np.r_[self.joints(side), self.opening(side)] for side in SIDES]).astype(np.float32)

    def joints(self, side: str) -> np.ndarray:
        """Measured arm joints of one side, (6,) rad."""
        return self.data.qpos[self._joint_addresses[side]].copy()

    def opening(self, side: str) -> float:
        """Measured total opening of one gripper, m."""
        first, second = self.data.qpos[self._finger_addresses[side]]
        return float(first - second)

    def grasp_point(self, side: str) -> np.ndarray:
        """Point between the finger pads in the world, (3,) m."""
        return self.data.site_xpos[self._grasp_sites[side]].copy()

    def home(self) -> dict[str, np.ndarray]:
        """Nominal start pose per side, (7,) each: six joints (rad) and the opening (m)."""
        left = np.asarray(self.config.start_joints, float)
        mirrored = left * np.array([-1, 1, 1, -1, 1, -1, 1])
        return {"left": left, "right": mirrored}

    def side_slice(self, side: str) -> slice:
        """Where one arm's seven entries lie in a command."""
        start = SIDES.index(side) * (_GRIPPER + 1)
        return slice(start, start + _GRIPPER + 1)

    def save(self) -> CellState:
        """Snapshot from which `restore` continues bit for bit."""
        arrays = {"physics": self.physics(), "command": self.command.copy()}
        arrays |= {"steps": np.array(self.steps), "episode_key": np.array(self.episode_key)}
        arrays |= {f"task/{name}": value.copy() for name, value in self.task.get_state().items()}
        arrays |= {f"variation/{name}": value.copy() for name, value in self._variation.get_state().items()}
        arrays |= {f"delay/{name}": value.copy() for name, value in self._delay.get_state().items()}
        return CellState(arrays)

    def physics(self) -> np.ndarray:
        """Where everything is and how it moves, float64 (n,): enough to draw an episode that was saved before."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return physics

    def show(self, physics: np.ndarray) -> None:
        """Take over what `physics` returned, for drawing; task and ground truth stay as they are."""
        mujoco.mj_setState(self.model, self.data, physics, _PHYSICS)
        mujoco.mj_fwdPosition(self.model, self.data)

    def restore(self, state: CellState) -> TaskStatus:
        """Return to a snapshot of a cell with the same configuration; ConfigError if the snapshot belongs to another
        model.
        """
        expected = mujoco.mj_stateSize(self.model, _PHYSICS)
        physics = state.arrays.get("physics", np.empty(0))
        if physics.shape != (expected,) or state.arrays["command"].shape != self.command.shape:
            raise ConfigError(
                f"cell state has {physics.size} physics numbers, this cell has {expected}: "
                "it was saved with another task, difficulty or version"
            )
        past = state.arrays.get("delay/past", np.empty((0, self.command.size)))
        if len(past) != self._delay.longest:
            raise ConfigError(
                f"cell state has {len(past)} physics steps of commands under way, this cell has {self._delay.longest}: "
                "it was saved with another cell.command_delay or variation"
            )
        pick = lambda prefix: {k.removeprefix(prefix): v for k, v in state.arrays.items() if k.startswith(prefix)}  # noqa: E731
        self._variation.set_state(pick("variation/"))
        self.show(physics)
        self._delay.set_state(pick("delay/"))
        self.command = state.arrays["command"].copy()
        self.steps = int(state.arrays["steps"])
        self.episode_key = int(state.arrays["episode_key"])
        self.clamped = self._substep = 0
        self.task.set_state(pick("task/"))
        self.status = self.task.status
        return self.status
