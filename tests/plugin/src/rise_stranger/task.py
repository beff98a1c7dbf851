"""Block pushing: the left arm pushes a block over a line on the table, with closed fingers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from rise_env.config import decode
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.habits import Habit, HabitMaker, ImperfectOperator, hesitant
from rise_robot.cell.mjcf import element
from rise_robot.cell.planner import Arm, Planner, Style
from rise_robot.cell.scene import SCENE_CONTACT
from rise_robot.cell.task import CellTask, TaskStatus

#: World frame: x forward from the arm bases, y to the left, z up from the table; m.
LINE_X, LANE_Y, HALF = 0.42, 0.16, 0.03
HOVER, LOW, CLOSED = 0.10, 0.045, 0.0


@dataclass(frozen=True)
class Ranges:
    """Randomisation of an episode: distance from the line (nearest, farthest) and half-range across the lane, m."""

    distance: tuple[float, float]
    offset: float


class BlockPushing(CellTask):
    """A block on the table belongs behind the line. It fails where the block leaves its lane."""

    failure_modes = ("astray",)
    failure_meanings: Mapping[str, str] = {"astray": "the block left its lane", "timeout": "the time was up"}

    def __init__(self, ranges: Mapping[str, Any]) -> None:
        self.ranges = decode(Ranges, ranges, "difficulty of block_pushing")
        self.start, self.best = np.array(0.0), np.array(0.0)
        self.operator_kinds = tuple(OPERATORS)

    def add_to_scene(self, root: Element) -> None:
        world = root.find("worldbody")
        element(world, "geom", type="box", size=(0.004, 0.15, 0.001), pos=(LINE_X, LANE_Y, 0), rgba="0.9 0.9 0.9 1",
                contype="0", conaffinity="0")  # fmt: skip
        block = element(world, "body", name="block", pos=(0.3, LANE_Y, HALF))
        element(block, "freejoint", name="block")
        element(block, "geom", name="block", type="box", size=(HALF,) * 3, mass="0.1", rgba="0.1 0.5 0.8 1",
                friction="0.6 0.01 0.001", **SCENE_CONTACT)  # fmt: skip

    def bind(self, cell: WorkCell) -> None:
        super().bind(cell)
        self._address = int(cell.model.joint("block").qposadr[0])

    @property
    def block(self) -> np.ndarray:
        """Position of the block, (3,) m."""
        return self.cell.data.qpos[self._address : self._address + 3]

    def reset(self, rng: np.random.Generator) -> None:
        self.start = np.array(LINE_X - rng.uniform(*self.ranges.distance))
        self.best = np.array(0.0)
        across = LANE_Y + rng.uniform(-self.ranges.offset, self.ranges.offset)
        self.cell.data.qpos[self._address : self._address + 7] = [self.start, across, HALF, 1, 0, 0, 0]

    def advance(self) -> TaskStatus:
        way = float(np.clip((self.block[0] - self.start) / (LINE_X - self.start), 0, 1))
        self.best = np.maximum(self.best, way)
        return self._judge(way)

    def _judge(self, way: float) -> TaskStatus:
        astray = abs(self.block[1] - LANE_Y) > 0.09 and way < 1
        self.status = TaskStatus(
            0.0 if astray else way, 10 * float(self.best), way == 1, "astray" if astray else "none", astray or way == 1
        )
        return self.status

    def get_state(self) -> dict[str, np.ndarray]:
        return {"start": self.start, "best": self.best}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.start, self.best = state["start"], state["best"]
        self._judge(float(np.clip((self.block[0] - self.start) / (LINE_X - self.start), 0, 1)))

    def expert(self) -> Pusher:
        return Pusher(self.cell, self)

    def operator(self, kind: str | None, seed: int) -> ImperfectOperator:
        return ImperfectOperator(self.cell, self.expert(), OPERATORS, kind, seed)


@dataclass(frozen=True)
class PushStyle(Style):
    """How a block is pushed; `aside` is the offset from its middle, m."""

    aside: float = 0.0


class Pusher(Planner):
    """The expert: comes down behind the block and pushes, steering towards its middle."""

    def __init__(self, cell: WorkCell, task: BlockPushing) -> None:
        super().__init__(cell, PushStyle())
        self._task = task

    def look(self) -> None:
        self._block = self._task.block.copy()

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        if arm.index != 0:
            return arm.home, CLOSED
        (point, _), across = arm.tool(), self._block[1] + self.style.aside
        behind = np.array([self._block[0] - HALF - 0.03, across])
        away = np.abs(point[:2] - behind)
        in_line = away[1] < 0.015
        if point[2] < LOW and away[1] < HALF and point[0] < self._block[0] - HALF:  # push
            goal = np.array([point[0] + 0.05, across, 0.03])
        elif in_line and away[0] < 0.015:  # come down
            goal = np.array([*behind, 0.03])
        elif point[2] < 0.075 and not in_line:  # rise first
            goal = np.array([*point[:2], HOVER])
        else:
            goal = np.array([*behind, HOVER])
        return arm.reach(goal, 0.0), CLOSED

    def advance(self) -> None:
        point, _ = self.arms[0].tool()
        if point[2] < LOW and abs(point[1] - self._block[1]) < HALF:
            self._block[0] = max(self._block[0], point[0] + HALF + 0.011)


def sloppy(rng: np.random.Generator) -> Habit:
    """Pushes beside the middle, so that the block turns away, with an unsteady hand."""
    aside = rng.choice([-1, 1]) * rng.uniform(0.015, 0.05)
    return Habit({"aside": aside, "speed": rng.uniform(0.8, 1.6)}, tremor=rng.uniform(0.01, 0.03))


OPERATORS: dict[str, tuple[float, HabitMaker]] = {"sloppy": (0.7, sloppy), "hesitant": (0.3, hesitant)}
