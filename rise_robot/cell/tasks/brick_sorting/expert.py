"""The scripted expert of brick sorting: meets the brick on the belt, grasps it, carries it to its bin.

The expert holds no plan between calls. From the present state it rolls a small kinematic model of arm, belt and brick
forward under fixed rules, one control step at a time; the first steps of that roll-out are the action chunk. Asked
again later, it starts from what really happened, which is what makes it recover and what lets it take over from any
other policy at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_robot.cell.cell import WorkCell
from rise_robot.cell.kinematics import forward_grasp, grasp_rotation, inverse_kinematics
from rise_robot.cell.piper import ARM_JOINTS, MAX_GRIPPER_SPEED
from rise_robot.cell.scene import SIDES
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.cell.tasks.brick_sorting.task import BELT_END, BELT_TOP, BELT_X, BRICK_HALF, BrickSorting

__all__ = ["BrickExpert", "Style"]

#: Commanded openings, m; the closed one squeezes a brick with about 6 N.
_OPEN, _CLOSED = 0.07, 0.02
_WIDTH = 2 * BRICK_HALF[1]
_GRASP_HEIGHT = BELT_TOP + BRICK_HALF[2] - 0.001
_HOVER_HEIGHT, _CARRY_HEIGHT, _RELEASE_HEIGHT = 0.115, 0.125, 0.100
#: Time constant with which the measured joints follow their set-points, s (velocity over position gain of the servos).
_SERVO_LAG = 0.07
#: Farthest from its own base that an arm reaches for a brick along the belt, m.
_REACH_ALONG_BELT = 0.30


@dataclass(frozen=True)
class Style:
    """How the expert moves; the imperfect operators change these.

    Attributes:
        speed: Largest joint speed, rad/s.
        aim: Offset of every grasp from the brick, (x, y, yaw) m and rad.
        release: Offset of every release from the bin's centre, (x, y) m.
        height: Offset of the grasp height, m.
        foresight: Fraction of the belt's motion that the expert expects (1: exact).
        swap_bins: Whether its left and its right arm take one bin for another.
        early_release: Fraction of the way to the bin after which the brick is let go (1: at the bin).
        never_opens: Whether it approaches with closed fingers.
    """

    speed: float = 1.3
    aim: tuple[float, float, float] = (0.0, 0.0, 0.0)
    release: tuple[float, float] = (0.0, 0.0)
    height: float = 0.0
    foresight: float = 1.0
    swap_bins: tuple[bool, bool] = (False, False)
    early_release: float = 1.0
    never_opens: bool = False


@dataclass
class _Brick:
    """A brick in the expert's kinematic model (world frame, m, rad)."""

    index: int
    position: np.ndarray
    yaw: float
    holder: int


class BrickExpert(ScriptedPolicy):
    """Scripted expert.

    Args:
        cell: The cell it acts in.
        task: The cell's task.
        style: How it moves.
        name: Policy name.
    """

    def __init__(self, cell: WorkCell, task: BrickSorting, style: Style | None = None, name: str = "expert") -> None:
        self.name = name
        self.style = style or Style()
        self._cell, self._task = cell, task
        self._dt = 1 / cell.spec.fps
        self._follow = 1 - np.exp(-self._dt / _SERVO_LAG)
        self._grip_step = MAX_GRIPPER_SPEED * self._dt
        self._home = cell.home()
        self._age = 0.0  # of what is seen of the belt, s

    def plan(self, horizon: int) -> np.ndarray:
        """Roll the kinematic model forward; see `ScriptedPolicy.plan`."""
        cell, task = self._cell, self._task
        command = cell.command.copy()
        measured = {side: cell.joints(side) for side in SIDES}
        opening = {side: cell.opening(side) for side in SIDES}
        positions, yaws = task.brick_positions(), task.brick_yaws()
        positions[task.holder < 0, 1] -= float(task.belt_velocity) * self._age
        bricks = [
            _Brick(int(i), positions[i].copy(), float(yaws[i]), int(task.holder[i]))
            for i in task.waiting()
            if task.holder[i] >= 0 or not task.over_a_bin(int(i))
        ]
        self._speed = float(task.belt_velocity) * self.style.foresight
        plan = np.empty((horizon, command.size))
        for step in range(horizon):
            targets = self._assign(bricks)
            for arm, side in enumerate(SIDES):
                part = command[cell.side_slice(side)]
                goal, grip = self._act(arm, side, targets[arm], measured[side], opening[side], part)
                part[:ARM_JOINTS] += self._limited(goal - part[:ARM_JOINTS])
                part[ARM_JOINTS] += np.clip(grip - part[ARM_JOINTS], -self._grip_step, self._grip_step)
                measured[side] = measured[side] + self._follow * (part[:ARM_JOINTS] - measured[side])
                opening[side] = self._next_opening(targets[arm], arm, opening[side], part[ARM_JOINTS])
            plan[step] = command
            if step + 1 < horizon:
                self._advance(bricks, targets, measured, opening)
        return np.clip(plan, cell.spec.layout.low, cell.spec.layout.high)

    # ------------------------------------------------------------------ the model of the world

    def _limited(self, change: np.ndarray) -> np.ndarray:
        """Scale a joint change so that no joint exceeds the speed; the path stays straight in joint space."""
        largest = np.abs(change).max()
        limit = self.style.speed * self._dt
        return change if largest <= limit else change * (limit / largest)

    def _next_opening(self, brick: _Brick | None, arm: int, opening: float, command: float) -> float:
        held = brick is not None and brick.holder == arm
        return max(opening + self._follow * (command - opening), _WIDTH if held else 0.0)

    def _advance(
        self,
        bricks: list[_Brick],
        targets: list[_Brick | None],
        measured: dict[str, np.ndarray],
        opening: dict[str, float],
    ) -> None:
        for brick in bricks:
            if brick.holder < 0:
                brick.position = brick.position + np.array([0, self._speed * self._dt, 0])
        for arm, side in enumerate(SIDES):
            target = targets[arm]
            if target is None:
                continue
            point, _ = self._tool(side, measured[side])
            if target.holder == arm:
                target.position = point.copy()
                if opening[side] > _WIDTH + 0.008:
                    bricks.remove(target)
            elif opening[side] <= _WIDTH + 0.002 and self._aligned(point, target, 0.02):
                target.holder = arm

    def _assign(self, bricks: list[_Brick]) -> list[_Brick | None]:
        """One brick per arm: what it holds, else the first to leave the belt among those on its side."""
        targets: list[_Brick | None] = [None, None]
        for brick in bricks:
            if brick.holder >= 0:
                targets[brick.holder] = brick
        direction = np.sign(self._speed) or 1.0
        for brick in bricks:
            if brick.holder >= 0 or abs(brick.position[1]) > BELT_END:
                continue
            # Where it will be once an arm has come to meet it decides which arm that is.
            meeting = brick.position[1] + self._speed * 0.8
            arm = 0 if meeting > -0.04 * direction else 1
            near = abs(meeting - self._cell.bases[SIDES[arm]][1]) < _REACH_ALONG_BELT
            if targets[arm] is None and near:
                targets[arm] = brick
        return targets

    # ------------------------------------------------------------------ the rules

    def _tool(self, side: str, joints: np.ndarray) -> tuple[np.ndarray, float]:
        """World position of the grasp point, and the yaw of the closing direction."""
        pose = forward_grasp(joints)
        yaw = float(np.arctan2(-pose[0, 1], pose[1, 1]))
        return pose[:3, 3] + self._cell.bases[side], yaw

    @staticmethod
    def _aligned(point: np.ndarray, brick: _Brick, tolerance: float) -> bool:
        return bool(np.hypot(*(point[:2] - brick.position[:2])) < tolerance)

    def _act(
        self,
        arm: int,
        side: str,
        brick: _Brick | None,
        joints: np.ndarray,
        opening: float,
        command: np.ndarray,
    ) -> tuple[np.ndarray, float]:
        """Joint goal and gripper target of one arm for the next step."""
        if brick is None:
            return self._home[side][:ARM_JOINTS], _OPEN
        point, yaw = self._tool(side, joints)
        if brick.holder == arm:
            return self._carry(side, brick, point, yaw, command)
        return self._pick(side, brick, point, yaw, opening, command)

    def _pick(
        self, side: str, brick: _Brick, point: np.ndarray, yaw: float, opening: float, command: np.ndarray
    ) -> tuple[np.ndarray, float]:
        style = self.style
        # The servos trail their set-points: aim where the brick will be by then.
        ahead = self._speed * (_SERVO_LAG + self._dt)
        aim = brick.position[:2] + np.array([style.aim[0], style.aim[1] + ahead])
        error = np.hypot(*(point[:2] - brick.position[:2] - np.asarray(style.aim[:2])))
        wanted_yaw = self._grasp_yaw(side, brick.yaw + style.aim[2], aim, yaw)
        turned = abs(wanted_yaw - yaw) < 0.3
        grasp_height = _GRASP_HEIGHT + style.height
        low = point[2] < grasp_height + 0.014
        closing = command[ARM_JOINTS] < _OPEN - 0.005
        empty = opening < _WIDTH - 0.008
        ready = style.never_opens or opening > _WIDTH + 0.012

        if low and not empty and turned and error < (0.03 if closing else 0.016):
            height, grip = grasp_height, _CLOSED
        elif error < 0.03 and turned and ready:
            height, grip = grasp_height, _CLOSED if style.never_opens else _OPEN
        else:
            height, grip = max(_HOVER_HEIGHT, min(point[2], 0.16)), _CLOSED if style.never_opens else _OPEN
            if point[2] < 0.07 and error > 0.02:  # rise before moving sideways, so that nothing is swept off the belt
                aim = point[:2] + np.array([0.0, self._speed * self._dt])
                wanted_yaw = yaw
        return self._joints(side, np.array([*aim, height]), wanted_yaw, command), grip

    def _carry(
        self, side: str, brick: _Brick, point: np.ndarray, yaw: float, command: np.ndarray
    ) -> tuple[np.ndarray, float]:
        style, task = self.style, self._task
        center = task.own_bin(brick.index)
        if style.swap_bins[SIDES.index(side)]:
            others = [c for c in task.bin_centers if not np.array_equal(c, center)]
            center = min(others, key=lambda c: float(np.hypot(*(c - center))))
        goal = center + np.asarray(style.release)
        away = np.hypot(*(point[:2] - goal))
        if style.early_release < 1:
            way = np.hypot(*(np.array([BELT_X, brick.position[1]]) - goal))
            if point[2] > 0.09 and away < (1 - style.early_release) * max(way, 0.2):
                return self._joints(side, point, yaw, command), _OPEN
        if point[2] < 0.085 and away > 0.07:  # clear the rail first
            return self._joints(side, np.array([*point[:2], _CARRY_HEIGHT]), yaw, command), _CLOSED
        if away > 0.05:
            return self._joints(
                side, np.array([*goal, _CARRY_HEIGHT]), self._bin_yaw(side, goal, yaw), command
            ), _CLOSED
        release = away < 0.025 or (away < 0.04 and point[2] < _RELEASE_HEIGHT + 0.01)
        target = np.array([*goal, _RELEASE_HEIGHT])
        return self._joints(side, target, self._bin_yaw(side, goal, yaw), command), _OPEN if release else _CLOSED

    # ------------------------------------------------------------------ poses

    def _grasp_yaw(self, side: str, brick_yaw: float, aim: np.ndarray, yaw: float) -> float:
        """Closing direction across the brick: of all half turns the one nearest to the tool that the wrist allows."""
        neutral = self._azimuth(side, aim)
        candidates = brick_yaw + np.pi * np.arange(-3, 4)
        allowed = candidates[np.abs(candidates - neutral) < 1.9]
        return float(allowed[np.argmin(np.abs(allowed - yaw))])

    def _bin_yaw(self, side: str, goal: np.ndarray, yaw: float) -> float:
        neutral = self._azimuth(side, goal)
        return float(np.clip(yaw, neutral - 0.9, neutral + 0.9))

    def _azimuth(self, side: str, point: np.ndarray) -> float:
        base = self._cell.bases[side]
        return float(np.arctan2(point[1] - base[1], point[0] - base[0]))

    def _joints(self, side: str, point: np.ndarray, yaw: float, command: np.ndarray) -> np.ndarray:
        local = point - self._cell.bases[side]
        azimuth = np.arctan2(local[1], local[0])
        # The wrist cannot point straight down when it is high: lean outwards.
        tilt = np.clip((local[2] - 0.06) * 4.5, 0.0, 0.5)
        rotation = grasp_rotation(np.asarray(yaw), np.asarray(tilt), azimuth)
        joints, _ = inverse_kinematics(local, rotation, command[:ARM_JOINTS])
        return joints
