"""The expert of box closing: puts the cup in, folds the flap with the left arm and tucks its tab with the right one.

Both arms work with closed fingers across the box. The left one presses on the flap from outside and folds it until the
tab is above the slot; the right one comes down on the tab, bends it, and gives way while the left presses the flap shut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.planner import Arm, Planner, Style
from rise_robot.cell.scene import SIDES
from rise_robot.cell.tasks.box_closing import scene

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.box_closing.task import BoxClosing

__all__ = ["BoxExpert", "BoxStyle"]

#: Commanded openings, m: for the cup, around it, and fingers together.
_OPEN, _SQUEEZE, _CLOSED = 0.07, 0.034, 0.0
_CUP_WIDTH = 2 * scene.CUP_RADIUS
#: Height of the grasp point at the cup on the table, of a free hand or a carried cup on its way, and of its release, m.
_GRASP_HEIGHT, _CARRY_HEIGHT, _RELEASE_HEIGHT = 0.036, 0.130, 0.044
#: Edge of the closed fingers that works, from the grasp point: half of their depth, and how far the tips reach below, m.
_DEPTH, _BELOW = 0.011, 0.010
#: Where the fingers press on the flap, m from its crease: when it stands, and when it lies.
_PRESS_FAR, _PRESS_NEAR = 0.088, 0.066
#: Angle at which the flap is held while the tab is bent, and .
_HOLD = 0.38
#: Where the right fingers bend the tab, m from its crease.
_GRIP = 0.019
_THICK = 0.003


@dataclass(frozen=True)
class BoxStyle(Style):
    """How boxes are closed."""


class BoxExpert(Planner):
    """Puts the cup into the box, folds the flap and tucks its tab into the slot."""

    style: BoxStyle

    def __init__(self, cell: WorkCell, task: BoxClosing, style: BoxStyle | None = None) -> None:
        super().__init__(cell, style or BoxStyle())
        self._task = task

    # ---- the kinematic model

    def look(self) -> None:
        """Where box and cup are, and the angles of both creases."""
        task = self._task
        self._box = task.box_pose()
        position, rotation = task.pose("cup")
        self._cup, self._handle = position.copy(), float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        held = task.touching()["held"]
        self._holder = int(held.argmax()) if held.any() else -1
        self._flap, self._tab = task.angle("flap"), task.angle("tab")
        self._rest = {"flap": task.rest_angle("flap"), "tab": task.rest_angle("tab")}

    def _inside(self) -> bool:
        where = self._into(self._cup)
        return bool((np.abs(where[:2]) < (scene.HALF_X - 0.02, scene.HALF_Y - 0.012)).all() and where[2] < 0.04)

    def held_width(self, arm: Arm) -> float:
        """The cup's, between closed fingers."""
        return _CUP_WIDTH if self._holder == arm.index else 0.0

    def advance(self) -> None:
        """The cup goes with the fingers that hold it; creases follow the fingers and spring back."""
        for arm in self.arms:
            point, _ = arm.tool()
            if self._holder == arm.index:
                self._cup = point - np.array([0, 0, _GRASP_HEIGHT - scene.CUP_HEIGHT / 2])
                if arm.opening > _CUP_WIDTH + 0.004:
                    self._holder = -1
                    self._cup[2] = min(self._cup[2], scene.CUP_HEIGHT / 2 + 0.004)
            elif arm.opening <= _CUP_WIDTH + 0.001 and np.linalg.norm(point - self._cup) < 0.025:
                self._holder = arm.index
        edge = self._edge(self.arms[0])
        along, out = edge - scene.HINGE, np.hypot(*(edge - scene.HINGE))
        pressed = float(np.arctan2(along[1], -along[0])) if out < scene.FLAP_LENGTH + 0.01 and along[1] > -0.01 else 3.0
        latched = self._flap < 0.1 and self._tab > 1.2
        self._flap = max(0.0, self._flap if latched else min(pressed, self._rest["flap"]))
        self._rest["flap"] = min(self._rest["flap"], self._flap + 0.4)
        end = self._end()
        if not latched and self._pushes_tab():
            self._tab = 1.6
            self._rest["tab"] = max(self._rest["tab"], 1.0)
        del end

    def _pushes_tab(self) -> bool:
        edge = self._edge(self.arms[1], -1)
        return bool(edge[1] < self._end()[1] - 0.012 and abs(edge[0] - self._end()[0]) < 0.015)

    # ---- geometry

    def _into(self, point: np.ndarray) -> np.ndarray:
        """A point of the world in the frame of the box, (3,) m."""
        turn = self._box[2]
        across = point[:2] - self._box[:2]
        cos, sin = np.cos(turn), np.sin(turn)
        return np.array([cos * across[0] + sin * across[1], cos * across[1] - sin * across[0], point[2]])

    def _out_of(self, point: np.ndarray) -> np.ndarray:
        """A point in the frame of the box in the world, (3,) m."""
        turn = self._box[2]
        cos, sin = np.cos(turn), np.sin(turn)
        x, y, z = point
        return np.array([self._box[0] + cos * x - sin * y, self._box[1] + sin * x + cos * y, z])

    def _edge(self, arm: Arm, sign: int = 1) -> np.ndarray:
        """Lower edge of the closed fingers, towards the slot (left arm) or the crease (right arm), (y, z) in the box."""
        point = self._into(arm.tool()[0])
        return np.array([point[1] - sign * _DEPTH, point[2] - _BELOW])

    def _end(self) -> np.ndarray:
        """Free end of the flap, where the tab's crease is, (y, z) m in the box."""
        return scene.HINGE + scene.FLAP_LENGTH * np.array([-np.cos(self._flap), np.sin(self._flap)])

    def _to(self, arm: Arm, y: float, z: float, x: float = 0.0) -> np.ndarray:
        """Joints that bring the grasp point to a place in the box's frame, the fingers closing along the box's x."""
        return arm.reach(self._out_of(np.array([x, y, z])), self._across(arm))

    def _across(self, arm: Arm) -> float:
        return float(self._box[2]) + (-np.pi / 2 if arm.index == 0 else np.pi / 2)

    # ---- who does what

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        """The right arm carries and tucks, the left one folds and holds."""
        if arm.index == 0:
            return self._fold(arm)
        if self._holder == arm.index:
            return self._carry(arm)
        if not self._inside():
            return self._pick(arm)
        return self._tuck(arm)

    def _pick(self, arm: Arm) -> tuple[np.ndarray, float]:
        point, yaw = arm.tool()
        neutral = arm.azimuth(self._cup)
        # Pads beside the handle: across it, give or take 45 degrees; of all that the wrist allows the nearest to the
        # one it is put down with.
        wanted = self._handle + np.pi * np.arange(-3, 4)[:, None] + np.linspace(-0.7, 0.7, 8)
        wanted = wanted[np.abs(wanted - neutral) < 1.7]
        wanted_yaw = float(wanted[np.argmin(np.abs(wanted - self._across(arm)))])
        away = np.hypot(*(point[:2] - self._cup[:2]))
        height = self._cup[2] - scene.CUP_HEIGHT / 2 + _GRASP_HEIGHT
        turned = abs(wanted_yaw - yaw) < 0.15
        low = point[2] < height + 0.008
        if low and away < 0.015:
            return arm.reach(np.array([*self._cup[:2], height]), wanted_yaw), _SQUEEZE
        if away < 0.012 and turned and arm.opening > _CUP_WIDTH + 0.012:
            return arm.reach(np.array([*self._cup[:2], height]), wanted_yaw), _OPEN
        if point[2] < 0.08 and away > 0.02:
            return arm.reach(np.array([*point[:2], 0.11]), yaw), _OPEN
        return arm.reach(np.array([*self._cup[:2], 0.11]), wanted_yaw), _OPEN

    def _carry(self, arm: Arm) -> tuple[np.ndarray, float]:
        point, yaw = arm.tool()
        goal = self._out_of(np.array([0.0, 0.004, _CARRY_HEIGHT]))
        away = np.hypot(*(point[:2] - goal[:2]))
        inside = self._into(point)
        if point[2] < 0.11 and away > 0.03:  # over the rim first
            return arm.reach(np.array([*point[:2], _CARRY_HEIGHT]), yaw), _SQUEEZE
        if away > (0.008 if inside[2] > 0.115 else 0.025):
            return arm.reach(goal, self._across(arm)), _SQUEEZE
        standing = self._cup[2] - scene.CUP_HEIGHT / 2 < 0.010 or point[2] < 0.036
        goal[2] = point[2] - (self._cup[2] - scene.CUP_HEIGHT / 2 - 0.004)
        return arm.reach(goal, self._across(arm)), _OPEN if standing else _SQUEEZE

    def _fold(self, arm: Arm) -> tuple[np.ndarray, float]:
        edge, right = self._edge(arm), self._into(self.arms[1].tool()[0])
        along = edge - scene.HINGE
        closed = self._flap < 0.08 and self._in_slot()
        right_busy = right[1] > -0.10 and right[2] < 0.2
        cup_in = self._inside() and self._holder < 0
        if closed and not right_busy:  # done: up and away
            point = self._into(arm.tool()[0])
            if point[2] < 0.13:
                return self._to(arm, point[1] + 0.01, 0.16), _CLOSED
            return self._to(arm, 0.17, 0.17), _CLOSED
        outside = along @ np.array([np.sin(self._flap), np.cos(self._flap)])
        beside = scene.HALF_Y + 0.075 + 0.12 * max(0.0, self._flap - 1.7)
        if outside < -0.004:  # on the wrong side of the flap: over it
            return self._to(arm, beside, 0.2), _CLOSED
        hand_in_the_way = not cup_in or (right[1] > -0.045 and self._flap > 0.5)
        if hand_in_the_way:
            return self._to(arm, beside, 0.16), _CLOSED
        goal = 0.0 if self._bent() else _HOLD
        angle = max(goal, min(self._flap, 1.75) - 0.35)
        if goal == 0.0:
            angle = max(-0.12, self._flap - 0.2)
        radius = np.interp(angle, (0.5, 1.2), (_PRESS_NEAR, _PRESS_FAR))
        normal = np.array([np.sin(angle), np.cos(angle)])
        place = scene.HINGE + radius * np.array([-np.cos(angle), np.sin(angle)]) + 0.0015 * normal
        return self._to(arm, place[0] + _DEPTH, place[1] + _BELOW), _CLOSED

    def _bent(self) -> bool:
        """Whether the tab is bent so far that it would enter the slot, or is in it."""
        tip = scene.tab_tip(self._flap, self._tab)
        return self._flap < 0.45 and tip[0] > -scene.HALF_Y + (0.001 if tip[1] > scene.HEIGHT else 0.0)

    def _in_slot(self) -> bool:
        return self._task.in_slot(scene.tab_tip(self._flap, self._tab))

    def _tuck(self, arm: Arm) -> tuple[np.ndarray, float]:
        point = self._into(arm.tool()[0])
        edge, end = self._edge(arm, -1), self._end()
        if self._flap < 0.08 and self._in_slot():
            if point[1] > -scene.HALF_Y - 0.04:
                return self._to(arm, -scene.HALF_Y - 0.06, point[2] + 0.012), _CLOSED
            return self._to(arm, -0.17, 0.17), _CLOSED
        if point[2] < 0.12 and point[1] > -0.045:  # out of the box, once the cup is let go
            if arm.opening < _CUP_WIDTH + 0.012 and np.linalg.norm(self._out_of(point) - self._cup) < 0.03:
                return arm.reach(self._out_of(point), arm.tool()[1]), _OPEN
            return arm.reach(self._out_of(np.array([point[0], point[1], 0.17])), arm.tool()[1]), _OPEN
        if self._flap > _HOLD + 0.2:
            return self._to(arm, -scene.HALF_Y - 0.06, 0.165), _CLOSED
        slant = self._tab - self._flap
        tab = np.array([-np.cos(slant), -np.sin(slant)])
        off = edge - end
        across, along = off @ np.array([-tab[1], tab[0]]), off @ tab  # towards the inside of the box, and the tab's edge
        if across > 0.003:  # not outside of the tab: over it
            return self._to(arm, -scene.HALF_Y - 0.02 - _DEPTH, 0.15), _CLOSED
        if self._bent():
            face = -scene.HALF_Y + 0.5 * self._task.ranges.slot
            face -= 0.004 * float(np.clip((0.15 - self._flap) / 0.15, 0, 1))
            return self._to(arm, face - _DEPTH, max(scene.HEIGHT + 0.006, edge[1] - 0.01) + _BELOW), _CLOSED
        tip = scene.tab_tip(self._flap, self._tab)
        if self._flap < _HOLD - 0.12 and tip[1] < scene.HEIGHT + 0.004:  # beside the slot: up, so that it springs back
            return self._to(arm, -scene.HALF_Y - 0.03 - _DEPTH, 0.15), _CLOSED
        near = tip + np.array([-0.002, 0.012])
        if edge[1] > near[1] + 0.010 or edge[0] < near[0] - 0.010:
            if edge[1] < near[1] - 0.003:
                return self._to(arm, min(edge[0], near[0] - 0.02) - _DEPTH, 0.15), _CLOSED
            return self._to(arm, near[0] - _DEPTH, near[1] + _BELOW), _CLOSED
        turned = min(slant + 0.3, 1.75 - self._flap)
        place = end + _GRIP * np.array([-np.cos(turned), -np.sin(turned)])
        return self._to(arm, place[0] - _DEPTH, place[1] + _BELOW), _CLOSED
