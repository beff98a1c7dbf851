"""Dead time between commands and servos: exact, saved with the cell, known to the expert, off by default."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_env.errors import ConfigError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.delay import DelayLine

DELAYED = ("cell.command_delay.arm=0.25", "cell.command_delay.gripper=0.13")
VARIED = "cell.variation.enabled=true"


@given(
    delays=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_every_joint_comes_out_late_by_its_delay(delays: list[int], lengths: list[int]) -> None:
    line, rng = DelayLine(7, len(delays)), np.random.default_rng(0)
    start = rng.normal(size=len(delays))
    line.reset(start, np.array(delays))
    sent = rng.normal(size=(sum(lengths), len(delays)))
    got = np.concatenate([line.apply(part) for part in np.split(sent, np.cumsum(lengths)[:-1])])
    for joint, delay in enumerate(delays):
        expected = np.concatenate([np.full(delay, start[joint]), sent[:, joint]])[: len(sent)]
        np.testing.assert_array_equal(got[:, joint], expected)
    coming = line.under_way(np.arange(1, 9))
    np.testing.assert_array_equal(coming, line.apply(np.tile(sent[-1], (8, 1))))


def measured_lag(cell: WorkCell, joint: int, change: float) -> float:
    """Time from a small step of a set-point to half of the way, s."""
    low, target = cell.state()[joint], cell.command.copy()
    target[joint] += change
    goal, elapsed = target, np.zeros(target.size, int)
    for count in range(1, 40 * cell.substeps):
        cell.substep(goal, goal, elapsed)
        if abs(cell.state()[joint] - low) > abs(change) / 2:
            return count / cell.substeps / cell.spec.fps
    raise AssertionError("the joint does not move")


@pytest.mark.parametrize(("joint", "change", "delay"), [(0, 0.05, 0.25), (6, -0.01, 0.13)])
def test_a_joint_moves_that_much_later(new_cell, joint: int, change: float, delay: float) -> None:
    usual = measured_lag(new_cell(0), joint, change)
    assert measured_lag(new_cell(0, *DELAYED), joint, change) - usual == pytest.approx(delay, abs=0.005)


def test_single_physics_steps_are_a_control_step(new_cell) -> None:
    targets = new_cell(3, *DELAYED).command + np.cumsum(np.random.default_rng(1).normal(0, 0.06, (6, 14)), axis=0)
    cell = new_cell(3, *DELAYED)
    for target in targets:
        cell.step(target)
    whole = cell.physics()
    cell = new_cell(3, *DELAYED)
    for target in targets:
        start = cell.command
        goal = cell.reachable(start, target)
        for i in range(cell.substeps):
            cell.substep(start, goal, np.full(14, i))
    np.testing.assert_array_equal(cell.physics(), whole)


def test_restore_goes_on_with_commands_under_way(new_cell) -> None:
    cell = new_cell(5, *DELAYED, VARIED)
    expert = cell.task.scripted("expert", 0)
    for target in expert.plan(6):
        cell.step(target)
    state, targets = cell.save(), expert.plan(5)
    for target in targets:
        cell.step(target)
    first = cell.physics()
    cell.reset(np.random.default_rng(9))
    cell.restore(state)
    for target in targets:
        cell.step(target)
    np.testing.assert_array_equal(cell.physics(), first)
    with pytest.raises(ConfigError, match=r"commands under way.*\n?.*command_delay"):
        new_cell(0).restore(state)


def test_variation_varies_the_delay_and_none_is_the_default(new_cell) -> None:
    assert not new_cell(0).command_delay.any()
    assert len({new_cell(seed, *DELAYED).command_delay[0] for seed in range(5)}) == 1
    drawn = [new_cell(seed, *DELAYED, VARIED).command_delay[0] / 10 for seed in range(12)]
    assert len(set(drawn)) > 5
    assert 0.2 <= min(drawn) < max(drawn) <= 0.3 + 1e-9


def test_the_expert_knows_the_delay(new_cell) -> None:
    for seed in range(4):
        cell = new_cell(seed, *DELAYED)
        expert = cell.task.scripted("expert", 0)
        while not cell.status.finished and cell.steps < cell.spec.max_steps:
            cell.step(expert.plan(1)[0])
        assert cell.status.success, seed


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("cell.command_delay.arm=-0.1", r"command_delay\.arm is -0\.1 s, expected 0 to 2"),
        ("cell.command_delay.gripper=nan", r"command_delay\.gripper"),
        ("cell.variation.command_delay=2", r"variation\.command_delay is 2\.0, expected 0 to 1"),
    ],
)
def test_wrong_settings(override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_cell("brick_sorting", "tiny", [override])
