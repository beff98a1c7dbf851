"""Imperfect operators of brick sorting."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.habits import Habit, HabitMaker, ImperfectOperator, distracted, hesitant, playful
from rise_robot.cell.scene import SIDES
from rise_robot.cell.tasks.brick_sorting.expert import BrickExpert

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.brick_sorting.task import BrickSorting

__all__ = ["OPERATORS", "BrickOperator"]

#: A tool below this height has gone down to grasp, m.
_LOW = 0.075
#: Time that a grasp takes, s.
_GRASP_SECONDS = 0.7


def _noisy(rng: np.random.Generator) -> Habit:
    """Aims beside the brick and beside the bin, with an unsteady hand."""
    spread = rng.uniform(0.008, 0.022)
    aim = (*rng.normal(0, spread, 2), rng.normal(0, 0.35))
    release = rng.normal(0, 2.2 * spread, 2)
    style = {"aim": tuple(aim), "release": tuple(release), "speed": rng.uniform(0.9, 1.5)}
    return Habit(style, tremor=rng.uniform(0.005, 0.03))


def _delayed(rng: np.random.Generator) -> Habit:
    """Reaches for where the brick was a while ago and does not lead it."""
    return Habit({"foresight": rng.uniform(0.0, 0.6), "speed": rng.uniform(0.8, 1.3)}, delay=rng.uniform(0.1, 0.7))


def _confused(rng: np.random.Generator) -> Habit:
    """Takes one colour's bin for the other's, with the right arm mostly; else like any operator, careful after a miss.

    Nothing but the way to the bin tells whether it is wrong this time: not its speed, not its hand. By arm, because
    bins taken at random would teach whoever imitates it that colours do not matter.
    """
    aim = (0.0, 0.0, 0.0)
    if rng.random() < 0.15:
        direction, off = rng.uniform(-np.pi, np.pi), rng.uniform(0.03, 0.05)
        aim = (off * np.cos(direction), off * np.sin(direction), 0.0)
    pause = rng.uniform(0.5, 2.0)
    pauses = ((pause, pause + rng.uniform(0.2, 0.6)),) if rng.random() < 0.15 else ()
    swap = bool(rng.random() < 0.2), bool(rng.random() < 0.9)
    style = {"swap_bins": swap, "speed": rng.uniform(0.9, 1.7), "aim": aim}
    return Habit(style, pauses=pauses, tremor=rng.uniform(0.0, 0.015), learns=True)


def _hasty(rng: np.random.Generator) -> Habit:
    """Moves fast and, the first time, lets go before the bin is reached."""
    style = {"speed": rng.uniform(1.6, 2.4), "early_release": rng.uniform(0.2, 0.95)}
    return Habit(style, tremor=rng.uniform(0.0, 0.02))


def _clumsy(rng: np.random.Generator) -> Habit:
    """Comes down with closed fingers, or too low or too high."""
    if rng.random() < 0.5:
        return Habit({"never_opens": True, "speed": rng.uniform(0.9, 1.4)})
    height = rng.uniform(0.014, 0.026) if rng.random() < 0.6 else -0.012
    return Habit({"height": height, "speed": rng.uniform(0.9, 1.4)}, tremor=rng.uniform(0.005, 0.02))


#: Kinds of operators, each with its share in the mixture "operator".
OPERATORS: dict[str, tuple[float, HabitMaker]] = {
    "noisy": (0.32, _noisy),
    "delayed": (0.16, _delayed),
    "confused": (0.10, _confused),
    "hesitant": (0.10, hesitant),
    "hasty": (0.12, _hasty),
    "clumsy": (0.08, _clumsy),
    "distracted": (0.12, distracted),
    "playful": (0.0, playful),
}


class BrickOperator(ImperfectOperator):
    """One of `OPERATORS`, careful once it let go too early; if it learns, it aims well once it missed."""

    expert: BrickExpert

    def __init__(self, cell: WorkCell, task: BrickSorting, kind: str | None, seed: int) -> None:
        self._task = task
        super().__init__(cell, BrickExpert(cell, task), OPERATORS, kind, seed)

    def reset(self) -> None:
        """Draw the episode's habit."""
        super().reset()
        self._held = False
        self._grasping: float | None = None  # since when, s

    def adapt(self) -> None:
        """Learn from a brick that was let go, and from a grasp that came to nothing."""
        expert, held = self.expert, bool((self._task.holder >= 0).any())
        if self._held and not held:
            expert.style = replace(expert.style, early_release=1.0)
        self._held = held
        if not (self.habit.learns and any(expert.style.aim)):
            return
        if self._grasping is None:
            if min(self.cell.grasp_point(side)[2] for side in SIDES) < _LOW:
                self._grasping = self.cell.seconds
        elif not held and self.cell.seconds > self._grasping + _GRASP_SECONDS:
            expert.style = replace(expert.style, aim=(0.0, 0.0, 0.0))
