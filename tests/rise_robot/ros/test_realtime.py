"""A cell in single physics steps moves as it does in control steps. No ROS in here."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.errors import ActionError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.env import CellEnv
from rise_robot.ros.realtime import RealTimeCell


@pytest.fixture(scope="module")
def world() -> RealTimeCell:
    return RealTimeCell(WorkCell(*load_cell("brick_sorting", "tiny")))


def test_reset_is_that_of_the_environment(world: RealTimeCell) -> None:
    env = CellEnv(preset="tiny")
    for seed in (0, 7):
        observation, _ = env.reset(seed=seed)
        state = world.reset(seed)
        np.testing.assert_array_equal(world.cell.state(), observation["state"])
        saved = env.save_state().arrays
        assert all(np.array_equal(value, saved[key]) for key, value in state.arrays.items())
    assert world.episode == 2
    env.close()


def test_commands_once_per_period_give_the_same_bits(world: RealTimeCell) -> None:
    reference = WorkCell(*load_cell("brick_sorting", "tiny"))
    world.reset(3)
    other = RealTimeCell(reference)
    other.reset(3)
    rng = np.random.default_rng(0)
    left, right = np.arange(7), np.arange(7, 14)
    for _ in range(12):
        target = reference.command + rng.uniform(-0.6, 0.6, 14)  # beyond limits and speeds at times
        reference.step(target)
        world.set_target(left, target[left])
        world.set_target(right, target[right])
        assert world.advance(world.cell.substeps)
        expected, found = reference.save().arrays, world.cell.save().arrays
        assert all(np.array_equal(value, found[key]) for key, value in expected.items())
        assert world.cell.status == reference.status


def test_arms_take_targets_at_different_times(world: RealTimeCell) -> None:
    world.reset(0)
    start = world.cell.command.copy()
    world.set_target(np.array([0]), start[[0]] + 0.1)
    world.advance(world.cell.substeps // 2)
    assert start[0] < world.cell.command[0] < start[0] + 0.1
    world.set_target(np.array([7]), start[[7]] - 0.1)
    world.advance(world.cell.substeps - world.cell.substeps // 2)
    assert world.cell.command[0] == pytest.approx(start[0] + 0.1)
    assert start[7] - 0.1 < world.cell.command[7] < start[7]
    world.advance(world.cell.substeps)
    np.testing.assert_allclose(world.cell.command[[0, 7]], start[[0, 7]] + [0.1, -0.1])
    np.testing.assert_array_equal(np.delete(world.cell.command, [0, 7]), np.delete(start, [0, 7]))


def test_no_target_is_reached_faster_than_the_arm_can(world: RealTimeCell) -> None:
    world.reset(0)
    start = world.cell.command.copy()
    world.set_target(np.array([0]), start[[0]] + 2.0)
    world.advance(10 * world.cell.substeps)
    assert world.cell.command[0] - start[0] == pytest.approx(3.0 / world.cell.spec.fps)


def test_nonsense_moves_nothing(world: RealTimeCell) -> None:
    world.reset(0)
    before = world.cell.command.copy()
    with pytest.raises(ActionError, match="not finite"):
        world.set_target(np.arange(7), np.full(7, np.nan))
    world.advance(world.cell.substeps)
    np.testing.assert_array_equal(world.cell.command, before)
