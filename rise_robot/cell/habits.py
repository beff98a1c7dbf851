"""Imperfect operators without a task: an expert with the habits of people, drawn anew for every episode.

They make the failures and near-misses a world model and a value model must have seen. What an operator does in an
episode depends on its seed and on the episode alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rise_robot.cell.piper import ARM_JOINTS
from rise_robot.cell.planner import Planner
from rise_robot.cell.scene import SIDES
from rise_robot.cell.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["Habit", "HabitMaker", "ImperfectOperator", "distracted", "hesitant", "playful"]

_JOINTS = len(SIDES) * (ARM_JOINTS + 1)
_GRIPPERS = [ARM_JOINTS, 2 * ARM_JOINTS + 1]
#: No episode is played with for longer, s.
_PLAY_SECONDS = 12.0

type Spell = tuple[float, float, tuple[float, ...]]
type HabitMaker = Callable[[np.random.Generator], Habit]


@dataclass(frozen=True)
class Habit:
    """What is wrong with an operator in one episode.

    Attributes:
        style: Fields of the expert's `Style` that differ.
        delay: Age of what it sees of moving objects, s.
        pauses: Times it stops moving, as pairs of start and end, s since the reset.
        tremor: Standard deviation of the smooth noise on its joint targets, rad.
        detours: Times an arm wanders off: start and end, s since the reset, and the velocity of every joint and gripper
            meanwhile, rad/s and m/s.
        drifts: Times both arms drift away from what is planned: start, end, and the velocity of the offset.
        learns: Whether it does better once it has failed; what that means is the task's to say.
    """

    style: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    pauses: tuple[tuple[float, float], ...] = ()
    tremor: float = 0.0
    detours: tuple[Spell, ...] = ()
    drifts: tuple[Spell, ...] = ()
    learns: bool = False


def hesitant(rng: np.random.Generator) -> Habit:
    """Moves slowly and stops on the way; often too late."""
    starts = np.sort(rng.uniform(0.0, 4.0, rng.integers(1, 4)))
    pauses = tuple((float(s), float(s + rng.uniform(0.5, 2.5))) for s in starts)
    return Habit({"speed": rng.uniform(0.35, 0.8)}, pauses=pauses, tremor=rng.uniform(0.0, 0.01))


def distracted(rng: np.random.Generator) -> Habit:
    """Now and then one arm wanders off in some direction, and its gripper opens or closes on the way."""
    detours, now = [], rng.uniform(0.2, 1.2)
    for _ in range(rng.integers(1, 5)):
        velocity = np.zeros(_JOINTS)
        arm = (ARM_JOINTS + 1) * int(rng.integers(2))
        velocity[arm : arm + ARM_JOINTS] = rng.normal(0, 0.45, ARM_JOINTS)
        velocity[arm + ARM_JOINTS] = rng.choice([-0.12, 0.0, 0.12])
        end = now + rng.uniform(0.3, 1.2)
        detours.append((float(now), float(end), tuple(velocity)))
        now = end + rng.uniform(0.2, 1.5)
    return Habit({"speed": rng.uniform(0.9, 1.6)}, tremor=rng.uniform(0.0, 0.02), detours=tuple(detours))


def playful(rng: np.random.Generator) -> Habit:
    """Plays with the arms more than it works: all joints wander, freely or off the plan, between spells of work.

    It shows a world model what arms and objects do far from any sensible plan.
    """
    spells: dict[str, list[Spell]] = {"drifts": [], "detours": []}
    now, size = rng.uniform(0.0, 0.8), rng.uniform(0.08, 0.4)
    while now < _PLAY_SECONDS:
        kind = "drifts" if rng.random() < 0.5 else "detours"
        for _ in range(rng.integers(1, 4)):
            velocity = rng.normal(0, size, _JOINTS)
            velocity[_GRIPPERS] = rng.normal(0, 0.3 * size, 2)
            end = now + rng.uniform(0.3, 1.0)
            spells[kind].append((float(now), float(end), tuple(velocity)))
            now = end
        now += rng.uniform(0.2, 2.0)
    speed = rng.uniform(0.8, 1.5)
    return Habit({"speed": speed}, drifts=tuple(spells["drifts"]), detours=tuple(spells["detours"]))


class ImperfectOperator(ScriptedPolicy):
    """An expert with a habit per episode.

    Args:
        cell: The cell it acts in.
        expert: Plans; its style and age are changed.
        kinds: Kinds of operators, each with its share in the mixture and what draws its habit.
        kind: Key of `kinds`, or None for the mixture.
        seed: Seed of its habits, together with the episode.

    Attributes:
        kind: Kind in this episode.
        habit: Habit in this episode.
    """

    def __init__(
        self,
        cell: WorkCell,
        expert: Planner,
        kinds: Mapping[str, tuple[float, HabitMaker]],
        kind: str | None,
        seed: int,
    ) -> None:
        self.name = "operator" if kind is None else f"operator-{kind}"
        self.cell, self.expert = cell, expert
        self._kinds, self._chosen, self._seed, self._usual = kinds, kind, seed, expert.style
        self.reset()

    def reset(self) -> None:
        """Draw the episode's habit."""
        self._rng = np.random.default_rng([self._seed, self.cell.episode_key])
        kind = self._chosen
        if kind is None:
            shares = np.array([share for share, _ in self._kinds.values()])
            kind = str(self._rng.choice(list(self._kinds), p=shares / shares.sum()))
        self.kind = kind
        self.habit = self._kinds[kind][1](self._rng)
        self.expert.style = replace(self._usual, **self.habit.style)
        self.expert.age = self.habit.delay
        self._shake = np.zeros(self.cell.spec.layout.dim)

    def adapt(self) -> None:
        """Change `expert.style` in view of what has happened; called before every plan."""

    def plan(self, horizon: int) -> np.ndarray:
        """The expert's plan under this episode's habit."""
        self.adapt()
        spec, habit = self.cell.spec, self.habit
        plan = self.expert.plan(horizon)
        times = self.cell.seconds + np.arange(horizon) / spec.fps
        still = np.zeros(horizon, bool)
        for start, end in habit.pauses:
            still |= (times >= start) & (times < end)
        before = self.cell.command
        for step in range(horizon):
            for start, end, velocity in habit.drifts:
                if start <= times[step] < end:
                    plan[step] += np.asarray(velocity) * (times[step] - start)
            for start, end, velocity in habit.detours:
                if start <= times[step] < end:
                    plan[step] = before + np.asarray(velocity) / spec.fps
            if still[step]:
                plan[step] = before
            elif habit.tremor:
                self._shake = 0.7 * self._shake + 0.7 * self._rng.normal(0, habit.tremor, plan.shape[1])
                shake = np.where(spec.layout.angles, self._shake, 0.0)
                plan[step] = plan[step] + shake
            before = plan[step]
        return np.clip(plan, spec.layout.low, spec.layout.high)
