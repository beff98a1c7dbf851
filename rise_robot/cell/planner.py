"""A scripted expert without a task: rolls a kinematic model of arms and objects forward under a task's rules.

The planner keeps no plan between calls. From the present state it moves a small kinematic model one control step at a
time; the first steps of that roll-out are the action chunk. Asked again later, it starts from what really happened,
which is what makes it recover and what lets it take over from any other policy at any moment.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.kinematics import forward_grasp, grasp_rotation, inverse_kinematics
from rise_robot.cell.piper import ARM_JOINTS, MAX_GRIPPER_SPEED
from rise_robot.cell.scene import SIDES
from rise_robot.cell.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["SERVO_LAG", "Arm", "Planner", "Style"]

#: Time constant with which the measured joints follow their set-points, s (velocity over position gain of the servos).
SERVO_LAG = 0.07


@dataclass(frozen=True)
class Style:
    """How an expert moves; a task's own style adds to it, imperfect operators change it.

    Attributes:
        speed: Largest joint speed, rad/s.
    """

    speed: float = 1.3


@dataclass
class Arm:
    """One arm in the kinematic model.

    Attributes:
        index: Index into `SIDES`.
        base: Position of its base in the world, (3,) m.
        home: Joints of its nominal start pose, (6,) rad.
        joints: Joints that will be measured, (6,) rad.
        opening: Gripper opening that will be measured, m.
        command: Its set-points: six joints (rad) and the opening (m).
    """

    index: int
    base: np.ndarray
    home: np.ndarray
    joints: np.ndarray = field(default_factory=lambda: np.zeros(ARM_JOINTS))
    opening: float = 0.0
    command: np.ndarray = field(default_factory=lambda: np.zeros(ARM_JOINTS + 1))

    def tool(self) -> tuple[np.ndarray, float]:
        """Position of the grasp point in the world, (3,) m, and the yaw of the closing direction, rad."""
        pose = forward_grasp(self.joints)
        yaw = float(np.arctan2(-pose[0, 1], pose[1, 1]))
        return pose[:3, 3] + self.base, yaw

    def azimuth(self, point: np.ndarray) -> float:
        """Direction of a point of the world, seen from the arm's base, rad."""
        return float(np.arctan2(point[1] - self.base[1], point[0] - self.base[0]))

    def reach(self, point: np.ndarray, yaw: float) -> np.ndarray:
        """Joints that bring the grasp point to `point`, (3,) m in the world, with the tool pointing down; (6,) rad."""
        local = point - self.base
        azimuth = np.arctan2(local[1], local[0])
        # The wrist cannot point straight down when it is high: lean outwards.
        tilt = np.clip((local[2] - 0.06) * 4.5, 0.0, 0.5)
        rotation = grasp_rotation(np.asarray(yaw), np.asarray(tilt), azimuth)
        joints, _ = inverse_kinematics(local, rotation, self.command[:ARM_JOINTS])
        return joints


class Planner(ScriptedPolicy):
    """Base of a task's expert: a subclass says where an arm should go now, and how the objects move.

    Joints move in straight lines no faster than `style.speed`, grippers within their limit, and measured joints trail
    their set-points as the servos do, after the cell's dead time.

    Attributes:
        age: Age of what it sees of moving objects, s; 0 for an expert.
        arms: The arms of the kinematic model, in the order of `SIDES`.
        dt: Control period, s.
    """

    def __init__(self, cell: WorkCell, style: Style, name: str = "expert") -> None:
        self.name, self.style, self.age = name, style, 0.0
        self.cell, self.dt = cell, 1 / cell.spec.fps
        home = cell.home()
        self.arms = tuple(Arm(i, cell.bases[side], home[side][:ARM_JOINTS]) for i, side in enumerate(SIDES))
        self._follow = 1 - np.exp(-self.dt / SERVO_LAG)
        #: How long after a command the arms are there, s: servo lag and the dead time of the cell.
        self.lag = SERVO_LAG + cell.config.command_delay.arm
        self._grip_step = MAX_GRIPPER_SPEED * self.dt

    def plan(self, horizon: int) -> np.ndarray:
        """Roll the kinematic model forward; see `ScriptedPolicy.plan`."""
        cell = self.cell
        command = cell.command.copy()
        for arm, side in zip(self.arms, SIDES, strict=True):
            arm.joints, arm.opening = cell.joints(side), cell.opening(side)
            arm.command = command[cell.side_slice(side)]
        self.look()
        plan = np.empty((horizon, command.size))
        delays = cell.command_delay
        delayed = bool(delays.any())
        # What was commanded so far in this plan, and what is under way from before it.
        sent, before = [command.copy()], cell.under_way(horizon) if delayed else plan
        for step in range(horizon):
            self.decide()
            for arm in self.arms:
                goal, grip = self.act(arm)
                arm.command[:ARM_JOINTS] += self._limited(goal - arm.command[:ARM_JOINTS])
                arm.command[ARM_JOINTS] += np.clip(grip - arm.command[ARM_JOINTS], -self._grip_step, self._grip_step)
                served = arm.command
                if delayed:
                    part = cell.side_slice(SIDES[arm.index])
                    served = _arriving([*(s[part] for s in sent), arm.command], delays[part], before[step, part])
                arm.joints = arm.joints + self._follow * (served[:ARM_JOINTS] - arm.joints)
                closing = arm.opening + self._follow * (served[ARM_JOINTS] - arm.opening)
                arm.opening = max(closing, self.held_width(arm))
            plan[step] = command
            sent.append(command.copy())
            if step + 1 < horizon:
                self.advance()
        return np.clip(plan, cell.spec.layout.low, cell.spec.layout.high)

    def _limited(self, change: np.ndarray) -> np.ndarray:
        """Scale a joint change so that no joint exceeds the speed; the path stays straight in joint space."""
        largest = np.abs(change).max()
        limit = self.style.speed * self.dt
        return change if largest <= limit else change * (limit / largest)

    @abstractmethod
    def look(self) -> None:
        """Read the ground truth of the objects into the kinematic model; called once per plan."""

    def decide(self) -> None:
        """Decide which arm does what in the next control step."""

    @abstractmethod
    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        """Where an arm should go: joints (6,) in rad and gripper opening in m; it gets there as fast as it may."""

    def advance(self) -> None:
        """Move the objects by one control step, with the arms where they are by then."""

    def held_width(self, arm: Arm) -> float:
        """Width of what an arm holds between its fingers, m; they close no further."""
        del arm
        return 0.0


def _arriving(sent: list[np.ndarray], delays: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Set-points that arrive now: `sent` at control steps 0 ... n, now being step n, each joint `delays` (steps) later.

    `before` arrives where that was sent before step 0.
    """
    when = len(sent) - 1 - delays
    points, joints = np.asarray(sent), np.arange(len(delays))
    early = np.clip(np.floor(when).astype(int), 0, len(sent) - 1)
    late = np.minimum(early + 1, len(sent) - 1)
    between = points[early, joints] + (when - early) * (points[late, joints] - points[early, joints])
    return np.where(when < 0, before, between)
