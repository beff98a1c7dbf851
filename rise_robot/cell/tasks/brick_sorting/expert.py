"""The expert of brick sorting: meets the brick on the belt, grasps it, carries it to its bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.piper import ARM_JOINTS
from rise_robot.cell.planner import Arm, Planner, Style
from rise_robot.cell.tasks.brick_sorting.scene import BELT_END, BELT_TOP, BELT_X, BRICK_HALF

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.brick_sorting.task import BrickSorting

__all__ = ["BrickExpert", "BrickStyle"]

#: Commanded openings, m; the closed one squeezes a brick with about 6 N.
_OPEN, _CLOSED = 0.07, 0.02
_WIDTH = 2 * BRICK_HALF[1]
_GRASP_HEIGHT = BELT_TOP + BRICK_HALF[2] - 0.001
_HOVER_HEIGHT, _CARRY_HEIGHT, _RELEASE_HEIGHT = 0.115, 0.125, 0.100
#: Farthest from its own base that an arm reaches for a brick along the belt, m.
_REACH_ALONG_BELT = 0.30


@dataclass(frozen=True)
class BrickStyle(Style):
    """How bricks are sorted.

    Attributes:
        aim: Offset of every grasp from the brick, (x, y, yaw) m and rad.
        release: Offset of every release from the bin's centre, (x, y) m.
        height: Offset of the grasp height, m.
        foresight: Fraction of the belt's motion that the expert expects (1: exact).
        swap_bins: Whether its left and its right arm take one bin for another.
        early_release: Fraction of the way to the bin after which the brick is let go (1: at the bin).
        never_opens: Whether it approaches with closed fingers.
    """

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


class BrickExpert(Planner):
    """Meets the brick on the belt, grasps it, carries it to its bin."""

    style: BrickStyle

    def __init__(self, cell: WorkCell, task: BrickSorting, style: BrickStyle | None = None) -> None:
        super().__init__(cell, style or BrickStyle())
        self._task = task
        self._bricks: list[_Brick] = []
        self._targets: list[_Brick | None] = [None, None]

    def look(self) -> None:
        """Bricks that are waiting or held, and the belt's speed."""
        task = self._task
        positions, yaws = task.brick_positions(), task.brick_yaws()
        positions[task.holder < 0, 1] -= float(task.belt_velocity) * self.age
        self._bricks = [
            _Brick(int(i), positions[i].copy(), float(yaws[i]), int(task.holder[i]))
            for i in task.waiting()
            if task.holder[i] >= 0 or not task.over_a_bin(int(i))
        ]
        self._speed = float(task.belt_velocity) * self.style.foresight

    def held_width(self, arm: Arm) -> float:
        """A brick's, between closed fingers."""
        brick = self._targets[arm.index]
        return _WIDTH if brick is not None and brick.holder == arm.index else 0.0

    def advance(self) -> None:
        """The belt carries bricks along; fingers take and release them."""
        for brick in self._bricks:
            if brick.holder < 0:
                brick.position = brick.position + np.array([0, self._speed * self.dt, 0])
        for arm in self.arms:
            target = self._targets[arm.index]
            if target is None:
                continue
            point, _ = arm.tool()
            if target.holder == arm.index:
                target.position = point.copy()
                if arm.opening > _WIDTH + 0.008:
                    self._bricks.remove(target)
            elif arm.opening <= _WIDTH + 0.002 and np.hypot(*(point[:2] - target.position[:2])) < 0.02:
                target.holder = arm.index

    def decide(self) -> None:
        """One brick per arm: what it holds, else the first to leave the belt among those on its side."""
        targets: list[_Brick | None] = [None, None]
        for brick in self._bricks:
            if brick.holder >= 0:
                targets[brick.holder] = brick
        direction = np.sign(self._speed) or 1.0
        for brick in self._bricks:
            if brick.holder >= 0 or abs(brick.position[1]) > BELT_END:
                continue
            # Where it will be once an arm has come to meet it decides which arm that is.
            meeting = brick.position[1] + self._speed * 0.8
            arm = self.arms[0 if meeting > -0.04 * direction else 1]
            near = abs(meeting - arm.base[1]) < _REACH_ALONG_BELT
            if targets[arm.index] is None and near:
                targets[arm.index] = brick
        self._targets = targets

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        """Pick or carry this arm's brick; go home without one."""
        brick = self._targets[arm.index]
        if brick is None:
            return arm.home, _OPEN
        return self._carry(arm, brick) if brick.holder == arm.index else self._pick(arm, brick)

    def _pick(self, arm: Arm, brick: _Brick) -> tuple[np.ndarray, float]:
        style, (point, yaw) = self.style, arm.tool()
        # The servos trail their set-points: aim where the brick will be by then.
        ahead = self._speed * (self.lag + self.dt)
        aim = brick.position[:2] + np.array([style.aim[0], style.aim[1] + ahead])
        error = np.hypot(*(point[:2] - brick.position[:2] - np.asarray(style.aim[:2])))
        wanted_yaw = self._grasp_yaw(arm, brick.yaw + style.aim[2], aim, yaw)
        turned = abs(wanted_yaw - yaw) < 0.3
        grasp_height = _GRASP_HEIGHT + style.height
        low = point[2] < grasp_height + 0.014
        closing = arm.command[ARM_JOINTS] < _OPEN - 0.005
        empty = arm.opening < _WIDTH - 0.008
        ready = style.never_opens or arm.opening > _WIDTH + 0.012

        if low and not empty and turned and error < (0.03 if closing else 0.016):
            height, grip = grasp_height, _CLOSED
        elif error < 0.03 and turned and ready:
            height, grip = grasp_height, _CLOSED if style.never_opens else _OPEN
        else:
            height, grip = max(_HOVER_HEIGHT, min(point[2], 0.16)), _CLOSED if style.never_opens else _OPEN
            if point[2] < 0.07 and error > 0.02:  # rise before moving sideways, so that nothing is swept off the belt
                aim = point[:2] + np.array([0.0, self._speed * self.dt])
                wanted_yaw = yaw
        return arm.reach(np.array([*aim, height]), wanted_yaw), grip

    def _carry(self, arm: Arm, brick: _Brick) -> tuple[np.ndarray, float]:
        style, task, (point, yaw) = self.style, self._task, arm.tool()
        center = task.own_bin(brick.index)
        if style.swap_bins[arm.index]:
            others = [c for c in task.bin_centers if not np.array_equal(c, center)]
            center = min(others, key=lambda c: float(np.hypot(*(c - center))))
        goal = center + np.asarray(style.release)
        away = np.hypot(*(point[:2] - goal))
        if style.early_release < 1:
            way = np.hypot(*(np.array([BELT_X, brick.position[1]]) - goal))
            if point[2] > 0.09 and away < (1 - style.early_release) * max(way, 0.2):
                return arm.reach(point, yaw), _OPEN
        if point[2] < 0.085 and away > 0.07:  # clear the rail first
            return arm.reach(np.array([*point[:2], _CARRY_HEIGHT]), yaw), _CLOSED
        if away > 0.05:
            return arm.reach(np.array([*goal, _CARRY_HEIGHT]), self._bin_yaw(arm, goal, yaw)), _CLOSED
        release = away < 0.025 or (away < 0.04 and point[2] < _RELEASE_HEIGHT + 0.01)
        target = np.array([*goal, _RELEASE_HEIGHT])
        return arm.reach(target, self._bin_yaw(arm, goal, yaw)), _OPEN if release else _CLOSED

    @staticmethod
    def _grasp_yaw(arm: Arm, brick_yaw: float, aim: np.ndarray, yaw: float) -> float:
        """Closing direction across the brick: of all half turns the one nearest to the tool that the wrist allows."""
        neutral = arm.azimuth(aim)
        candidates = brick_yaw + np.pi * np.arange(-3, 4)
        allowed = candidates[np.abs(candidates - neutral) < 1.9]
        return float(allowed[np.argmin(np.abs(allowed - yaw))])

    @staticmethod
    def _bin_yaw(arm: Arm, goal: np.ndarray, yaw: float) -> float:
        neutral = arm.azimuth(goal)
        return float(np.clip(yaw, neutral - 0.9, neutral + 0.9))
