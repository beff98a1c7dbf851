"""Physics, servo commands, and snapshots that continue bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rise_env.errors import ActionError, ConfigError, LayoutError
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.piper import MAX_GRIPPER_SPEED, MAX_JOINT_SPEED
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scene import substeps

HARD = "cell.difficulty=hard"
VARIED = "cell.variation.enabled=true"


def random_targets(cell: WorkCell, seed: int, steps: int) -> np.ndarray:
    """Random walks of the set-points that keep moving through contact."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.08, (steps, cell.command.size)), axis=0)
    return cell.command + walk


def trace(cell: WorkCell, targets: np.ndarray) -> list[bytes]:
    """Everything that can be observed while the targets are run."""
    renderer = CellRenderer(cell.model, cell.data, 2)
    seen = []
    for target in targets:
        status = cell.step(target)
        images = renderer.render(list(cell.spec.cameras), cell.spec.image_size)
        seen.append(
            cell.state().tobytes() + images.tobytes() + repr(status).encode() + cell.save().arrays["physics"].tobytes()
        )
    return seen


@pytest.mark.parametrize("overrides", [(), (HARD, VARIED)], ids=["normal", "hard-varied"])
@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "in a file"])
def test_restore_continues_bit_for_bit(new_cell, tmp_path: Path, overrides: tuple[str, ...], stored: bool) -> None:
    cell = new_cell(5, *overrides)
    expert = cell.task.scripted("expert", 0)
    for _ in range(12):  # into the grasp, where contacts and warm starts matter
        cell.step(expert.plan(1)[0])
    state, status = cell.save(), cell.status
    if stored:
        np.savez(tmp_path / "state.npz", **state.arrays)
        with np.load(tmp_path / "state.npz") as file:
            state = CellState(dict(file))
    targets = np.concatenate([expert.plan(8), random_targets(cell, 1, 6)])
    first = trace(cell, targets)
    assert cell.restore(state) == status
    assert trace(cell, targets) == first
    cell.reset(np.random.default_rng(99))  # another episode in between, then once more
    trace(cell, random_targets(cell, 2, 5))
    assert cell.restore(state) == status
    assert trace(cell, targets) == first
    twin = WorkCell(*load_cell("brick_sorting", "tiny", overrides))  # and in another cell that has done nothing yet
    assert twin.restore(state) == status
    assert trace(twin, targets) == first


def test_a_snapshot_shows_what_was_seen(new_cell) -> None:
    """Images right after a restore are those of the moment of saving, wherever the endless belt happens to be."""
    cell = new_cell(3)
    renderer = CellRenderer(cell.model, cell.data, 2)
    cameras = [*cell.spec.cameras, "overview"]
    for _ in range(12):
        cell.step(cell.command)
        state, seen = cell.save(), renderer.render(cameras, cell.spec.image_size)
        cell.restore(state)
        np.testing.assert_array_equal(renderer.render(cameras, cell.spec.image_size), seen)


@pytest.mark.parametrize(
    ("place", "held"), [([0.50, 0.25, 0.017], False), ([0.30, 0.1, 0.047], True)], ids=["drop", "jam"]
)
def test_a_snapshot_remembers_how_long_a_brick_has_been_in_trouble(new_cell, put_brick, place, held: bool) -> None:
    """Saved half-way to a failure, it fails at the same moment as without the snapshot."""

    def steps_to_failure(cell: WorkCell) -> int:
        for count in range(1, 20):
            if held:
                put_brick(cell, place)
            if cell.step(cell.command).finished:
                return count
        raise AssertionError("no failure")

    cell = new_cell(0)
    put_brick(cell, place)
    for _ in range(3):
        if held:
            put_brick(cell, place)
        assert not cell.step(cell.command).finished
    state = cell.save()
    expected, mode = steps_to_failure(cell), cell.status.failure_mode
    cell.reset(np.random.default_rng(1))
    cell.restore(state)
    assert (steps_to_failure(cell), cell.status.failure_mode) == (expected, mode)
    twin = WorkCell(cell.spec, cell.config)
    twin.restore(state)
    assert (steps_to_failure(twin), twin.status.failure_mode) == (expected, mode)


def test_a_snapshot_is_a_copy(new_cell) -> None:
    cell = new_cell(1)
    state = cell.save()
    before = {key: value.copy() for key, value in state.arrays.items()}
    for target in random_targets(cell, 3, 5):
        cell.step(target)
    for key, value in before.items():
        np.testing.assert_array_equal(state.arrays[key], value)
    cell.restore(state)
    cell.step(cell.command)
    for key, value in before.items():
        np.testing.assert_array_equal(state.arrays[key], value)


def test_snapshot_of_another_cell_is_refused(new_cell) -> None:
    state = new_cell(0, HARD).save()
    with pytest.raises(ConfigError, match="another task, difficulty or version"):
        new_cell(0).restore(state)


def test_the_same_seed_gives_the_same_episode_whatever_came_before(new_cell) -> None:
    cell = new_cell(7)
    targets = random_targets(cell, 0, 8)
    first = trace(cell, targets)
    cell.reset(np.random.default_rng(8))
    other = trace(cell, targets)
    assert other != first
    cell.reset(np.random.default_rng(7))
    assert trace(cell, targets) == first


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda good: good[:7], r"shape \(7,\).*expected \(14,\).*left_joint1, "),
        (lambda good: good[None], r"shape \(1, 14\)"),
        (lambda good: np.where(np.arange(14) == 9, np.nan, good), "not finite at: right_joint3"),
        (lambda good: np.where(np.arange(14) == 6, np.inf, good), "not finite at: left_gripper"),
        (lambda good: good.astype(str), "expected real numbers"),
        (lambda good: good > 0, "expected real numbers"),
        (lambda good: [None] * 14, "expected real numbers"),
    ],
)
def test_bad_targets_move_nothing(new_cell, bad, message: str) -> None:
    cell = new_cell(2)
    before = cell.save()
    with pytest.raises(ActionError, match=message):
        cell.step(bad(cell.command.copy()))
    after = cell.save()
    assert before.arrays.keys() == after.arrays.keys()
    for key, value in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[key], value)


def test_out_of_limits_is_clamped_and_counted(new_cell) -> None:
    cell = new_cell(0)
    target = cell.command.copy()
    target[[0, 3, 13]] = [9.0, -9.0, 1.0]
    for _ in range(20):
        cell.step(target)
        assert cell.clamped == 3
    layout = cell.spec.layout
    assert cell.command[0] == pytest.approx(layout.upper[0])
    assert cell.command[3] == pytest.approx(layout.lower[3])
    assert cell.command[13] == pytest.approx(layout.upper[13])
    cell.step(cell.command)
    assert cell.clamped == 0


@pytest.mark.parametrize("fps", [10, 30])
def test_speed_limits_hold(new_cell, fps: int) -> None:
    cell = new_cell(0, f"task.fps={fps}")
    limit = np.tile([*[MAX_JOINT_SPEED] * 6, MAX_GRIPPER_SPEED], 2) / fps
    assert MAX_JOINT_SPEED == 3.0
    rng = np.random.default_rng(0)
    reached = np.zeros(14)
    for _ in range(60):
        before = cell.command.copy()
        cell.step(rng.uniform(cell.spec.layout.low, cell.spec.layout.high))
        change = np.abs(cell.command - before)
        assert (change <= limit + 1e-9).all()
        assert ((cell.command >= cell._low) & (cell.command <= cell._high)).all()
        reached = np.maximum(reached, change / limit)
    assert (reached > 0.99).all()


def test_arms_hold_still_and_reach_their_targets(new_cell) -> None:
    cell = new_cell(0)
    start = cell.state()
    for _ in range(10):
        cell.step(cell.command)
    assert np.abs(cell.state() - start).max() < 0.01
    target = cell.command + np.tile([0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.02], 2)
    for _ in range(10):
        cell.step(target)
    assert np.abs(cell.state() - target).max() < 0.01


def test_start_noise_stays_in_its_range_and_spares_the_grippers(new_cell) -> None:
    cell = new_cell(0)
    home = np.concatenate(list(cell.home().values()))
    starts = []
    for seed in range(20):
        cell.reset(np.random.default_rng(seed))
        starts.append(cell.command - home)
    starts = np.array(starts)
    assert np.abs(starts).max() <= cell.config.start_noise
    assert (starts[:, [6, 13]] == 0).all()
    assert (starts[:, :6].std(0) > 0.005).all()


def test_control_period_is_exact(new_cell) -> None:
    for fps in (7, 10, 30, 50):
        spec, config = load_cell("brick_sorting", "tiny", [f"task.fps={fps}"])
        count = substeps(spec, config)
        assert 1 / fps / count <= config.max_timestep + 1e-12
        cell = new_cell(0, f"task.fps={fps}")
        for _ in range(5):
            cell.step(cell.command)
        assert cell.data.time == pytest.approx(5 / fps)
        assert cell.seconds == pytest.approx(5 / fps)


def test_wrong_layout_prints_both() -> None:
    spec, config = load_cell("brick_sorting", "tiny")
    renamed = dataclasses.replace(spec.layout, names=tuple(f"motor{i}" for i in range(14)))
    with pytest.raises(LayoutError) as error:
        WorkCell(dataclasses.replace(spec, layout=renamed), config)
    assert "left_joint1" in str(error.value)
    assert "motor0" in str(error.value)


def test_unknown_camera_and_task_are_named() -> None:
    spec, config = load_cell("brick_sorting", "tiny")
    with pytest.raises(ConfigError, match=r"no camera 'nose'. Its cameras: .*head"):
        WorkCell(dataclasses.replace(spec, cameras={"nose": "x"}), config)
    with pytest.raises(ConfigError, match=r"task 'folding' has no work cell. Tasks with a work cell: .*brick_sorting"):
        WorkCell(dataclasses.replace(spec, name="folding"), config)


def test_wrist_cameras_follow_their_arms_and_the_head_does_not(new_cell) -> None:
    cell = new_cell(0)
    cell.step(cell.command)
    names = ("head", "left_wrist", "right_wrist")
    before = [cell.data.cam_xpos[cell.model.camera(name).id].copy() for name in names]
    target = cell.command.copy()
    target[0] += 0.4
    for _ in range(6):
        cell.step(target)
    moved = [
        np.linalg.norm(cell.data.cam_xpos[cell.model.camera(n).id] - b) for n, b in zip(names, before, strict=True)
    ]
    assert moved[0] == 0
    assert moved[1] > 0.03
    assert moved[2] < 0.005
