"""RobotEnv: the cell's episodes to the bit, and what is different with a real robot."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from robot_fakes import chunk_near, fake_env, robot_config, tiny_task

import rise_env
from rise_env.checks import CHECKS, check_vector_env
from rise_env.errors import ConfigError, RobotError
from rise_robot.cell.env import CellEnv
from rise_robot.config import PerUnit, SafetyConfig, StartConfig, load_robot
from rise_robot.drivers.base import Driver, SceneDriver
from rise_robot.drivers.cell import CellDriver
from rise_robot.env import RobotEnv, make_robot_env
from rise_robot.operator_keys import Key
from rise_robot.testing import FakeRobot, FaultyDriver, ScriptedKeys

assert rise_env is not None  # registers the ids
ID = "RISE-BrickSorting-Piper-v0"
TASK = tiny_task()


@pytest.fixture(scope="module")
def cells() -> tuple[CellEnv, RobotEnv]:
    """The cell as it is, and behind driver and safety guard."""
    return (
        CellEnv(preset="tiny", observation_lags=[1, 4]),
        make_robot_env(preset="tiny", driver="cell", observation_lags=[1, 4], robot_overrides=["safety.gap.rad=.inf"]),
    )


@pytest.mark.parametrize(("policy", "seed"), [("expert", 1), ("operator", 3), ("random", 5)])
def test_the_same_seed_and_chunks_give_the_same_bytes_as_the_cell(
    cells: tuple[CellEnv, RobotEnv], policy: str, seed: int
) -> None:
    cell, robot = cells
    rng = np.random.default_rng(seed)
    (ours, our_info), (theirs, their_info) = robot.reset(seed=seed), cell.reset(seed=seed)
    slowed, ends = 0, [0.0, False, False]
    for _ in range(20):
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        assert {key: our_info[key] for key in their_info} == their_info
        if any(ends[1:]):
            break
        if policy == "random":  # as far from what an arm can follow as actions go
            chunk = rng.uniform(cell.action_space.low, cell.action_space.high).astype(np.float32)
        else:
            chunk = cell.scripted_chunk(policy, 1)
        ours, *ends, our_info = robot.step(chunk)
        theirs, *their_ends, their_info = cell.step(chunk)
        assert ends == their_ends
        slowed += our_info["slowed"]
    assert slowed > 100 if policy == "random" else slowed == 0
    assert our_info["outcome_source"] == "scene"
    assert our_info["stop_reason"] == ""


def test_scripted_policies_of_the_cell_behind_the_driver(cells: tuple[CellEnv, RobotEnv]) -> None:
    cell, robot = cells
    cell.reset(seed=2)
    robot.reset(seed=2)
    np.testing.assert_array_equal(robot.scripted_chunk("operator", 4), cell.scripted_chunk("operator", 4))
    with pytest.raises(ConfigError, match="no scripted policy 'expert'; it has: none"):
        fake_env().scripted_chunk("expert")


def test_drivers_satisfy_their_protocols(cells: tuple[CellEnv, RobotEnv]) -> None:
    assert isinstance(cells[1].driver, SceneDriver)
    for driver in (FakeRobot(TASK), FaultyDriver(FakeRobot(TASK), "fault", 1)):
        assert isinstance(driver, Driver)
        assert not isinstance(driver, SceneDriver)


@pytest.mark.filterwarnings("ignore:.*infinity.*")
def test_gymnasium_accepts_it() -> None:
    env = gymnasium.make(ID, driver="cell", preset="tiny", render_mode="rgb_array", overrides=["task.max_seconds=0.8"])
    check_env(env.unwrapped, skip_close_check=True)
    env.reset(seed=0)
    assert env.render().shape == (216, 288 * 3, 3)
    env.close()


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_vectors_of_cells_keep_the_contract(mode: str) -> None:
    settings = {"driver": "cell", "preset": "tiny", "overrides": ["task.max_seconds=0.8"], "render_mode": "rgb_array"}
    envs = gymnasium.make_vec(ID, num_envs=2, autoreset_mode=mode, **settings)
    report = check_vector_env(envs, steps=2)
    assert (report.passed, report.skipped) == (list(CHECKS), {})
    envs.close()


def test_there_is_one_real_robot() -> None:
    with pytest.raises(ConfigError, match=r"one robot behind driver 'ros'.*--num-envs 1"):
        gymnasium.make_vec(ID, num_envs=2)


def test_specs_are_json_and_making_one_opens_nothing() -> None:
    env = gymnasium.make(ID, preset="tiny", robot_overrides=["safety.speed.rad=0.3"])
    assert env.unwrapped.driver.name == "ros"
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.session.robot.safety.speed.rad == 0.3
    env.close()
    again.close()


def test_wrong_arguments_are_named() -> None:
    for change, message in (
        ({"driver": "can"}, "unknown driver 'can'. Known: cell, ros"),
        ({"driver_options": {"speed": 2}}, "does not take all of these options: speed"),
        ({"robot": "kuka"}, "unknown robot 'kuka'. Known robots: cell, piper"),
        ({"robot_overrides": ["safety.sped.rad=1"]}, "Did you mean 'speed'"),
        ({"render_mode": "human"}, "render_mode 'human'"),
        ({"observation_lags": [7]}, "expected whole numbers up to 6"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_robot_env(**{"driver": "cell", "preset": "tiny", **change})
    other = dataclasses.replace(TASK.layout, name="two_ur5")
    with pytest.raises(ConfigError, match="layout 'piper_bimanual', the task has 'two_ur5'"):
        fake_env(FakeRobot(tiny_task(layout=other)))


# ---------------------------------------------------------------------- a real robot


def away(env_task=TASK) -> np.ndarray:
    return env_task.layout.low.astype(float) + 0.3 * (env_task.layout.high - env_task.layout.low)


def test_the_start_pose_is_approached_slowly_from_where_the_joints_are() -> None:
    pose = away() + 0.01
    robot = FakeRobot(TASK, start=away() + np.where(np.arange(14) == 3, 0.5, 0.0), follow=0.6)
    asked: list[int] = []
    env = fake_env(robot, robot_config(start=StartConfig(tuple(pose))), ask=lambda text: asked.append(robot.ticks))
    begun = robot.position.copy()
    observation, info = env.reset(seed=0)
    sent = np.stack([begun, *robot.sent])
    limits = np.array([0.2 if unit == "rad" else 0.04 for unit in TASK.layout.units]) / TASK.fps
    assert (np.abs(np.diff(sent, axis=0)) <= limits + 1e-9).all()
    np.testing.assert_array_equal(sent[-1], pose)
    np.testing.assert_allclose(robot.position, pose, atol=0.01)
    np.testing.assert_allclose(robot.position[[6, 13]], pose[[6, 13]], atol=0.001)
    assert len(robot.sent) >= 0.49 / 0.02
    assert asked == [robot.ticks]  # after the arm stands still, before the episode
    assert info["outcome_source"] == "none"
    assert info["seconds"] == 0
    assert env.observation_space.contains(observation)


def test_the_way_to_the_start_pose_does_not_begin_at_an_old_target() -> None:
    robot = FakeRobot(TASK, follow=0.6)
    old = robot.position.copy()
    old[0] += 0.5
    robot.command(old)  # and something was in the way
    env = fake_env(robot, robot_config(start=StartConfig(tuple(robot.position - 0.03 * (np.arange(14) == 0)))))
    env.reset(seed=0)
    assert np.abs(np.stack(robot.sent[1:]) - env.session.robot.start.pose)[:, 0].max() < 0.04


def test_a_start_pose_that_is_not_reached_is_an_error() -> None:
    config = robot_config(start=StartConfig(tuple(away()), timeout=3.0))
    robot = FaultyDriver(FakeRobot(TASK), "blocked", 2)
    with pytest.raises(RobotError, match=r"on the way to the start pose \(frozen_joints\)"):
        fake_env(robot, config).reset(seed=0)
    assert robot.inner.log[-1] == "hold"
    stuck = FakeRobot(TASK, follow=1e-3)
    wide = robot_config(
        start=StartConfig(tuple(away()), timeout=3.0), safety=SafetyConfig(gap=PerUnit(9, 9), frozen_joints=99)
    )
    with pytest.raises(RobotError, match=r"not reached within 3.0 s; still away: left_joint1.*right_gripper"):
        fake_env(stuck, wide).reset(seed=0)


def test_the_stop_key_works_on_the_way_to_the_start_pose() -> None:
    robot = FakeRobot(TASK)
    keys = ScriptedKeys({3: [Key.STOP]}, clock=lambda: robot.ticks)
    env = fake_env(robot, robot_config(start=StartConfig(tuple(away()))), keys=keys)
    with pytest.raises(RobotError, match=r"on the way to the start pose \(operator\)"):
        env.reset(seed=0)
    assert len(robot.sent) == 3


@pytest.mark.parametrize(("key", "success"), [(Key.SUCCESS, True), (Key.FAILURE, False)])
def test_the_operator_says_how_an_episode_ends(key: Key, success: bool) -> None:
    robot = FakeRobot(TASK)
    keys = ScriptedKeys({0: [Key.FAILURE], 6: [key]}, clock=lambda: robot.ticks)
    env = fake_env(robot, keys=keys)
    env.reset(seed=0)  # what was pressed before does not count
    assert keys.open_count == 1
    env.step(chunk_near(env))
    _, reward, terminated, truncated, info = env.step(chunk_near(env))
    assert (reward, terminated, truncated) == (float(success), True, False)
    assert info["is_success"] is success
    assert (info["progress"], info["score"]) == ((1.0, 10.0) if success else (0.0, 0.0))
    assert info["failure_mode"] == ("none" if success else "operator_failure")
    assert info["outcome_source"] == "operator"
    env.close()
    assert keys.close_count == 1
    assert robot.log[-1] == "close"


def test_the_time_limit() -> None:
    env = fake_env(FakeRobot(tiny_task(max_seconds=0.6)))
    env.reset(seed=0)
    env.step(chunk_near(env))
    *_, terminated, truncated, info = env.step(chunk_near(env))
    assert (terminated, truncated, info["failure_mode"], info["control_steps"]) == (False, True, "timeout", 2)


def test_latency_is_told_on_the_drivers_clock() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    env.reset(seed=0)
    robot.ticks += 1  # the policy thought for one control period
    info = env.step(chunk_near(env))[-1]
    assert info["command_latency"] == pytest.approx(0.1)
    assert info["observation_age"] == 0.0


def test_ground_truth_that_no_longer_arrives_stops_the_robot() -> None:
    class Silent(CellDriver):
        left = 6

        def outcome(self) -> dict[str, object]:
            self.left -= 1
            if self.left < 0:
                raise RobotError("nothing is told of the scene (a fake)")
            return super().outcome()

    cell = CellEnv(preset="tiny")
    env = RobotEnv(Silent(cell.task, cell.config), load_robot("cell"))
    env.reset(seed=1)
    *_, terminated, truncated, info = env.step(env.scripted_chunk("expert"))
    assert (terminated, truncated, info["stop_reason"]) == (False, True, "link")
    assert "nothing is told" in info["stop_detail"]
    env.close()
    cell.close()


def test_an_episode_without_a_seed_can_be_told_apart() -> None:
    env = make_robot_env(preset="tiny", driver="cell")
    env.reset(seed=3)
    seeds = [env.episode_seed]
    for _ in range(2):
        env.reset()
        seeds.append(env.episode_seed)
    assert seeds[0] == 3
    assert len(set(seeds)) == 3
    env.close()


# ---------------------------------------------------------------------- the cell as a driver


def test_the_cell_keeps_real_time_when_asked() -> None:
    clock = [100.0]
    env = CellEnv(preset="tiny")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    driver = CellDriver(env.task, env.config, real_time=True, clock=lambda: clock[0], sleep=sleep)
    driver.connect()
    driver.tick()
    clock[0] += 0.04  # somebody thinks
    driver.tick()
    clock[0] += 0.35  # much too long: nothing is made up
    driver.tick()
    driver.tick()
    np.testing.assert_allclose(slept, [0.1, 0.06, 0.1])
    assert driver.now() == driver.joints().stamp == pytest.approx(100.65)
    env.close()


def test_the_cell_holds_where_its_servos_are_and_answers_only_while_connected() -> None:
    env = CellEnv(preset="tiny")
    driver = CellDriver(env.task, env.config)
    with pytest.raises(RobotError, match=r"call connect\(\) first"):
        driver.joints()
    assert driver.target() is None
    driver.connect()
    far = driver.target()
    far[0] += 2.0
    driver.command(far)
    driver.tick()
    assert driver.target()[0] == pytest.approx(far[0] - 2.0 + 0.3)  # at the arm's speed, on its way
    driver.hold()
    driver.tick()
    assert driver.target()[0] == pytest.approx(far[0] - 2.0 + 0.3)
    assert driver.now() == pytest.approx(0.2)
    driver.close()
    driver.close()
    with pytest.raises(RobotError):
        driver.tick()
    env.close()
