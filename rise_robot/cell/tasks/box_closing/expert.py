"""The expert of box closing: puts the cup in, folds the flap with the left arm and tucks its tab with the right one.

Both arms work with closed fingers across the box. The left one presses on the flap from outside and folds it until the
tab is above the slot; the right one comes down on the tab, bends it, and gives way while the left one shuts the flap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.planner import Arm, Planner, Style
from rise_robot.cell.tasks.box_closing import scene

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.box_closing.task import BoxClosing

__all__ = ["BoxExpert", "BoxStyle"]

#: Commanded openings, m: around the cup, at it, and fingers together.
_OPEN, _SQUEEZE, _CLOSED = 0.07, 0.034, 0.0
_CUP_WIDTH = 2 * scene.CUP_RADIUS
#: Heights of the grasp point, m: at a cup on the table, above it, carrying it, and free hands beside the flap.
_GRASP_HEIGHT, _HOVER_HEIGHT, _CARRY_HEIGHT, _FREE_HEIGHT = 0.036, 0.11, 0.13, 0.165
#: The edge of closed fingers that works, from the grasp point: half of their depth, and how far the tips reach, m.
_DEPTH, _BELOW = 0.011, 0.010
#: Where the left fingers press on the flap, m from its crease: when it lies, and when it stands.
_PRESS = (0.066, 0.088)
#: Angle that the flap is held at while the tab is bent, and from which on it lies low enough to begin, rad.
_HOLD, _LOW = 0.38, 0.58
#: Where the right fingers push on the tab, m from its crease, and how far they bend it, rad.
_GRIP, _BEND = 0.019, 1.75
#: Angles within which cardboard springs back, rad.
_SPRING_FLAP, _SPRING_TAB = 0.4, 0.6


@dataclass(frozen=True)
class BoxStyle(Style):
    """How boxes are closed.

    Attributes:
        aim: Offset of every grasp from the cup, (x, y) m.
        release: Offset of where the cup is put down from the middle of the box, (x, y) m.
        drop: Height above the bottom of the box at which the cup is let go, m.
        slot: Error in where the slot is thought to be, m; negative is too far out.
        bends: Whether the tab is bent before the flap is pressed shut.
        lets_go: Whether the flap is let go, whatever becomes of it.
        lower: How much too low the left arm comes to the open flap, m.
    """

    aim: tuple[float, float] = (0.0, 0.0)
    release: tuple[float, float] = (0.0, 0.0)
    drop: float = 0.0
    slot: float = 0.0
    bends: bool = True
    lets_go: bool = False
    lower: float = 0.0


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
        self._held = bool(task.touching()["held"][1])
        self._flap, self._tab = task.angle("flap"), task.angle("tab")
        self._flap_rest, self._tab_rest = task.rest_angle("flap"), task.rest_angle("tab")

    def held_width(self, arm: Arm) -> float:
        """The cup's, between closed fingers."""
        return _CUP_WIDTH if self._held and arm.index == 1 else 0.0

    def advance(self) -> None:
        """The cup goes with the fingers that hold it; creases follow the fingers and spring back."""
        left, right = self.arms
        point, _ = right.tool()
        if self._held:
            self._cup = point - np.array([0, 0, _GRASP_HEIGHT - scene.CUP_HEIGHT / 2])
            if right.opening > _CUP_WIDTH + 0.004:
                self._held = False
                self._cup[2] = min(self._cup[2], scene.CUP_HEIGHT / 2 + 0.004)
        elif right.opening <= _CUP_WIDTH + 0.001 and np.linalg.norm(point - self._cup) < 0.025:
            self._held = True
        if self._shut():
            return
        along, out = self._edge(left) - scene.HINGE, scene.FLAP_LENGTH + 0.01
        near = np.hypot(*along) < out and along[1] > -0.01
        pressed = float(np.arctan2(along[1], -along[0])) if near else np.pi
        self._flap = max(0.0, min(pressed, self._flap_rest))
        self._flap_rest = min(self._flap_rest, self._flap + _SPRING_FLAP)
        # The fingers' edge turns the tab, or its tip slides along their face.
        off = self._end() - self._edge(right)
        slant = np.arctan2(off[1], off[0])
        if np.hypot(*off) > scene.TAB_LENGTH:
            slant = np.arccos(np.clip(off[0] / scene.TAB_LENGTH, 0, 1)) if 0 < off[1] < 0.06 else 0.0
        self._tab = float(np.clip(max(self._tab_rest, slant + self._flap), 0, _BEND))
        self._tab_rest = max(self._tab_rest, self._tab - _SPRING_TAB)

    # ---- geometry: y and z in the frame of the box, m

    def _into(self, point: np.ndarray) -> np.ndarray:
        """A point of the world in the frame of the box, (3,) m."""
        cos, sin = np.cos(self._box[2]), np.sin(self._box[2])
        x, y = point[:2] - self._box[:2]
        return np.array([cos * x + sin * y, cos * y - sin * x, point[2]])

    def _out_of(self, x: float, y: float, z: float) -> np.ndarray:
        """A point of the frame of the box in the world, (3,) m."""
        cos, sin = np.cos(self._box[2]), np.sin(self._box[2])
        return np.array([self._box[0] + cos * x - sin * y, self._box[1] + sin * x + cos * y, z])

    def _edge(self, arm: Arm) -> np.ndarray:
        """Lower edge of the closed fingers: towards the slot (left arm), towards the crease (right arm)."""
        _, y, z = self._into(arm.tool()[0])
        return np.array([y - _DEPTH if arm.index == 0 else y + _DEPTH, z - _BELOW])

    def _end(self) -> np.ndarray:
        """Free end of the flap, where the tab's crease is."""
        return scene.HINGE + scene.FLAP_LENGTH * np.array([-np.cos(self._flap), np.sin(self._flap)])

    def _tip(self) -> np.ndarray:
        return scene.tab_tip(self._flap, self._tab)

    def _across(self, arm: Arm) -> float:
        """Yaw with which fingers close along the box's x."""
        return float(self._box[2]) + (-np.pi / 2 if arm.index == 0 else np.pi / 2)

    def _move(self, arm: Arm, y: float, z: float) -> tuple[np.ndarray, float]:
        """Closed fingers to a place across the middle of the box."""
        return arm.reach(self._out_of(0.0, y, z), self._across(arm)), _CLOSED

    def _move_edge(self, arm: Arm, place: np.ndarray) -> tuple[np.ndarray, float]:
        """Closed fingers, their working edge to a place across the middle of the box."""
        return self._move(arm, place[0] + (_DEPTH if arm.index == 0 else -_DEPTH), place[1] + _BELOW)

    def _cup_inside(self) -> bool:
        where = self._into(self._cup)
        return bool((np.abs(where[:2]) < (scene.HALF_X - 0.02, scene.HALF_Y - 0.012)).all() and where[2] < 0.04)

    def _shut(self) -> bool:
        return self._flap < 0.08 and self._task.in_slot(self._tip())

    def _bent(self) -> bool:
        """Whether the tab is bent so far that it would enter the slot, or is in it."""
        tip = self._tip()
        margin = 0.001 if tip[1] > scene.HEIGHT else 0.0
        return self._flap < 0.45 and tip[0] > -scene.HALF_Y + self.style.slot + margin

    # ---- who does what

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        """The right arm carries and tucks, the left one folds and holds."""
        if arm.index == 0:
            return self._fold(arm)
        if self._held:
            return self._carry(arm)
        return self._tuck(arm) if self._cup_inside() else self._pick(arm)

    def _pick(self, arm: Arm) -> tuple[np.ndarray, float]:
        point, yaw = arm.tool()
        aim = self._cup[:2] + self.style.aim
        # Pads beside the handle: across it, give or take 40 degrees; of all that the wrist allows, the nearest to that
        # with which it is put down.
        turns = self._handle + np.pi * np.arange(-3, 4)[:, None] + np.linspace(-0.7, 0.7, 8)
        turns = turns[np.abs(turns - arm.azimuth(aim)) < 1.7]
        wanted = float(turns[np.argmin(np.abs(turns - self._across(arm)))])
        away = np.hypot(*(point[:2] - aim))
        height = self._cup[2] - scene.CUP_HEIGHT / 2 + _GRASP_HEIGHT
        at_cup = arm.reach(np.array([*aim, height]), wanted)
        if point[2] < height + 0.008 and away < 0.015:
            return at_cup, _SQUEEZE
        if away < 0.012 and abs(wanted - yaw) < 0.15 and arm.opening > _CUP_WIDTH + 0.012:
            return at_cup, _OPEN
        if point[2] < 0.08 and away > 0.02:  # rise first, so that the cup is not knocked over
            return arm.reach(np.array([*point[:2], _HOVER_HEIGHT]), yaw), _OPEN
        return arm.reach(np.array([*aim, _HOVER_HEIGHT]), wanted), _OPEN

    def _carry(self, arm: Arm) -> tuple[np.ndarray, float]:
        point, yaw = arm.tool()
        goal = self._out_of(self.style.release[0], 0.004 + self.style.release[1], _CARRY_HEIGHT)
        away = np.hypot(*(point[:2] - goal[:2]))
        if point[2] < 0.11 and away > 0.03:  # over the rim first
            return arm.reach(np.array([*point[:2], _CARRY_HEIGHT]), yaw), _SQUEEZE
        if away > (0.008 if point[2] > 0.115 else 0.025):
            return arm.reach(goal, self._across(arm)), _SQUEEZE
        above = self._cup[2] - scene.CUP_HEIGHT / 2
        standing = above < 0.010 + self.style.drop or point[2] < _GRASP_HEIGHT
        goal[2] = point[2] - (above - 0.004)
        return arm.reach(goal, self._across(arm)), _OPEN if standing else _SQUEEZE

    def _fold(self, arm: Arm) -> tuple[np.ndarray, float]:
        flap, style = self._flap, self.style
        edge, (_, y, z) = self._edge(arm), self._into(arm.tool()[0])
        other = self._into(self.arms[1].tool()[0])
        done = self._shut() and (other[1] < -0.10 or other[2] > 0.2)
        if done or style.lets_go:
            return self._move(arm, y + 0.01, 0.16) if z < 0.13 else self._move(arm, 0.17, 0.17)
        beside = scene.HALF_Y + 0.075 + 0.12 * max(0.0, flap - 1.7)
        outside = (edge - scene.HINGE) @ np.array([np.sin(flap), np.cos(flap)])
        if outside < (-0.004 if flap > 0.5 else -0.015) and not style.lower:  # a flap that lies is pressed against
            return self._move(arm, beside, 0.2)  # on the wrong side of the flap: over it
        if self._held or not self._cup_inside() or (other[1] > -0.045 and flap > 0.5):
            return self._move(arm, beside, max(0.16 - style.lower, 0.04))  # the other hand is in the way
        lowest, step = (-0.12, 0.2) if self._bent() or not style.bends else (_HOLD, 0.35)
        angle = max(lowest, min(flap, 1.75) - step)
        radius = np.interp(angle, (0.5, 1.2), _PRESS)
        along, normal = np.array([-np.cos(angle), np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
        place = scene.HINGE + radius * along + 0.0015 * normal
        if flap > 1.0:
            place[1] = max(place[1] - style.lower, 0.02)
        return self._move_edge(arm, place)

    def _tuck(self, arm: Arm) -> tuple[np.ndarray, float]:
        point, yaw = arm.tool()
        (x, y, z), edge, end, tip = self._into(point), self._edge(arm), self._end(), self._tip()
        outside = -scene.HALF_Y - 0.06
        if self._shut():
            return self._move(arm, outside, z + 0.012) if y > outside + 0.02 else self._move(arm, -0.17, 0.17)
        if z < 0.12 and y > -0.045:  # out of the box, once the cup is let go
            if arm.opening < _CUP_WIDTH + 0.012 and np.linalg.norm(point - self._cup) < 0.03:
                return arm.reach(point, yaw), _OPEN
            return arm.reach(self._out_of(x, y, 0.17), yaw), _OPEN
        if self._flap > _LOW or self.style.lets_go or not self.style.bends:
            return self._move(arm, outside, _FREE_HEIGHT)
        slant = self._tab - self._flap
        if (edge - end) @ np.array([np.sin(slant), -np.cos(slant)]) > 0.003:  # on the tab's inner side: over it
            return self._move(arm, outside + 0.03, 0.15)
        if self._bent():
            face = -scene.HALF_Y + self.style.slot + 0.5 * self._task.ranges.slot
            face -= 0.004 * np.clip((0.15 - self._flap) / 0.15, 0, 1)  # gives way to the flap
            return self._move_edge(arm, np.array([face, max(scene.HEIGHT + 0.006, edge[1] - 0.01)]))
        if self._flap < _HOLD - 0.12 and tip[1] < scene.HEIGHT + 0.004:  # beside the slot: up, so that it springs back
            return self._move(arm, outside + 0.02, 0.15)
        near = tip + np.array([-0.002, 0.012])
        if edge[1] > near[1] + 0.010 or edge[0] < near[0] - 0.010:
            if edge[1] < near[1] - 0.003:
                return self._move(arm, min(edge[0], near[0] - 0.02) - _DEPTH, 0.15)
            return self._move_edge(arm, near)
        turned = min(slant + 0.3, _BEND - self._flap)
        return self._move_edge(arm, end + _GRIP * np.array([-np.cos(turned), -np.sin(turned)]))
