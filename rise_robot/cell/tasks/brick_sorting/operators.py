"""Imperfect operators of brick sorting: the expert with the habits of people, drawn anew for every episode.

They make the failures and near-misses a world model and a value model must have seen. What an operator does in an
episode depends on its seed and on the episode alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rise_robot.cell.cell import WorkCell
from rise_robot.cell.scene import SIDES
from rise_robot.cell.tasks.brick_sorting.expert import BrickExpert, Style
from rise_robot.cell.tasks.brick_sorting.task import BrickSorting

__all__ = ["OPERATORS", "Habit", "ImperfectOperator"]

#: A tool below this height has gone down to grasp, m.
_LOW = 0.075
#: Time that a grasp takes, s.
_GRASP_SECONDS = 0.7


@dataclass(frozen=True)
class Habit:
    """What is wrong with an operator in one episode.

    Attributes:
        style: How it moves.
        delay: Age of what it sees of the belt, s.
        pauses: Times it stops moving, as pairs of start and end, s since the reset.
        tremor: Standard deviation of the smooth noise on its joint targets, rad.
        detours: Times an arm wanders off: start and end, s since the reset, and the velocity of every joint and gripper
            meanwhile, rad/s and m/s.
        drifts: Times both arms drift away from what is planned: start, end, and the velocity of the offset.
        learns: Whether it aims well once a grasp has come to nothing.
    """

    style: Style
    delay: float = 0.0
    pauses: tuple[tuple[float, float], ...] = ()
    tremor: float = 0.0
    detours: tuple[tuple[float, float, tuple[float, ...]], ...] = ()
    drifts: tuple[tuple[float, float, tuple[float, ...]], ...] = ()
    learns: bool = False


def _noisy(rng: np.random.Generator) -> Habit:
    """Aims beside the brick and beside the bin, with an unsteady hand."""
    spread = rng.uniform(0.008, 0.022)
    aim = (*rng.normal(0, spread, 2), rng.normal(0, 0.35))
    release = rng.normal(0, 2.2 * spread, 2)
    return Habit(
        Style(aim=tuple(aim), release=tuple(release), speed=rng.uniform(0.9, 1.5)), tremor=rng.uniform(0.005, 0.03)
    )


def _delayed(rng: np.random.Generator) -> Habit:
    """Reaches for where the brick was a while ago and does not lead it."""
    return Habit(Style(foresight=rng.uniform(0.0, 0.6), speed=rng.uniform(0.8, 1.3)), delay=rng.uniform(0.1, 0.7))


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
    style = Style(swap_bins=swap, speed=rng.uniform(0.9, 1.7), aim=aim)
    return Habit(style, pauses=pauses, tremor=rng.uniform(0.0, 0.015), learns=True)


def _hesitant(rng: np.random.Generator) -> Habit:
    """Moves slowly and stops on the way; often too late for the brick."""
    starts = np.sort(rng.uniform(0.0, 4.0, rng.integers(1, 4)))
    pauses = tuple((float(s), float(s + rng.uniform(0.5, 2.5))) for s in starts)
    return Habit(Style(speed=rng.uniform(0.35, 0.8)), pauses=pauses, tremor=rng.uniform(0.0, 0.01))


def _hasty(rng: np.random.Generator) -> Habit:
    """Moves fast and, the first time, lets go before the bin is reached."""
    return Habit(
        Style(speed=rng.uniform(1.6, 2.4), early_release=rng.uniform(0.2, 0.95)), tremor=rng.uniform(0.0, 0.02)
    )


def _clumsy(rng: np.random.Generator) -> Habit:
    """Comes down with closed fingers, or too low or too high."""
    if rng.random() < 0.5:
        return Habit(Style(never_opens=True, speed=rng.uniform(0.9, 1.4)))
    height = rng.uniform(0.014, 0.026) if rng.random() < 0.6 else -0.012
    return Habit(Style(height=height, speed=rng.uniform(0.9, 1.4)), tremor=rng.uniform(0.005, 0.02))


def _distracted(rng: np.random.Generator) -> Habit:
    """Now and then one arm wanders off in some direction, and its gripper opens or closes on the way."""
    detours, now = [], rng.uniform(0.2, 1.2)
    for _ in range(rng.integers(1, 5)):
        velocity = np.zeros(14)
        arm = 7 * int(rng.integers(2))
        velocity[arm : arm + 6] = rng.normal(0, 0.45, 6)
        velocity[arm + 6] = rng.choice([-0.12, 0.0, 0.12])
        end = now + rng.uniform(0.3, 1.2)
        detours.append((float(now), float(end), tuple(velocity)))
        now = end + rng.uniform(0.2, 1.5)
    return Habit(Style(speed=rng.uniform(0.9, 1.6)), tremor=rng.uniform(0.0, 0.02), detours=tuple(detours))


def _playful(rng: np.random.Generator) -> Habit:
    """Plays with the arms more than it sorts: all joints wander, freely or off the plan, between spells of work.

    Not part of the mixture "operator". It shows a world model what arms and bricks do far from any sensible plan.
    """
    spells: dict[str, list[tuple[float, float, tuple[float, ...]]]] = {"drifts": [], "detours": []}
    now, size = rng.uniform(0.0, 0.8), rng.uniform(0.08, 0.4)
    while now < 12.0:
        kind = "drifts" if rng.random() < 0.5 else "detours"
        for _ in range(rng.integers(1, 4)):
            velocity = rng.normal(0, size, 14)
            velocity[[6, 13]] = rng.normal(0, 0.3 * size, 2)
            end = now + rng.uniform(0.3, 1.0)
            spells[kind].append((float(now), float(end), tuple(velocity)))
            now = end
        now += rng.uniform(0.2, 2.0)
    return Habit(Style(speed=rng.uniform(0.8, 1.5)), drifts=tuple(spells["drifts"]), detours=tuple(spells["detours"]))


#: Kinds of operators, each with its share in the mixture "operator".
OPERATORS: dict[str, tuple[float, Callable[[np.random.Generator], Habit]]] = {
    "noisy": (0.32, _noisy),
    "delayed": (0.16, _delayed),
    "confused": (0.10, _confused),
    "hesitant": (0.10, _hesitant),
    "hasty": (0.12, _hasty),
    "clumsy": (0.08, _clumsy),
    "distracted": (0.12, _distracted),
    "playful": (0.0, _playful),
}


class ImperfectOperator(BrickExpert):
    """An operator with a habit per episode.

    Args:
        cell: The cell it acts in.
        task: The cell's task.
        kind: Key of `OPERATORS`, or None for a mixture.
        seed: Seed of its habits, together with the episode.
    """

    def __init__(self, cell: WorkCell, task: BrickSorting, kind: str | None, seed: int) -> None:
        super().__init__(cell, task, name="operator" if kind is None else f"operator-{kind}")
        self._kind, self._seed = kind, seed
        self.reset()

    def reset(self) -> None:
        """Draw the episode's habit."""
        self._rng = np.random.default_rng([self._seed, self._cell.episode_key])
        kind = self._kind
        if kind is None:
            shares = np.array([share for share, _ in OPERATORS.values()])
            kind = str(self._rng.choice(list(OPERATORS), p=shares / shares.sum()))
        self.kind = kind
        self.habit = OPERATORS[kind][1](self._rng)
        self.style = self.habit.style
        self._shake = np.zeros(self._cell.spec.layout.dim)
        self._held = False
        self._grasping: float | None = None  # since when, s

    def plan(self, horizon: int) -> np.ndarray:
        """The expert's plan under this episode's habit."""
        self._age = self.habit.delay
        held = bool((self._task.holder >= 0).any())
        if self._held and not held:  # whoever let go too early is careful from then on
            self.style = replace(self.style, early_release=1.0)
        self._held = held
        if self.habit.learns and any(self.style.aim):
            self._learn(held)
        plan = super().plan(horizon)
        times = self._cell.seconds + np.arange(horizon) / self._cell.spec.fps
        still = np.zeros(horizon, bool)
        for start, end in self.habit.pauses:
            still |= (times >= start) & (times < end)
        before = self._cell.command
        for step in range(horizon):
            for start, end, velocity in self.habit.drifts:
                if start <= times[step] < end:
                    plan[step] += np.asarray(velocity) * (times[step] - start)
            for start, end, velocity in self.habit.detours:
                if start <= times[step] < end:
                    plan[step] = before + np.asarray(velocity) / self._cell.spec.fps
            if still[step]:
                plan[step] = before
            elif self.habit.tremor:
                self._shake = 0.7 * self._shake + 0.7 * self._rng.normal(0, self.habit.tremor, plan.shape[1])
                shake = np.where([unit == "rad" for unit in self._cell.spec.layout.units], self._shake, 0.0)
                plan[step] = plan[step] + shake
            before = plan[step]
        return np.clip(plan, self._cell.spec.layout.low, self._cell.spec.layout.high)

    def _learn(self, held: bool) -> None:
        """Aim well from the moment that a grasp has come to nothing."""
        if self._grasping is None:
            if min(self._cell.grasp_point(side)[2] for side in SIDES) < _LOW:
                self._grasping = self._cell.seconds
        elif not held and self._cell.seconds > self._grasping + _GRASP_SECONDS:
            self.style = replace(self.style, aim=(0.0, 0.0, 0.0))
