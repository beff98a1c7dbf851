"""The expert of backpack packing: the left arm holds the mouth open, the right one packs and zips, both lift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.piper import ARM_JOINTS
from rise_robot.cell.planner import Arm, Planner, Style
from rise_robot.cell.scene import SIDES
from rise_robot.cell.tasks.backpack_packing import scene

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.backpack_packing.task import BackpackPacking

__all__ = ["BackpackExpert", "BackpackStyle"]

_OPEN, _CLOSED, _PART = 0.06, 0.0, 0.035
#: Heights of the grasp point: over things, carrying the shirt, letting it go in the bag, pinching its fold (fingertips
#: stay above the cloth that lies flat) and pinching it without one, m.
_CLEARANCE, _CARRY, _RELEASE, _PINCH, _FLAT = 0.07, 0.225, 0.115, 0.020, 0.018
#: Thickness of loops, tab and a pinched shirt between closed fingers, m.
_WIDTH = 0.008
#: Angle to which the flap is held, and from which the mouth is wide enough, rad from shut.
_HOLD, _WIDE = 1.35, 1.0
_LIFT = 0.075
#: Where the left arm waits while the right one zips, m beside the bag's middle.
_ASIDE = 0.19
#: How far ahead of the hand its goal is while a shirt hangs from it, m.
_STRIDE = 0.05
#: Speed of a finger that closes no further, m/s.
_STILL = 0.03
#: Time that fingers need to squeeze a handle before it bears the bag, s.
_SQUEEZE_SECONDS = 0.2
#: Period of shaking a hand, s.
_SHAKE_SECONDS = 0.4
#: Nearest to the bag's middle that a shirt beside it is pinched, m.
_ROOM = 0.19


@dataclass(frozen=True)
class BackpackStyle(Style):
    """How the bag is packed.

    Attributes:
        aim: Offset of the grasp from the shirt's middle, (x, y) m.
        release: Offset of the release from the bag's middle, (x, y) m.
        release_height: Height at which the shirt is let go, m.
        pinch: Offset of the grasp's height, m.
        hold: Angle to which the flap is held open, rad.
        zip_until: Share of the slider's way that is pulled.
        early_release: Share of the way to the bag after which the shirt is let go (1: in the bag).
        skips_shirt: Whether it zips the bag without the shirt.
        patient: Whether it waits for the mouth to be open.
    """

    speed: float = 1.8
    aim: tuple[float, float] = (0.0, 0.0)
    release: tuple[float, float] = (0.0, 0.0)
    release_height: float = _RELEASE
    pinch: float = 0.0
    hold: float = _HOLD
    zip_until: float = 1.0
    early_release: float = 1.0
    skips_shirt: bool = False
    patient: bool = True


class BackpackExpert(Planner):
    """Holds the mouth open, packs the shirt, zips the bag shut and lifts it."""

    style: BackpackStyle

    def __init__(self, cell: WorkCell, task: BackpackPacking, style: BackpackStyle | None = None) -> None:
        super().__init__(cell, style or BackpackStyle())
        self._task = task
        self._finger = int(cell.model.joint("right_finger1").dofadr[0])

    def look(self) -> None:
        """Bag, flap, slider, shirt, and what is held."""
        task = self._task
        self._bag, self._yaw = task.bag_pose()
        self._flap, self._zipped, self._inside = task.flap, task.zipped, task.inside()
        self._loop, self._tab = task.place("loop"), task.place("tab")
        self._handles = [task.place(f"{side}_handle") for side in SIDES]
        points = task.shirt_points()
        self._shirt, self._fold = points.mean(0), None
        high = points[points[:, 2] > max(0.012, 0.45 * points[:, 2].max())]
        if len(high) > 2:  # a standing fold: close across it
            self._shirt = high.mean(0)
            line = np.linalg.svd(high[:, :2] - high[:, :2].mean(0))[2][0]
            self._fold = float(np.arctan2(line[1], line[0]))
        out = ~task.points_inside()
        if self._inside > 0.3 and out.any():  # what hangs out
            self._shirt = points[out].mean(0)
        self._holds_loop = task.grips("loop")[0]
        self._holds_tab = task.grips("tab")[1]
        # Both pads touch the cloth long before it is pinched.
        pinched = 0.003 < self.cell.opening("right") < 0.016 and self.cell.command[-1] < 0.001
        hand = self.cell.grasp_point("right")
        pinched &= abs(self.cell.data.qvel[self._finger]) < _STILL or hand[2] > _PINCH + 0.010
        nearest = float(np.linalg.norm(points - hand, axis=-1).min())
        self._clings = nearest < 0.035 and not pinched
        self._holds_shirt = nearest < 0.025 and bool(pinched) and not self._holds_tab
        lefts, rights = task.grips("left_handle"), task.grips("right_handle")
        self._holds_handle = [lefts[0], rights[1]]
        #: For how long each hand has been shut on its handle, s.
        self._squeezing = [_SQUEEZE_SECONDS * held for held in self._holds_handle]

    def held_width(self, arm: Arm) -> float:
        """Loop, tab and shirt are about as thick; the handles are padded."""
        if self._squeezing[arm.index] > 0:
            return 2 * scene.HANDLE_HALF
        return _WIDTH if (self._holds_loop, self._holds_tab or self._holds_shirt)[arm.index] else 0.0

    def advance(self) -> None:
        """What is held goes with the hand."""
        left, right = (arm.tool()[0] for arm in self.arms)
        if self._holds_loop:
            self._loop = left
            hinge = self._hinge()
            self._flap = float(np.arctan2(left[2] - scene.LOOP_UP - hinge[2], hinge[0] - left[0]) % (2 * np.pi))
            self._holds_loop = self.arms[0].opening < 0.02
        if self._holds_tab:
            self._tab = np.array([self._tab[0], right[1], self._tab[2]])
            self._zipped = float(np.clip((scene.ZIP - (right[1] - self._bag[1])) / (2 * scene.ZIP), 0, 1))
            self._holds_tab = self.arms[1].opening < 0.02
        if self._holds_shirt:
            self._shirt = right - np.array([0, 0, 0.03])
            if self.arms[1].opening > 0.02:
                self._holds_shirt = False
                self._inside = 1.0 if np.hypot(*(right - self._bag)[:2]) < 0.05 else 0.0
        for arm in self.arms:
            if self._holds_handle[arm.index]:
                self._handles[arm.index] = arm.tool()[0]
            near = np.linalg.norm(arm.tool()[0] - self._handles[arm.index]) < 0.015
            shut = near and arm.opening < 2 * scene.HANDLE_HALF + 0.004 and arm.command[ARM_JOINTS] < 0.001
            self._squeezing[arm.index] = self._squeezing[arm.index] + self.dt if shut else 0.0
            self._holds_handle[arm.index] = self._squeezing[arm.index] > _SQUEEZE_SECONDS
        self._holds_loop |= bool(np.linalg.norm(left - self._loop) < 0.012 and self.arms[0].opening < 0.012)
        self._holds_tab |= bool(np.linalg.norm(right - self._tab) < 0.012 and self.arms[1].opening < 0.012)
        low = np.hypot(*(right - self._shirt)[:2]) < 0.03 and right[2] < 0.03
        self._holds_shirt |= bool(low and self.arms[1].opening < 0.012)

    def decide(self) -> None:
        """What is done, and what is next."""
        style = self.style
        packed = self._inside >= scene.INSIDE and not self._holds_shirt
        self._packed = packed or style.skips_shirt or self._zipped > 0.3
        right, left = self.arms[1].tool()[0], self.arms[0].tool()[0]
        #: Whether the right hand is out of the bag, and the left one out of the right one's way.
        within = np.abs(right - self._bag)[:2] - scene.BAG_HALF < (0.005, 0.02)
        self._out = right[2] > 0.165 or not within.all() or self._zipped > 0.1
        self._aside = left[1] > self._bag[1] + _ASIDE - 0.05
        self._shut = self._zipped > min(0.985, style.zip_until - 0.015)

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        """The left arm holds the mouth, the right one packs and zips; then each takes its loop."""
        if arm.index == 0:
            return self._leave_mouth(arm) if self._packed and self._out else self._hold_mouth(arm)
        if not self._packed:
            return self._pack(arm)
        return self._zip(arm) if not self._shut else self._lift(arm)

    def _hinge(self) -> np.ndarray:
        out = scene.BAG_HALF[0] + scene.WALL
        return self._bag + np.array([out * np.cos(self._yaw), out * np.sin(self._yaw), scene.BAG_HEIGHT + 0.003])

    def _edge(self, angle: float) -> np.ndarray:
        """Where the loop is when the flap stands at an angle, (3,) m."""
        out, up = np.cos(angle) * scene.FLAP_LENGTH, np.sin(angle) * scene.FLAP_LENGTH
        where = self._hinge() + np.array([-out * np.cos(self._yaw), -out * np.sin(self._yaw), up + scene.LOOP_UP])
        where[1] = self._loop[1]
        return where

    def _hold_mouth(self, arm: Arm) -> tuple[np.ndarray, float]:
        yaw = self._across(arm, np.pi / 2 + self._yaw)
        if self._holds_loop:
            if self._flap > self.style.hold - 0.12:
                return arm.command[:ARM_JOINTS], _CLOSED
            angle = min(self._flap + 0.45, self.style.hold)
            return arm.reach(self._edge(angle), yaw), _CLOSED
        return self._grasp(arm, self._loop, yaw)

    def _leave_mouth(self, arm: Arm) -> tuple[np.ndarray, float]:
        """Let the flap down and get out of the other arm's way, until the bag can be lifted."""
        (point, _), yaw = arm.tool(), self._across(arm, np.pi / 2 + self._yaw)
        if self._holds_loop and self._flap > 0.85:
            return arm.reach(self._edge(max(self._flap - 0.45, 0.6)), yaw), _CLOSED
        aside = self._bag + np.array([-0.01, _ASIDE, 0.20])
        if self._zipped > 0.6 and point[1] > self._bag[1] + 0.10:
            return self._lift(arm)
        near_loop = np.hypot(*(point - self._loop)[:2]) < 0.06
        if near_loop and point[2] < min(self._loop[2] + 0.04, 0.2):
            return arm.reach(np.array([*point[:2], self._loop[2] + 0.07]), yaw), _OPEN
        return arm.reach(aside, yaw), _OPEN

    def _pack(self, arm: Arm) -> tuple[np.ndarray, float]:
        style, (point, yaw) = self.style, arm.tool()
        over = self._bag[:2] + np.array([-0.005, -0.02]) + style.release
        away = float(np.hypot(*(point[:2] - over)))
        drop_yaw = self._across(arm, self._yaw)
        if self._holds_shirt:
            wide = self._flap > _WIDE or not style.patient
            way = float(np.hypot(*(self._bag[:2] - [scene.SHIRT_X, scene.SHIRT_Y])))
            if style.early_release < 1 and point[2] > 0.1 and away < (1 - style.early_release) * way:
                return arm.reach(point, yaw), _OPEN
            if point[2] < _CARRY - 0.03 and away > 0.04:  # up first
                return self._gently(arm, np.array([*point[:2], _CARRY + 0.01]), yaw), _CLOSED
            if not wide and away > 0.04:
                wait = np.array([self._bag[0] - 0.02, self._bag[1] - 0.22, _CARRY])
                return self._gently(arm, wait, drop_yaw), _CLOSED
            if away > 0.03:
                return self._gently(arm, np.array([*over, _CARRY]), drop_yaw), _CLOSED
            release = point[2] < style.release_height + 0.012
            return self._gently(arm, np.array([*over, style.release_height]), drop_yaw), _OPEN if release else _CLOSED
        if away < 0.06 and arm.opening > 0.008 and (point[2] < 0.17 or self._clings):  # out of the bag again
            return self._let_go(arm, over), _OPEN
        return self._pinch(arm)

    def _let_go(self, arm: Arm, over: np.ndarray) -> np.ndarray:
        """Rise out of the bag so slowly that cloth stays behind; shake off what clings to a finger."""
        (point, yaw), height = arm.tool(), self.style.release_height
        if arm.opening < _OPEN - 0.008:
            return arm.reach(np.array([*point[:2], min(point[2], height)]), yaw)
        if self._clings and point[2] > height + 0.015:
            swing = np.sin(2 * np.pi * self.cell.seconds / _SHAKE_SECONDS)
            return arm.reach(np.array([over[0] + 0.02 * swing, over[1], height + 0.02 + 0.02 * swing]), yaw)
        return arm.reach(np.array([*point[:2], point[2] + 0.025]), yaw)

    def _pinch(self, arm: Arm) -> tuple[np.ndarray, float]:
        """Straddle the shirt's fold, come down and close; cloth gives way, so the last of the way is straight down."""
        style, (point, now) = self.style, arm.tool()
        target = self._shirt[:2] + np.asarray(style.aim)
        if self._inside < 0.3:  # beside the bag there must be room for a finger
            target[1] = min(target[1], self._bag[1] - _ROOM)
        yaw = self._across(arm, arm.azimuth(target) if self._fold is None else self._fold)
        height = _PINCH if self._fold is not None else _FLAT
        if self._inside > 0.3:
            height = max(height, self._shirt[2])
        height += style.pinch
        error = target - point[:2]
        off, turned = float(np.hypot(*error)), abs((yaw - now + np.pi / 2) % np.pi - np.pi / 2) < 0.2
        closing, empty = arm.command[ARM_JOINTS] < _OPEN - 0.012, arm.opening < 0.003
        low = point[2] < height + 0.007
        if low and not empty and (closing or off < 0.03):
            return arm.reach(np.array([*point[:2], height]), now), _CLOSED
        above = off < (0.014 if point[2] > height + 0.04 else 0.03) and (turned or point[2] < 0.04)
        if above and not closing and arm.opening > _PART:
            down = np.array([*point[:2] + np.clip(error, -0.01, 0.01), max(height, point[2] - 0.03)])
            return arm.reach(down, yaw if turned else now), _OPEN
        if point[2] < height + 0.03:  # rise first
            return arm.reach(np.array([*point[:2], height + _CLEARANCE]), now), _OPEN
        return arm.reach(np.array([*target, height + _CLEARANCE]), yaw), _OPEN

    def _zip(self, arm: Arm) -> tuple[np.ndarray, float]:
        yaw = self._across(arm, self._yaw)
        if not self._holds_tab:
            (point, _) = arm.tool()
            if not self._out or (np.hypot(*(point[:2] - self._bag[:2])) < 0.07 and point[2] < 0.13):
                return arm.reach(np.array([*point[:2], 0.21]), yaw), _OPEN
            if not self._aside and self._zipped < 0.1:
                return arm.reach(self._bag + np.array([-0.04, -0.12, 0.21]), yaw), _OPEN
            return self._grasp(arm, self._tab, yaw)
        goal = self._tab.copy()
        end = self._bag[1] + scene.ZIP - 2 * scene.ZIP * self.style.zip_until - 0.01
        goal[1] = max(self._tab[1] - 0.05, end)
        return arm.reach(goal, yaw), _CLOSED

    def _lift(self, arm: Arm) -> tuple[np.ndarray, float]:
        (point, _), yaw = arm.tool(), self._across(arm, np.pi / 2 + self._yaw)
        if arm.index == 1 and self._holds_tab:
            return arm.reach(point, self._across(arm, self._yaw)), _OPEN
        if arm.index == 1 and np.linalg.norm((point - self._tab)[:2]) < 0.04 and point[2] < self._tab[2] + 0.04:
            return arm.reach(np.array([*point[:2], self._tab[2] + 0.06]), self._across(arm, self._yaw)), _OPEN
        handle = self._handles[arm.index]
        if not self._holds_handle[arm.index]:
            return self._grasp(arm, handle, yaw)
        if not all(self._holds_handle) or not self._shut:
            return arm.reach(handle, yaw), _CLOSED
        return arm.reach(np.array([*handle[:2], min(handle[2] + 0.03, scene.HANDLE[2] + _LIFT)]), yaw), _CLOSED

    def _grasp(self, arm: Arm, thing: np.ndarray, yaw: float) -> tuple[np.ndarray, float]:
        """Come down on a thing with open fingers and close them."""
        point, now = arm.tool()
        off = float(np.hypot(*(point - thing)[:2]))
        turned = abs((yaw - now + np.pi / 2) % np.pi - np.pi / 2) < 0.25
        closing = arm.command[ARM_JOINTS] < _OPEN - 0.012
        if abs(point[2] - thing[2]) < 0.007 and off < (0.02 if closing else 0.010) and turned:
            return arm.reach(thing, yaw), _CLOSED
        if off < 0.014 and turned and arm.opening > _PART:
            return arm.reach(thing, yaw), _OPEN
        height = thing[2] + _CLEARANCE
        if point[2] < thing[2] + 0.03 and off > 0.03:  # rise first
            return arm.reach(np.array([*point[:2], height]), now), _OPEN
        return arm.reach(np.array([*thing[:2], height]), yaw), _OPEN

    @staticmethod
    def _gently(arm: Arm, goal: np.ndarray, yaw: float) -> np.ndarray:
        """Joints on the way to a goal, so near that what hangs between the fingers is not flung."""
        point, now = arm.tool()
        way = goal - point
        share = min(1.0, _STRIDE / max(float(np.linalg.norm(way)), 1e-9))
        return arm.reach(point + share * way, now + np.clip(yaw - now, -0.35, 0.35))

    @staticmethod
    def _across(arm: Arm, yaw: float) -> float:
        """Of all half turns of a closing direction that the wrist allows, the one nearest to the tool."""
        point, now = arm.tool()
        candidates = yaw + np.pi * np.arange(-3, 4)
        allowed = candidates[np.abs(candidates - arm.azimuth(point)) < 1.85]
        return float(allowed[np.argmin(np.abs(allowed - now))])
