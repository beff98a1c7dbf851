"""Ground truth of brick sorting: every outcome is reached and named, scores never fall."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.config import load_cell
from rise_robot.cell.tasks.brick_sorting.scene import BELT_END, BELT_TOP, BELT_X, BIN_X, BRICK_HALF
from rise_robot.cell.tasks.brick_sorting.task import BrickSorting

EASY, HARD = "cell.difficulty=easy", "cell.difficulty=hard"
ON_BELT = BELT_TOP + BRICK_HALF[2]


def wait(cell, seconds: float, keep=None):
    """Hold still until the outcome is decided or the time is over; `keep` is called before every step."""
    for _ in range(round(seconds * cell.spec.fps)):
        if keep is not None:
            keep()
        status = cell.step(cell.command)
        assert 0 <= status.progress <= 1
        if status.finished:
            break
    return status


def test_brick_in_its_own_bin_is_success(new_cell, put_brick) -> None:
    cell = new_cell(0)
    put_brick(cell, [*cell.task.own_bin(0), 0.03])
    status = wait(cell, 1)
    assert (status.success, status.finished, status.failure_mode, status.progress) == (True, True, "none", 1.0)
    assert 0 < status.score < 10  # it was never grasped, lifted or carried


def test_brick_in_another_bin(new_cell, put_brick) -> None:
    cell = new_cell(0)
    other = next(c for c in cell.task.bin_centers if not np.array_equal(c, cell.task.own_bin(0)))
    put_brick(cell, [*other, 0.03])
    status = wait(cell, 1)
    assert (status.success, status.finished, status.failure_mode, status.progress) == (False, True, "wrong_bin", 0.0)


@pytest.mark.parametrize("place", [[0.50, 0.25, 0.017], [0.05, 0.0, 0.017], [1.0, 0.0, 0.1]], ids=str)
def test_brick_beside_belt_and_bins_is_dropped(new_cell, put_brick, place: list[float]) -> None:
    cell = new_cell(0)
    put_brick(cell, place)
    status = wait(cell, 2)
    assert (status.finished, status.failure_mode, status.progress) == (True, "drop", 0.0)


def test_brick_that_leaves_the_belt_is_missed(new_cell, put_brick) -> None:
    cell = new_cell(0)
    direction = float(np.sign(cell.task.belt_velocity))
    put_brick(cell, [BELT_X, direction * (BELT_END - 0.02), ON_BELT])
    assert not cell.step(cell.command).finished
    status = wait(cell, 2)
    assert (status.finished, status.failure_mode) == (True, "miss")


def test_untouched_brick_rides_the_belt_until_it_is_missed(new_cell) -> None:
    cell = new_cell(0)
    cell.reset(np.random.default_rng(4))
    start = cell.task.brick_positions()[0, 1]
    steps = 10
    for _ in range(steps):
        cell.step(cell.command)
    travelled = cell.task.brick_positions()[0, 1] - start
    assert travelled == pytest.approx(float(cell.task.belt_velocity) * steps / cell.spec.fps, rel=0.05)
    assert wait(cell, 15).failure_mode == "miss"


def test_brick_held_still_on_the_moving_belt_is_jammed(new_cell, put_brick) -> None:
    cell = new_cell(0)
    status = wait(cell, 2, keep=lambda: put_brick(cell, [BELT_X, 0.1, ON_BELT]))
    assert (status.finished, status.failure_mode) == (True, "jam")
    assert 1.2 < cell.seconds <= 1.5


def test_brick_stuck_on_a_rim_is_jammed(new_cell, put_brick) -> None:
    cell = new_cell(0)
    status = wait(cell, 2, keep=lambda: put_brick(cell, [BIN_X, 0.0, 0.067]))
    assert (status.finished, status.failure_mode) == (True, "jam")


def test_a_short_stop_is_no_jam(new_cell, put_brick) -> None:
    cell = new_cell(0)
    position = cell.task.brick_positions()[0].copy()
    assert not wait(cell, 0.9, keep=lambda: put_brick(cell, position)).finished
    assert not wait(cell, 1.0).finished


def test_outcome_is_final_and_the_first_failure_counts(new_cell, put_brick) -> None:
    cell = new_cell(0, HARD)
    seed = next(s for s in range(50) if cell.reset(np.random.default_rng(s)) and cell.task.active.sum() == 3)
    cell.reset(np.random.default_rng(seed))
    task = cell.task
    put_brick(cell, [0.50, 0.3, 0.017], 1)
    first = wait(cell, 1)
    assert (first.failure_mode, first.finished) == ("drop", False)
    others = [c for c in task.bin_centers if not np.array_equal(c, task.own_bin(0))]
    put_brick(cell, [*others[0], 0.03], 0)
    assert wait(cell, 0.3).failure_mode == "drop"
    put_brick(cell, [*task.own_bin(1), 0.03], 1)  # too late
    put_brick(cell, [*task.own_bin(2), 0.03], 2)
    last = wait(cell, 1)
    assert (last.failure_mode, last.finished, last.success) == ("drop", True, False)
    assert last.progress == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_episode_scores_ten_and_never_falls(new_cell, seed: int) -> None:
    cell = new_cell(seed)
    expert = cell.task.scripted("expert", 0)
    scores, progress = [cell.status.score], [cell.status.progress]
    while not cell.status.finished:
        cell.step(expert.plan(1)[0])
        scores.append(cell.status.score)
        progress.append(cell.status.progress)
        assert cell.seconds < 12
    assert cell.status.success
    assert (scores[0], scores[-1], progress[-1]) == (0, 10, 1)
    assert (np.diff(scores) >= 0).all()
    assert {0.0, 1.0, 4.0, 6.0, 10.0} <= set(scores)
    assert all(0 <= p < 1 for p in progress[:-1])
    assert np.corrcoef(progress, np.arange(len(progress)))[0, 1] > 0.8


@pytest.mark.parametrize("difficulty", ["easy", "normal", "hard"])
def test_randomisation_stays_in_its_ranges(new_cell, difficulty: str) -> None:
    cell = new_cell(0, f"cell.difficulty={difficulty}")
    task: BrickSorting = cell.task
    ranges = task.ranges
    counts, speeds, sides, offsets, bins, colors = set(), [], set(), [], set(), set()
    for seed in range(60):
        cell.reset(np.random.default_rng(seed))
        active = task.active
        position = task.brick_positions()[active]
        counts.add(int(active.sum()))
        speeds.append(abs(float(task.belt_velocity)))
        sides.add(float(np.sign(position[0, 1])))
        offsets.extend(np.abs(position[:, 0] - BELT_X))
        bins.add(tuple(task.bin_color.tolist()))
        colors.update(task.color[active].tolist())
        assert np.sign(task.belt_velocity) == -np.sign(position[0, 1])  # towards the middle
        assert ranges.arrival[0] <= abs(position[0, 1]) <= ranges.arrival[1]
        assert (task.brick_positions()[~active][:, 0] < -1).all()
        assert np.abs(task.brick_yaws()[active]).max() <= ranges.yaw + 1e-6
    assert counts == set(range(ranges.bricks[0], ranges.bricks[1] + 1))
    assert ranges.belt_speed[0] <= min(speeds) < max(speeds) <= ranges.belt_speed[1]
    assert max(offsets) <= ranges.offset
    assert sides == {-1.0, 1.0}
    assert len(bins) == (6 if ranges.shuffle_bins else 1)
    assert colors == set(range(len(ranges.colors)))


def test_each_brick_and_bin_wears_its_colour(new_cell) -> None:
    cell = new_cell(0, HARD)
    for seed in range(10):
        cell.reset(np.random.default_rng(seed))
        rgba, task = cell.model.geom_rgba, cell.task
        for brick in range(task.max_bricks):
            mine = rgba[task._brick_geoms[brick], :3]
            centers = [rgba[geoms[0], :3] for geoms in task._bin_geoms]
            nearest = int(np.argmin([np.linalg.norm(mine - color) for color in centers]))
            np.testing.assert_array_equal(task.bin_centers[nearest], task.own_bin(brick))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("colors=[red, pink]", "unknown brick colour 'pink'. Known colours: red, blue, yellow, green"),
        ("colors=[red]", "two or more different"),
        ("colors=[red, red]", "two or more different"),
        ("bricks=[0, 1]", "within 1 to 4"),
        ("bricks=[3, 2]", "within 1 to 4"),
        ("belt_speed=[0, 0.1]", "belt_speed"),
        ("belt_speed=[0.1, 0.05]", "belt_speed"),
        ("arrival=[0.1, 0.5]", "arrival"),
        ("offset=0.05", "overhang"),
        ("bricc=[1, 1]", "unknown key 'bricc'. Did you mean 'bricks'"),
    ],
)
def test_impossible_ranges_are_refused(change: str, message: str) -> None:
    spec, config = load_cell("brick_sorting", "tiny", [f"cell.difficulties.normal.{change}"])
    with pytest.raises(ConfigError) as error:
        BrickSorting(config.ranges)
    assert message in str(error.value)
    assert spec.name == "brick_sorting"


def test_unknown_scripted_policy_is_named(new_cell) -> None:
    task = new_cell(0).task
    for name in task.scripted_policies:
        task.scripted(name, 0)
    for name in ("experts", "operator-", "operator-lazy", "operatornoisy", ""):
        with pytest.raises(ConfigError, match="Known: expert, operator, "):
            task.scripted(name, 0)


def test_many_seeds_start_open_episodes(new_cell) -> None:
    cell = new_cell(0, HARD)
    for seed in range(100):
        status = cell.reset(np.random.default_rng(seed))
        assert (status.success, status.finished, status.failure_mode, status.score) == (False, False, "none", 0)
        assert 0 <= status.progress < 0.25
        for _ in range(3):
            assert not cell.step(cell.command).finished
