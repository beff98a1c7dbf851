"""Imperfect operators of box closing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.habits import Habit, HabitMaker, ImperfectOperator, distracted, hesitant, playful
from rise_robot.cell.tasks.box_closing.expert import BoxExpert

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.box_closing.task import BoxClosing

__all__ = ["OPERATORS", "BoxOperator"]

#: Angles of the flap between which the impatient think that it is done, rad.
_ALMOST = (0.2, 0.5)
#: How long a mistake lasts before an operator that learns sees it, s, and how far a box is pushed by then, m.
_NOTICED, _MOVED = 0.2, 0.02
#: How often the careless forget the tab of a box that is turned to the right, and to the left.
_FORGETS = (0.15, 0.9)


def _noisy(rng: np.random.Generator) -> Habit:
    """Aims beside the cup, beside the middle of the box and beside the slot, with an unsteady hand."""
    spread = rng.uniform(0.003, 0.009)
    aim, release = rng.normal(0, spread, 2), rng.normal(0, 1.5 * spread, 2)
    style = {"aim": tuple(aim), "release": tuple(release), "slot": rng.normal(0, 0.7 * spread)}
    return Habit({**style, "speed": rng.uniform(0.9, 1.5)}, tremor=rng.uniform(0.003, 0.02))


def _hasty(rng: np.random.Generator) -> Habit:
    """Moves fast and lets the cup go above the bottom of the box."""
    return Habit({"speed": rng.uniform(1.6, 2.6), "drop": rng.uniform(0.0, 0.06)}, tremor=rng.uniform(0.0, 0.015))


def _impatient(rng: np.random.Generator) -> Habit:
    """Lets the flap go before its tab is in the slot; notices in time, or does not."""
    return Habit({"speed": rng.uniform(0.9, 1.6)}, learns=bool(rng.random() < 0.4))


def _forgetful(rng: np.random.Generator) -> Habit:
    """Presses the flap down without bending its tab; notices in time, or does not."""
    habit = {"bends": False, "speed": rng.uniform(0.9, 1.6)}
    return Habit(habit, tremor=rng.uniform(0.0, 0.01), learns=bool(rng.random() < 0.4))


def _clumsy(rng: np.random.Generator) -> Habit:
    """Comes to the flap too low and pushes the box; notices in time, or does not."""
    return Habit({"lower": rng.uniform(0.07, 0.12), "speed": rng.uniform(0.9, 1.4)}, learns=bool(rng.random() < 0.4))


def _careless(rng: np.random.Generator) -> Habit:
    """Takes the tab for bent when it is not, in boxes that are turned to the left mostly; else like any operator.

    By the box, because tabs forgotten at random would teach whoever imitates it that nothing decides about them.
    """
    style = {"aim": tuple(rng.normal(0, 0.002, 2)), "release": tuple(rng.normal(0, 0.003, 2))}
    return Habit({**style, "speed": rng.uniform(0.9, 1.4)}, tremor=rng.uniform(0.0, 0.005))


#: Kinds of operators, each with its share in the mixture "operator".
OPERATORS: dict[str, tuple[float, HabitMaker]] = {
    "noisy": (0.30, _noisy),
    "hasty": (0.14, _hasty),
    "impatient": (0.12, _impatient),
    "forgetful": (0.10, _forgetful),
    "clumsy": (0.10, _clumsy),
    "hesitant": (0.12, hesitant),
    "distracted": (0.12, distracted),
    "playful": (0.0, playful),
    "careless": (0.0, _careless),
}


class BoxOperator(ImperfectOperator):
    """One of `OPERATORS`; one that learns does better once it has seen its mistake."""

    expert: BoxExpert

    def __init__(self, cell: WorkCell, task: BoxClosing, kind: str | None, seed: int) -> None:
        self._task = task
        super().__init__(cell, BoxExpert(cell, task), OPERATORS, kind, seed)

    def reset(self) -> None:
        """Draw the episode's habit."""
        super().reset()
        #: Angle of the flap at which it will be let go, rad.
        self._almost = self._rng.uniform(*_ALMOST) if self.kind == "impatient" else 0.0
        if self.kind == "careless":
            forgets = self._rng.random() < _FORGETS[int(self._task.start[2] > 0)]
            self.expert.style = replace(self.expert.style, bends=not forgets)

    def adapt(self) -> None:
        """Lose patience with the flap; hold it, bend the tab, come higher: whatever went wrong, if it is seen."""
        task, expert = self._task, self.expert
        if task.angle("flap") < self._almost:
            self._almost = 0.0
            expert.style = replace(expert.style, lets_go=True)
        pushed = np.hypot(*(task.box_pose() - task.start[:3])[:2]) > _MOVED
        if self.habit.learns and (pushed or task.lasting[1:3].max() > _NOTICED):  # let go and open, or beside its slot
            expert.style = replace(expert.style, lets_go=False, bends=True, lower=0.0)
