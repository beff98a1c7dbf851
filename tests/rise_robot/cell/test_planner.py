"""The kinematic roll-out, with the simplest of rules, and habits on top of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from rise_robot.cell.habits import Habit, ImperfectOperator, distracted, hesitant, playful
from rise_robot.cell.piper import MAX_GRIPPER_SPEED
from rise_robot.cell.planner import Arm, Planner, Style

GOAL = np.array([0.30, 0.15, 0.12])


@dataclass(frozen=True)
class Aiming(Style):
    """Where it reaches for, beside the goal, m."""

    beside: float = 0.0


class Reacher(Planner):
    """The left arm brings its tool to a point and closes around something; the right arm rests."""

    def __init__(self, cell, width: float = 0.0) -> None:
        super().__init__(cell, Aiming())
        self.width, self.looks = width, 0

    def look(self) -> None:
        self.looks += 1

    def act(self, arm: Arm) -> tuple[np.ndarray, float]:
        if arm.index == 1:
            return arm.home, 0.07
        return arm.reach(GOAL + np.array([0, self.style.beside, 0]), 0.0), 0.0

    def held_width(self, arm: Arm) -> float:
        return self.width if arm.index == 0 else 0.0


def test_the_tool_gets_where_the_rules_want_it(new_cell) -> None:
    cell = new_cell(0)
    reacher = Reacher(cell)
    for _ in range(25):
        cell.step(reacher.plan(1)[0])
    assert np.linalg.norm(cell.grasp_point("left") - GOAL) < 0.01
    point, yaw = reacher.arms[0].tool()
    assert np.linalg.norm(point - GOAL) < 0.01
    assert abs(yaw) < 0.05


def test_a_longer_plan_begins_with_the_shorter_one_and_keeps_the_limits(new_cell) -> None:
    cell = new_cell(1)
    reacher = Reacher(cell)
    plan = reacher.plan(12)
    np.testing.assert_array_equal(plan[:5], reacher.plan(5))
    assert reacher.looks == 2
    change = np.abs(np.diff(np.vstack([cell.command, plan]), axis=0))
    assert np.delete(change, [6, 13], axis=1).max() <= reacher.style.speed / cell.spec.fps + 1e-9
    assert change[:, [6, 13]].max() <= MAX_GRIPPER_SPEED / cell.spec.fps + 1e-9


def test_fingers_close_no_further_than_what_they_hold(new_cell) -> None:
    cell = new_cell(1)
    holding, empty = Reacher(cell, width=0.03), Reacher(cell)
    holding.plan(16)
    empty.plan(16)
    assert holding.arms[0].opening == 0.03
    assert empty.arms[0].opening < 0.01


def operator(cell, habit: Habit) -> ImperfectOperator:
    return ImperfectOperator(cell, Reacher(cell), {"only": (1.0, lambda rng: habit)}, "only", seed=0)


def test_a_habit_changes_the_style_and_reset_starts_from_the_usual_one(new_cell) -> None:
    cell = new_cell(0)
    habits = iter([Habit({"beside": 0.05, "speed": 0.4}, delay=0.3), Habit()])
    one = ImperfectOperator(cell, Reacher(cell), {"any": (1.0, lambda rng: next(habits))}, None, seed=0)
    assert (one.name, one.kind) == ("operator", "any")
    assert (one.expert.style, one.expert.age) == (Aiming(speed=0.4, beside=0.05), 0.3)
    one.reset()
    assert (one.expert.style, one.expert.age) == (Aiming(), 0.0)


def test_pauses_tremor_detours_and_drifts(new_cell) -> None:
    cell = new_cell(0)
    usual, velocity = Reacher(cell).plan(8), (0.3,) * 6 + (0.0,) * 8
    np.testing.assert_array_equal(operator(cell, Habit()).plan(8), usual)
    still = operator(cell, Habit(pauses=((0.2, 0.5),))).plan(8)
    assert (still[2:5] == still[1]).all()
    assert (still[5] != still[4]).any()
    trembling = operator(cell, Habit(tremor=0.02)).plan(8) - usual
    assert (trembling[:, [6, 13]] == 0).all()
    assert np.abs(trembling).max() > 0.005
    away = operator(cell, Habit(detours=((0.3, 0.6, velocity),))).plan(8)
    np.testing.assert_allclose(away[4, 0] - away[3, 0], 0.3 / cell.spec.fps, atol=1e-9)
    drifted = operator(cell, Habit(drifts=((0.3, 0.6, velocity),))).plan(8) - usual
    assert (np.abs(drifted).max(axis=1) > 0).tolist() == [False] * 4 + [True] * 2 + [False] * 2


@pytest.mark.parametrize("draw", [hesitant, distracted, playful])
def test_ready_made_habits_suit_any_task(new_cell, draw) -> None:
    cell = new_cell(0)
    plans = []
    for seed in range(3):
        one = ImperfectOperator(cell, Reacher(cell), {"only": (1.0, draw)}, "only", seed)
        plans.append(one.plan(20))
        assert ((plans[-1] >= cell.spec.layout.low) & (plans[-1] <= cell.spec.layout.high)).all()
    assert not np.array_equal(plans[0], plans[1])
