"""Imperfect operators: repeatable per seed and episode, each failing in its own way."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest

from rise_robot.cell.tasks.brick_sorting.operators import OPERATORS, BrickOperator

EPISODES = 12


@functools.cache
def outcomes(kind: str | None) -> list[tuple[str, float]]:
    """Failure mode and seconds of some episodes."""
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.config import load_cell

    cell = WorkCell(*load_cell("brick_sorting", "tiny"))
    results = []
    for seed in range(EPISODES):
        cell.reset(np.random.default_rng(seed))
        operator = BrickOperator(cell, cell.task, kind, seed=0)
        while not cell.status.finished and cell.steps < cell.spec.max_steps:
            for target in operator.plan(8):
                cell.step(target)
                if cell.status.finished:
                    break
        mode = "success" if cell.status.success else cell.status.failure_mode if cell.status.finished else "timeout"
        results.append((mode, cell.seconds))
    return results


@pytest.mark.parametrize(
    ("kind", "failures"),
    [
        ("noisy", {"miss", "timeout", "drop", "jam", "wrong_bin"}),
        ("delayed", {"miss"}),
        ("confused", {"wrong_bin"}),
        ("hesitant", {"miss", "timeout"}),
        ("clumsy", {"miss", "timeout", "jam", "drop"}),
    ],
)
def test_each_kind_fails_as_it_claims(kind: str, failures: set[str]) -> None:
    modes = Counter(mode for mode, _ in outcomes(kind))
    assert set(modes) - {"success"}, f"{kind} never failed"
    assert set(modes) - {"success"} & failures, modes
    assert max((m for m in modes if m != "success"), key=modes.__getitem__) in failures, modes


def test_the_mixture_sometimes_succeeds_and_sometimes_fails_in_several_ways() -> None:
    modes = [mode for mode, _ in outcomes(None)]
    assert 3 <= modes.count("success") <= EPISODES - 2
    assert len(set(modes) - {"success"}) >= 2


def test_hesitant_takes_longer_than_hasty() -> None:
    mean = {k: np.mean([s for mode, s in outcomes(k) if mode == "success"]) for k in ("hesitant", "hasty")}
    assert mean["hesitant"] > mean["hasty"] + 0.5


@pytest.mark.parametrize("kind", [None, *OPERATORS])
def test_repeatable_per_seed_and_episode(new_cell, kind: str | None) -> None:
    def targets(cell_seed: int, seed: int) -> np.ndarray:
        cell = new_cell(cell_seed)
        operator = BrickOperator(cell, cell.task, kind, seed)
        rows = []
        for _ in range(6):
            plan = operator.plan(4)
            rows.append(plan)
            for target in plan:
                cell.step(target)
        return np.concatenate(rows)

    first = targets(3, 0)
    np.testing.assert_array_equal(targets(3, 0), first)
    assert not np.array_equal(targets(3, 1), first)
    assert not np.array_equal(targets(4, 0), first)


@pytest.mark.parametrize("kind", list(OPERATORS))
def test_reset_draws_the_habit_of_the_new_episode(new_cell, kind: str) -> None:
    cell = new_cell(3)
    kept = BrickOperator(cell, cell.task, kind, 5)
    habits = [kept.habit]
    for _ in range(3):
        kept.plan(4)
        cell.reset(np.random.default_rng(len(habits)))
        kept.reset()
        assert kept.habit == BrickOperator(cell, cell.task, kind, 5).habit
        habits.append(kept.habit)
    assert len({repr(habit) for habit in habits}) > 1


def test_the_mixture_has_the_shares_it_names(new_cell) -> None:
    cell = new_cell(0)
    kinds = Counter(BrickOperator(cell, cell.task, None, seed).kind for seed in range(600))
    total = sum(share for share, _ in OPERATORS.values())
    for kind, (share, _) in OPERATORS.items():
        assert kinds[kind] / 600 == pytest.approx(share / total, abs=0.06)


def test_plans_stay_within_limits_and_the_grippers_do_not_shake(new_cell) -> None:
    for seed in range(4):
        cell = new_cell(seed)
        operator = BrickOperator(cell, cell.task, "noisy", seed)
        assert operator.habit.tremor > 0
        plan = operator.plan(8)
        assert ((plan >= cell.spec.layout.low) & (plan <= cell.spec.layout.high)).all()
        assert np.abs(np.diff(plan[:, [6, 13]], axis=0)).max() < 0.021


def test_the_confused_take_the_wrong_bin_with_the_right_arm_whatever_their_style(new_cell) -> None:
    cell = new_cell(0)
    habits = [BrickOperator(cell, cell.task, "confused", seed).habit for seed in range(400)]
    wrong = np.array([habit.style["swap_bins"] for habit in habits])
    assert 0.1 < wrong[:, 0].mean() < 0.3
    assert 0.8 < wrong[:, 1].mean() < 1.0
    for trait in (
        [habit.style["speed"] for habit in habits],
        [habit.tremor for habit in habits],
        [np.hypot(*habit.style["aim"][:2]) > 0 for habit in habits],
        [len(habit.pauses) for habit in habits],
    ):
        for arm in wrong.T:  # a policy could tell one by the other
            assert abs(np.corrcoef(arm, np.asarray(trait, float))[0, 1]) < 0.15


def test_who_learns_aims_well_after_a_grasp_that_came_to_nothing() -> None:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.config import load_cell

    cell = WorkCell(*load_cell("brick_sorting", "tiny"))
    delivered = []
    for seed in range(40):
        cell.reset(np.random.default_rng(seed))
        operator = BrickOperator(cell, cell.task, "confused", seed=0)
        if not any(operator.expert.style.aim):
            continue
        while not cell.status.finished and cell.steps < cell.spec.max_steps:
            cell.step(operator.plan(1)[0])
        assert not any(operator.expert.style.aim)
        delivered.append(cell.status.success or cell.status.failure_mode == "wrong_bin")
    assert len(delivered) >= 4
    assert np.mean(delivered) > 0.7


def test_pauses_hold_still(new_cell) -> None:
    cell = new_cell(0)
    for seed in range(20):
        operator = BrickOperator(cell, cell.task, "hesitant", seed)
        start, end = operator.habit.pauses[0]
        if start > 1 and end - start > 0.5:
            break
    plan = operator.plan(int((end + 1) * 10))
    times = np.arange(len(plan)) / 10
    inside = (times[1:] >= start) & (times[1:] < end)
    changes = np.abs(np.diff(plan, axis=0)).max(1)
    assert (changes[inside] == 0).all()
    assert changes[~inside].max() > 0
