"""The scripted expert: it succeeds from chunks of any length, and remembers nothing."""

from __future__ import annotations

import numpy as np
import pytest

from rise_robot.cell.piper import MAX_GRIPPER_SPEED
from rise_robot.cell.tasks.brick_sorting.expert import BrickExpert, BrickStyle


def succeeds(cell, seed: int, execute: int, style: BrickStyle | None = None) -> bool:
    cell.reset(np.random.default_rng(seed))
    expert = BrickExpert(cell, cell.task, style)
    while not cell.status.finished and cell.steps < cell.spec.max_steps:
        for target in expert.plan(execute):
            cell.step(target)
            if cell.status.finished:
                break
    return cell.status.success


@pytest.mark.parametrize("execute", [1, 8, 16])
def test_success_at_normal(new_cell, execute: int) -> None:
    cell = new_cell(0)
    assert sum(succeeds(cell, seed, execute) for seed in range(30)) >= 29


def test_success_at_easy_and_hard(new_cell) -> None:
    easy, hard = new_cell(0, "cell.difficulty=easy"), new_cell(0, "cell.difficulty=hard")
    assert sum(succeeds(easy, seed, 8) for seed in range(10)) == 10
    assert sum(succeeds(hard, seed, 4) for seed in range(10)) >= 7


def test_success_at_the_published_rate(new_cell) -> None:
    cell = new_cell(0, "task.fps=30", "task.chunk=50")
    assert sum(succeeds(cell, seed, 16) for seed in range(6)) >= 5


def test_success_with_variation(new_cell) -> None:
    cell = new_cell(0, "cell.variation.enabled=true")
    assert sum(succeeds(cell, seed, 8) for seed in range(10)) >= 9


def test_plan_changes_nothing_and_depends_on_the_state_alone(new_cell) -> None:
    cell = new_cell(3)
    expert = BrickExpert(cell, cell.task)
    for _ in range(9):
        cell.step(expert.plan(5)[0])
    before = cell.save()
    plan = expert.plan(16)
    np.testing.assert_array_equal(plan, expert.plan(16))
    np.testing.assert_array_equal(plan, BrickExpert(cell, cell.task).plan(16))
    np.testing.assert_array_equal(plan[:7], expert.plan(7))
    after = cell.save()
    for key, value in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[key], value)
    assert plan.shape == (16, 14)


@pytest.mark.parametrize("speed", [0.7, 1.3])
def test_plans_keep_limits_and_speed(new_cell, speed: float) -> None:
    for seed in range(5):
        cell = new_cell(seed)
        expert = BrickExpert(cell, cell.task, BrickStyle(speed=speed))
        while not cell.status.finished and cell.steps < 60:
            plan = expert.plan(8)
            assert (plan >= cell.spec.layout.low).all()
            assert (plan <= cell.spec.layout.high).all()
            change = np.abs(np.diff(np.vstack([cell.command, plan]), axis=0))
            grippers = [6, 13]
            assert np.delete(change, grippers, axis=1).max() <= speed / cell.spec.fps + 1e-6
            assert change[:, grippers].max() <= MAX_GRIPPER_SPEED / cell.spec.fps + 1e-6
            for target in plan:
                cell.step(target)
                assert cell.clamped == 0


def test_it_takes_over_from_anyone(new_cell) -> None:
    """After two seconds of random motion next to the belt it still mostly succeeds."""
    wins = 0
    for seed in range(10):
        cell = new_cell(seed)
        rng = np.random.default_rng(seed)
        for _ in range(10):
            cell.step(cell.command + rng.normal(0, 0.05, 14))
        expert = BrickExpert(cell, cell.task)
        while not cell.status.finished and cell.steps < cell.spec.max_steps:
            cell.step(expert.plan(1)[0])
        wins += cell.status.success
    assert wins >= 8


@pytest.mark.parametrize(
    ("style", "mode"),
    [(BrickStyle(swap_bins=(True, True)), "wrong_bin"), (BrickStyle(aim=(0.0, 0.06, 0.0)), None)],
    ids=["swap", "aim"],
)
def test_a_bad_style_fails(new_cell, style: BrickStyle, mode: str | None) -> None:
    cell = new_cell(0)
    assert not succeeds(cell, 1, 8, style)
    assert mode is None or cell.status.failure_mode == mode
