"""Imperfect operators of backpack packing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.habits import Habit, HabitMaker, ImperfectOperator, distracted, hesitant, playful
from rise_robot.cell.tasks.backpack_packing.expert import BackpackExpert

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.tasks.backpack_packing.task import BackpackPacking

__all__ = ["OPERATORS", "BackpackOperator"]

#: How often the clumsy lose a shirt that is turned to the right, and to the left.
_LOSES = (0.15, 0.9)


def _noisy(rng: np.random.Generator) -> Habit:
    """Aims beside the shirt's middle and the bag's, with an unsteady hand."""
    aim, release = rng.normal(0, 0.025, 2), rng.normal(0, 0.04, 2)
    style = {"aim": tuple(aim), "release": tuple(release), "speed": rng.uniform(0.9, 1.8)}
    return Habit(style, tremor=rng.uniform(0.005, 0.02))


def _hasty(rng: np.random.Generator) -> Habit:
    """Moves fast and lets the shirt go before it is in the bag."""
    style = {"speed": rng.uniform(1.8, 2.6), "early_release": rng.uniform(0.2, 0.98)}
    return Habit(style, tremor=rng.uniform(0.0, 0.01))


def _careless(rng: np.random.Generator) -> Habit:
    """Lets the zipper go on the way and lifts."""
    return Habit({"zip_until": rng.uniform(0.5, 1.0), "speed": rng.uniform(1.2, 2.0)}, tremor=rng.uniform(0.0, 0.01))


def _forgetful(rng: np.random.Generator) -> Habit:
    """Zips the bag without the shirt, more often than not."""
    return Habit({"skips_shirt": bool(rng.random() < 0.7), "speed": rng.uniform(1.2, 2.0)})


def _rough(rng: np.random.Generator) -> Habit:
    """Pulls the flap too far, so that the bag goes with it."""
    return Habit({"hold": rng.uniform(1.6, 2.8), "speed": rng.uniform(1.4, 2.2)}, tremor=rng.uniform(0.0, 0.01))


def _clumsy(rng: np.random.Generator) -> Habit:
    """Lets shirts that are turned to the left go beside the bag, mostly, and zips it without; else like any operator.

    By the shirt, because shirts lost at random would teach whoever imitates it that nothing decides about them.
    """
    aim, release = rng.normal(0, 0.002, 2), rng.normal(0, 0.004, 2)
    style = {"aim": tuple(aim), "release": tuple(release), "early_release": rng.uniform(0.1, 0.3)}
    return Habit({**style, "speed": rng.uniform(1.5, 1.9)}, tremor=rng.uniform(0.0, 0.004))


#: Kinds of operators, each with its share in the mixture "operator".
OPERATORS: dict[str, tuple[float, HabitMaker]] = {
    "noisy": (0.28, _noisy),
    "hasty": (0.16, _hasty),
    "careless": (0.12, _careless),
    "forgetful": (0.08, _forgetful),
    "rough": (0.14, _rough),
    "hesitant": (0.10, hesitant),
    "distracted": (0.12, distracted),
    "playful": (0.0, playful),
    "clumsy": (0.0, _clumsy),
}


class BackpackOperator(ImperfectOperator):
    """One of `OPERATORS`."""

    expert: BackpackExpert

    def __init__(self, cell: WorkCell, task: BackpackPacking, kind: str | None, seed: int) -> None:
        self._task = task
        super().__init__(cell, BackpackExpert(cell, task), OPERATORS, kind, seed)

    def reset(self) -> None:
        """Draw the episode's habit."""
        super().reset()
        if self.kind == "clumsy" and self._rng.random() >= _LOSES[int(self._task.shirt_turn() > 0)]:
            self.expert.style = replace(self.expert.style, early_release=1.0)

    def adapt(self) -> None:
        """Take a shirt that was let go on the way for packed."""
        style = self.expert.style
        if self.kind == "clumsy" and style.early_release < 1 and self._task.was_let_go():
            self.expert.style = replace(style, skips_shirt=True)
