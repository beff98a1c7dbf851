"""Ground truth of box closing: sub-goals, failure modes, settings, and snapshots of what cardboard remembers."""

from __future__ import annotations

import functools

import mujoco
import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.tasks.box_closing import scene
from rise_robot.cell.tasks.box_closing.task import BoxClosing


@functools.cache
def shared_cell() -> WorkCell:
    return WorkCell(*load_cell("box_closing", "tiny"))


@pytest.fixture
def cell() -> WorkCell:
    shared_cell().reset(np.random.default_rng(0))
    return shared_cell()


def put(cell: WorkCell, name: str, **pose: object) -> None:
    """Put the cup, the box or a crease somewhere, at rest."""
    task, data = cell.task, cell.data
    assert isinstance(task, BoxClosing)
    address = task._address[name]
    if name in ("flap", "tab"):
        data.qpos[address] = pose["angle"]
        data.plastic[task._plastic[name]] = pose.get("rest", pose["angle"])
    else:
        data.qpos[address : address + 7] = np.r_[
            np.asarray(pose["position"]), np.asarray(pose.get("turn", [1, 0, 0, 0]))
        ]
    data.qvel[:] = 0
    mujoco.mj_forward(cell.model, cell.data)


def put_cup_inside(cell: WorkCell) -> None:
    x, y, _ = cell.task.box_pose()
    put(cell, "cup", position=[x, y, scene.CUP_HEIGHT / 2 + 0.005])


def wait(cell: WorkCell, seconds: float):
    for _ in range(round(seconds * cell.spec.fps)):
        status = cell.step(cell.command)
        assert 0 <= status.progress <= 1
        if status.finished:
            break
    return status


def test_a_cup_inside_counts_and_a_flap_that_is_never_folded_fails_nothing(cell: WorkCell) -> None:
    assert wait(cell, 0.5).score == 0
    put_cup_inside(cell)
    status = wait(cell, 2)
    assert (status.score, status.finished, status.progress) == (2, False, pytest.approx(0.4, abs=0.01))


@pytest.mark.parametrize("rest", [1.1, 1.5])
def test_a_tab_in_the_slot_holds_the_flap(cell: WorkCell, rest: float) -> None:
    """It leans on the wall, and friction holds it although the flap springs. Creased for good, it does not lean."""
    put_cup_inside(cell)
    put(cell, "tab", angle=1.5, rest=rest)
    put(cell, "flap", angle=0.0, rest=0.4)
    status = wait(cell, 1.5)
    assert (status.success, status.failure_mode) == ((True, "none") if rest < 1.3 else (False, "flap_sprang_back"))


def test_a_flap_without_a_tab_in_its_slot_springs_back(cell: WorkCell) -> None:
    put_cup_inside(cell)
    put(cell, "tab", angle=1.0)
    put(cell, "flap", angle=0.45)
    assert wait(cell, 0.1).score == 3
    put(cell, "flap", angle=0.45, rest=0.85)
    status = wait(cell, 3)
    assert (status.success, status.failure_mode, status.progress) == (False, "flap_sprang_back", 0.0)
    assert cell.task.angle("flap") > 0.6


@pytest.mark.parametrize("name", ["cup", "box"])
def test_a_cup_that_lies_and_a_box_that_was_moved(cell: WorkCell, name: str) -> None:
    if name == "cup":
        put(cell, "cup", position=[0.25, -0.25, 0.03], turn=[0.707, 0.707, 0, 0])
    else:
        x, y, _ = cell.task.box_pose()
        put(cell, "box", position=[x, y + 0.06, 0.0])
    status = wait(cell, 2)
    assert (status.finished, status.failure_mode) == (True, {"cup": "cup_tipped", "box": "box_pushed"}[name])


def test_a_snapshot_continues_bit_for_bit_while_cardboard_gives(cell: WorkCell) -> None:
    """The creases yield: what they remember is part of a snapshot."""
    expert = cell.task.expert()
    while cell.task.angle("flap") > 1.0:
        cell.step(expert.plan(1)[0])
    saved, runs = cell.save(), []
    for _ in range(2):
        cell.restore(saved)
        for _ in range(8):
            cell.step(expert.plan(1)[0])
        runs.append(cell.save().arrays)
    assert cell.task.rest_angle("flap") < 1.2
    for key, value in runs[0].items():
        np.testing.assert_array_equal(runs[1][key], value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("slot=0.03", "slot 0.03 must be within"),
        ("flap=[1.0,1.5]", "flap .* must be a range"),
        ("tab=[1.2,1.1]", "tab .* must be a range"),
        ("cup=[0.2,0,0]", "cup .* must be half-ranges"),
        ("slit=0.01", "slot"),
    ],
)
def test_wrong_ranges_are_told(change: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        WorkCell(*load_cell("box_closing", "tiny", [f"cell.difficulties.normal.{change}"]))
