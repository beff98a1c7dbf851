"""Backpack packing: ground truth, zipper, failure modes, settings, the expert, and snapshots with cloth in them."""

from __future__ import annotations

import functools
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.tasks.backpack_packing import scene
from rise_robot.cell.tasks.backpack_packing.operators import OPERATORS
from rise_robot.cell.tasks.backpack_packing.task import BackpackPacking


@functools.cache
def shared_cell(*overrides: str) -> WorkCell:
    return WorkCell(*load_cell("backpack_packing", "tiny", overrides))


@pytest.fixture
def cell() -> WorkCell:
    shared_cell().reset(np.random.default_rng(0))
    return shared_cell()


def put(cell: WorkCell, *, bag: tuple[float, ...] = (), zipped: float = 0.0, inside: float = 0.0) -> BackpackPacking:
    """Put the bag somewhere, the slider so far, and so large a share of the shirt's vertices into the bag."""
    task, data = cell.task, cell.data
    assert isinstance(task, BackpackPacking)
    if bag:
        data.qpos[task._bag_qpos : task._bag_qpos + len(bag)] = bag
    data.qpos[task._slider] = scene.ZIP * (1 - 2 * zipped)
    data.qpos[task._strips] = 0.5 * (zipped == 0)
    many = round(inside * len(task._shirt_qpos))
    middle = data.qpos[task._bag_qpos : task._bag_qpos + 3] + np.array([0, 0, 0.03])
    data.qpos[task._shirt_qpos[:many]] = middle - task._shirt_home[:many]
    mujoco.mj_forward(cell.model, data)
    return task


def test_an_episode_begins_with_nothing_done(cell: WorkCell) -> None:
    status = cell.status
    assert (status.progress, status.score, status.finished, status.failure_mode) == (0.0, 0.0, False, "none")
    assert not cell.data.eq_active[cell.task._zips].any()


@pytest.mark.parametrize(("zipped", "joined"), [(0.0, 0), (0.5, 2), (0.75, 4), (1.0, 5)])
def test_the_slider_joins_what_it_has_passed_and_parts_it_again(cell: WorkCell, zipped: float, joined: int) -> None:
    task = put(cell, zipped=zipped, inside=1.0)
    task.advance()
    assert int(cell.data.eq_active[task._zips].sum()) == joined
    put(cell, zipped=0.0)
    task.advance()
    assert not cell.data.eq_active[task._zips].any()


@pytest.mark.parametrize(
    ("state", "mode", "progress"),
    [
        ({"inside": 1.0}, "none", 0.5),
        ({"inside": 1.0, "zipped": 0.5}, "none", 0.65),
        ({"inside": 1.0, "zipped": 1.0}, "none", 0.8),
        ({"inside": 0.0, "zipped": 0.6}, "outside", 0.0),
        ({"inside": 0.8, "zipped": 1.0}, "snagged", 0.0),
        ({"inside": 1.0, "bag": (0.3, 0.0, 0.2)}, "open", 0.0),
        ({"bag": (0.3, 0.0, 0.1, 0.7, 0.7, 0.0, 0.0)}, "tipped", 0.0),
        ({"inside": 1.0, "zipped": 1.0, "bag": (0.3, 0.0, 0.2)}, "none", 1.0),
    ],
    ids=["packed", "half", "shut", "outside", "snagged", "open", "tipped", "success"],
)
def test_progress_and_failure_modes(cell: WorkCell, state: dict, mode: str, progress: float) -> None:
    status = put(cell, **state).advance()
    assert (status.failure_mode, status.success) == (mode, progress == 1)
    assert status.finished == (progress in (0, 1))
    assert status.progress == pytest.approx(progress, abs=0.01)


def test_a_shirt_that_was_raised_and_lies_beside_the_bag_is_dropped(cell: WorkCell) -> None:
    task = put(cell)
    task.reached[2] = True
    modes = [task.advance().failure_mode for _ in range(round(3.2 * cell.spec.fps))]
    assert (modes[-4], modes[-1]) == ("none", "dropped")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("bag=[0.1,0]", "bag is .* expected 0 to 0.03 m"),
        ("shirt=[0,0.2]", "shirt is .* expected 0 to 0.05 m"),
        ("turn=4", "turn is 4.* expected 0 to pi"),
        ("fold=1", "fold"),
    ],
)
def test_wrong_ranges_are_told(change: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        WorkCell(*load_cell("backpack_packing", "tiny", [f"cell.difficulties.normal.{change}"]))


def test_the_expert_packs_the_bag_and_a_snapshot_continues_bit_for_bit() -> None:
    cell = shared_cell("cell.variation.enabled=true")
    cell.reset(np.random.default_rng(1))
    expert, saved, targets, score = cell.task.expert(), None, [], 0.0
    while not cell.status.finished and cell.steps < cell.spec.max_steps:
        if saved is None and cell.task.zipped > 0.3:  # some strips are joined, the shirt lies crumpled
            saved = cell.save()
        targets.append((cell.steps, expert.plan(1)[0]))
        status = cell.step(targets[-1][1])
        assert status.score >= score
        assert cell.clamped == 0
        score = status.score
    assert (cell.status.success, score) == (True, 10)
    after = [target for step, target in targets if step >= saved.arrays["steps"]][:5]
    runs = []
    for _ in range(2):
        cell.restore(saved)
        for target in after:
            cell.step(target)
        runs.append(cell.save().arrays)
    for key, value in runs[0].items():
        np.testing.assert_array_equal(runs[1][key], value)


def test_operators_repeat_per_seed_and_episode(cell: WorkCell) -> None:
    for kind in (None, *OPERATORS):

        def plan(seed: int, kind: str | None = kind) -> np.ndarray:
            return cell.task.operator(kind, seed).plan(3)

        np.testing.assert_array_equal(plan(0), plan(0))
    corrected = cell.task.scripted("corrected", 0)
    assert corrected.plan(2).shape == (2, cell.spec.layout.dim)


@pytest.mark.parametrize("left", [False, True])
def test_the_clumsy_lose_shirts_that_are_turned_to_the_left(left: bool) -> None:
    cell, lost = shared_cell(), []
    for seed in range(40):
        cell.reset(np.random.default_rng(seed))
        operator = cell.task.operator("clumsy", 0)
        if (cell.task.shirt_turn() > 0) == left:
            lost.append(operator.expert.style.early_release < 1)
    assert len(lost) > 10
    assert (np.mean(lost) > 0.7) == left
    assert (np.mean(lost) < 0.35) != left


def test_the_clumsy_zip_the_bag_without_a_shirt_that_they_let_go(cell: WorkCell) -> None:
    operator, task = cell.task.operator("clumsy", 0), put(cell)
    operator.expert.style = replace(operator.expert.style, early_release=0.2)
    operator.adapt()
    assert not operator.expert.style.skips_shirt
    task.reached[2] = True  # raised
    operator.adapt()
    assert operator.expert.style.skips_shirt


def test_plans_depend_on_the_state_alone(cell: WorkCell) -> None:
    plan = cell.task.expert().plan(16)
    np.testing.assert_array_equal(plan[:5], cell.task.expert().plan(5))
    assert ((plan >= cell.spec.layout.low) & (plan <= cell.spec.layout.high)).all()
