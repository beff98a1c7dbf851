"""The safety guard and the session: every rule with the fault that it is for."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robot_fakes import chunk_near, fake_env, robot_config, tiny_task

from rise_env.errors import ConfigError, RobotError
from rise_robot.config import PerUnit, SafetyConfig, StartConfig
from rise_robot.drivers.base import JointSample, Observation
from rise_robot.operator_keys import Key
from rise_robot.safety import Admitted, SafetyGuard, Stop, StopReason
from rise_robot.signals import StopSignals
from rise_robot.testing import FAULTS, FakeRobot, FaultyDriver, ScriptedKeys

TASK = tiny_task()
LOW, HIGH = TASK.layout.low.astype(float), TASK.layout.high.astype(float)
MIDDLE = (LOW + HIGH) / 2
ANGLES = np.array([unit == "rad" for unit in TASK.layout.units])


def guard(**changes: object) -> SafetyGuard:
    made = SafetyGuard(TASK, SafetyConfig(**changes))
    made.begin(MIDDLE)
    return made


# ---------------------------------------------------------------------- targets


@given(st.integers(0, 2**16), st.floats(0.05, 20))
def test_whatever_is_admitted_is_within_limits_and_near_the_one_before(seed: int, size: float) -> None:
    rng, made = np.random.default_rng(seed), guard(outside=PerUnit(math.inf, math.inf))
    largest = np.array([1.5 if unit == "rad" else 0.2 for unit in TASK.layout.units]) / TASK.fps
    before = MIDDLE
    for _ in range(20):
        admitted = made.admit(before + rng.normal(size=14) * size)
        assert isinstance(admitted, Admitted)
        assert (admitted.target >= LOW).all()
        assert (admitted.target <= HIGH).all()
        assert (np.abs(admitted.target - before) <= largest + 1e-12).all()
        before = admitted.target


def test_a_target_that_needs_nothing_passes_to_the_bit() -> None:
    made, target = guard(), MIDDLE + 0.01
    admitted = made.admit(target)
    np.testing.assert_array_equal(admitted.target, target)
    assert (admitted.clamped, admitted.slowed) == (0, 0)


def test_targets_are_clipped_a_little_and_refused_far_outside() -> None:
    made = guard(speed=PerUnit(100, 100))
    target = MIDDLE.copy()
    target[[0, 8]] = HIGH[0] + 0.09, LOW[8] - 0.09
    admitted = made.admit(target)
    assert admitted.clamped == 2
    assert (admitted.target[0], admitted.target[8]) == (HIGH[0], LOW[8])
    target[0] = HIGH[0] + 0.11
    stop = made.admit(target)
    assert stop.reason == StopReason.OUTSIDE_LIMITS
    assert "left_joint1 2.728 rad" in stop.detail
    assert "right" not in stop.detail


def test_narrower_limits_of_the_robot() -> None:
    made = guard(limits={"left_joint1": (-0.2, 0.05)}, speed=PerUnit(100, 100))
    target = MIDDLE.copy()
    target[0] = 0.1
    assert made.admit(target).target[0] == 0.05
    for limits, message in (
        ({"left_joint1": (-9.0, 0.0)}, "within the arm's"),
        ({"left_joint1": (0.1, 0.0)}, "rise"),
        ({"joint1": (-1.0, 1.0)}, "names 'joint1'"),
    ):
        with pytest.raises(ConfigError, match=message):
            guard(limits=limits)


@pytest.mark.parametrize(
    "bad",
    [
        np.full(14, np.nan), np.r_[np.zeros(13), np.inf], np.zeros(13), np.zeros((1, 14)), None, "left",
        np.zeros(14, complex), np.array([None] * 14), np.zeros(14, bool),
        np.zeros(14, "timedelta64[s]"), [[1.0], [2.0, 3.0]],
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(bad: object) -> None:
    made = guard()
    stop = made.admit(bad)
    assert isinstance(stop, Stop)
    assert stop.reason == StopReason.BAD_ACTION
    assert isinstance(made.check_chunk(bad, (1, 14, 14)), Stop)
    np.testing.assert_array_equal(made.last, MIDDLE)  # it does not count as sent


def test_nothing_is_admitted_before_it_is_known_what_the_robot_holds() -> None:
    made = guard()
    made.begin(None)
    assert made.admit(MIDDLE).reason == StopReason.BAD_ACTION


# ---------------------------------------------------------------------- measurements


def sample(position: np.ndarray, stamp: float) -> JointSample:
    return JointSample(position.astype(np.float32), stamp)


def test_a_gap_between_command_and_measurement_stops_angles_not_grippers() -> None:
    made = guard()
    measured = MIDDLE.copy()
    measured[2], measured[6] = measured[2] + 0.34, 0.0
    assert made.check_joints(sample(measured, 0.0), 0.0) is None
    measured[2] += 0.02
    stop = made.check_joints(sample(measured, 0.0), 0.0)
    assert stop.reason == StopReason.TRACKING_GAP
    assert "left_joint3" in stop.detail
    assert made.check_joints(sample(measured, 0.0), 0.0, tracks=False) is None  # a dry run sends nothing


def test_old_and_broken_joint_states() -> None:
    made = guard()
    assert made.check_joints(sample(MIDDLE, 1.0), 1.15) is None
    assert made.check_joints(sample(MIDDLE, 1.0), 1.25).reason == StopReason.STALE_JOINTS
    assert made.check_joints(sample(MIDDLE, math.nan), 1.0).reason == StopReason.BAD_STAMP
    assert made.check_joints(sample(MIDDLE * np.nan, 1.0), 1.0).reason == StopReason.BAD_MEASUREMENT
    assert made.check_joints(sample(MIDDLE[:13], 1.0), 1.0).reason == StopReason.BAD_MEASUREMENT


def test_joints_that_stand_still_although_their_command_moves() -> None:
    made = guard()
    for tick in range(100):  # standing still by itself is no fault
        assert made.check_joints(sample(MIDDLE, tick / 10), tick / 10) is None
    target, stops = MIDDLE.copy(), []
    for tick in range(100, 110):
        target[1] += 0.03
        made.admit(target)
        stops.append(made.check_joints(sample(MIDDLE, tick / 10), tick / 10))
    reasons = [None if stop is None else stop.reason for stop in stops]
    first = reasons.index(StopReason.FROZEN_JOINTS)
    assert reasons[:first] == [None] * first
    assert 0.5 < (first - 1) / 10 <= 0.7  # s after the command had left
    assert "left_joint2" in stops[first].detail


def test_joints_that_follow_slowly_are_no_fault() -> None:
    made, target, measured = guard(), MIDDLE.copy(), MIDDLE.copy()
    for tick in range(60):
        target[0] += 0.03 * (tick < 30)
        made.admit(target)
        measured = measured + 0.3 * (target - measured)
        assert made.check_joints(sample(measured, tick / 10), tick / 10) is None


def test_a_gripper_that_holds_something_is_no_fault() -> None:
    made, target = guard(), MIDDLE.copy()
    target[6] = 0.0
    for tick in range(30):
        made.admit(target)
        assert made.check_joints(sample(MIDDLE, tick / 10), tick / 10) is None


def test_measurements_may_lie_a_little_outside_the_limits() -> None:
    made = guard()
    made.begin(None)
    for joint, beyond, stops in ((0, 0.34, False), (0, 0.36, True), (6, 0.049, False), (6, 0.051, True)):
        for limit, sign in ((HIGH, 1), (LOW, -1)):
            measured = MIDDLE.copy()
            measured[joint] = limit[joint] + sign * beyond
            stop = made.check_joints(sample(measured, 1.0), 1.0)
            assert (stop is not None and stop.reason == StopReason.BAD_MEASUREMENT) == stops
            assert stop is None or TASK.layout.names[joint] in stop.detail


def test_zeros_of_one_arm_are_no_first_measurement() -> None:
    made, position = guard(), MIDDLE + 0.01
    assert made.check_reported(sample(position, 0.0)) is None
    position[8:14] = 0.0
    assert made.check_reported(sample(position, 0.0)) is None  # one joint of that arm has moved
    position[7] = 0.0
    stop = made.check_reported(sample(position, 0.0))
    assert stop.reason == StopReason.BAD_MEASUREMENT
    assert "right_joint1 to right_gripper" in stop.detail


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=30))
def test_stamps_go_on_and_not_into_the_future(steps: list[float]) -> None:
    made, now, newest = guard(stale_joints=math.inf), 100.0, -math.inf
    for step in steps:
        stamp = now + step
        stop = made.check_joints(sample(MIDDLE, stamp), now, tracks=False)
        if step > 0.1 or newest - stamp > 0.05:
            assert stop.reason == StopReason.BAD_STAMP
            return
        assert stop is None
        newest, now = stamp, now + 0.1


def test_old_and_missing_pictures() -> None:
    made, (first, second, third) = guard(), TASK.cameras
    stamps = {first: 1.0, second: 0.6, third: 1.0}
    assert made.check_cameras(stamps, 1.05) is None
    made = guard()
    stop = made.check_cameras(stamps | {second: 0.5}, 1.05)
    assert stop.reason == StopReason.STALE_CAMERA
    assert repr(second) in stop.detail
    assert made.check_cameras(stamps | {first: math.nan}, 1.0).reason == StopReason.BAD_STAMP
    stop = made.check_cameras({first: 1.0, second: 1.0}, 1.0)
    assert stop.reason == StopReason.BAD_PICTURE
    assert repr(third) in stop.detail


def look(image: np.ndarray, position: np.ndarray, now: float) -> Observation:
    other = {camera: np.full_like(image, round(now * 10)) for camera in [*TASK.cameras][1:]}
    return Observation(
        {next(iter(TASK.cameras)): image, **other}, sample(position, now), dict.fromkeys(TASK.cameras, now)
    )


def test_a_picture_that_repeats_although_the_arms_move() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*TASK.image_size, 3), np.uint8)
    for moves, frozen in ((0.02, True), (0.0, False)):
        made = guard()
        found = [
            made.check_observation(look(image.copy(), MIDDLE + moves * tick * ANGLES, tick / 10), tick / 10)
            for tick in range(20)
        ]
        assert any(stop is not None and stop.reason == StopReason.FROZEN_CAMERA for stop in found) is frozen
        assert found[:10] == [None] * 10
    made = guard(frozen_images=None)
    assert not any(
        made.check_observation(look(image, MIDDLE + 0.02 * tick * ANGLES, tick / 10), tick / 10) for tick in range(30)
    )


# ---------------------------------------------------------------------- in the environment


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_ends_the_episode_and_the_arm_holds(fault: str) -> None:
    inner = FakeRobot(TASK)
    env = fake_env(FaultyDriver(inner, fault, 6))
    env.reset(seed=0)
    for _ in range(12):
        observation, reward, terminated, truncated, info = env.step(chunk_near(env, 0.03))
        if truncated:
            break
    assert (terminated, truncated, reward) == (False, True, 0.0)
    assert info["stop_reason"] == FAULTS[fault]
    assert info["failure_mode"] == f"stop_{FAULTS[fault]}"
    assert info["stop_detail"]
    assert env.observation_space.contains(observation)
    if fault == "hold":  # the reason stays that of the stop, and both are told
        assert "could not be told to hold: driver 'faulty-fake' raised OSError" in info["stop_detail"]
    else:
        assert inner.log[-1] == "hold"
    count = len(inner.sent)
    with pytest.raises(RobotError, match=r"no episode is running.*call reset"):
        env.step(chunk_near(fake_env(inner)))
    assert len(inner.sent) == count
    env.close()
    assert "close" in inner.log


def test_a_joint_that_is_held_fast_widens_the_gap_until_the_robot_stops() -> None:
    robot = robot_config(safety=SafetyConfig(frozen_joints=100.0))
    env = fake_env(FaultyDriver(FakeRobot(TASK), "blocked", 2), robot)
    env.reset(seed=0)
    plan = np.repeat(MIDDLE[None], 40, axis=0)
    plan[:, 0] += 0.06 * np.arange(1, 41)
    for start in range(0, 32, 4):
        *_, truncated, info = env.step(plan[start : start + 8].astype(np.float32))
        if truncated:
            break
    assert info["stop_reason"] == StopReason.TRACKING_GAP
    assert "left_joint1" in info["stop_detail"]
    assert info["seconds"] == pytest.approx(0.8)  # two steps that were followed, six of 0.06 rad that were not


@pytest.mark.parametrize(
    "bad",
    [np.full((8, 14), np.nan), np.zeros((7, 14)), np.zeros(14), None, np.full((8, 14), "x"), np.zeros((8, 14, 1))],
)
def test_a_bad_action_stops_before_anything_of_it_is_run(bad: object) -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    env.reset(seed=0)
    env.step(chunk_near(env))
    count = len(robot.sent)
    *_, truncated, info = env.step(bad)
    assert (truncated, info["stop_reason"], info["control_steps"]) == (True, "bad_action", 0)
    assert len(robot.sent) == count
    assert robot.log[-1] == "hold"
    late = chunk_near(env)
    late[-1, -1] = np.nan  # in a row that would not be run
    env.reset(seed=0)
    assert env.step(late)[-1]["stop_reason"] == "bad_action"
    assert len(robot.sent) == count


def test_a_target_far_outside_stops_in_the_middle_of_a_chunk() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    env.reset(seed=0)
    chunk = chunk_near(env)
    chunk[2, 0] = 9.0
    *_, truncated, info = env.step(chunk)
    assert (truncated, info["stop_reason"], info["control_steps"]) == (True, "outside_limits", 2)
    assert len(robot.sent) == 2


def test_the_stop_key_stops() -> None:
    robot = FakeRobot(TASK)
    keys = ScriptedKeys({2: [Key.STOP]}, clock=lambda: robot.ticks)
    env = fake_env(robot, keys=keys)
    env.reset(seed=0)
    *_, truncated, info = env.step(chunk_near(env))
    assert (truncated, info["stop_reason"], info["control_steps"]) == (True, "operator", 2)
    assert robot.log[-1] == "hold"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_and_a_second_one_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    robot = FakeRobot(TASK)
    with StopSignals() as signals:
        env = fake_env(robot, interrupted=signals)
        env.reset(seed=0)
        env.step(chunk_near(env))
        os.kill(os.getpid(), number)
        *_, truncated, info = env.step(chunk_near(env))
        assert (truncated, info["stop_reason"], info["control_steps"]) == (True, "signal", 0)
        assert number.name in info["stop_detail"]
        assert robot.log[-1] == "hold"
        with pytest.raises(RobotError, match=r"cannot begin.*signal"):
            env.reset(seed=0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_an_interruption_in_a_control_period_makes_the_arm_hold() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(FaultyDriver(robot, "interrupt", 2))
    env.reset(seed=0)
    with pytest.raises(KeyboardInterrupt):
        env.step(chunk_near(env))
    assert robot.log[-1] == "hold"


def test_a_dry_run_sends_nothing_and_moves_nothing() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot, robot_config(start=StartConfig(pose=tuple(LOW + 0.01))), dry_run=True)
    env.reset(seed=0)
    for _ in range(3):
        *_, truncated, info = env.step(chunk_near(env, 0.1))
        assert (truncated, info["control_steps"]) == (False, 4)
    env.close()
    assert robot.sent == []
    assert set(robot.log) == {"connect", "tick", "close"}


def test_grippers_are_squeezed_on_the_way_out_and_never_creep() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot, robot_config(squeeze={"left_gripper": 0.003}))
    env.reset(seed=0)
    env.step(np.repeat(MIDDLE[None], 8, 0).astype(np.float32))
    sent = np.stack(robot.sent)
    np.testing.assert_allclose(sent[:, 6], MIDDLE[6] - 0.003, atol=1e-7)
    np.testing.assert_allclose(sent[:, 13], MIDDLE[13], atol=1e-7)
    env.advance(None)
    assert len(robot.sent) == len(sent)  # holding sends nothing anew
    closed = MIDDLE.copy()
    closed[6] = 0.0
    env.step(np.repeat(closed[None], 8, 0).astype(np.float32))
    assert np.stack(robot.sent)[:, 6].min() == 0.0


def test_an_episode_does_not_begin_with_a_robot_that_is_not_well() -> None:
    for fault in ("fault", "stale_camera", "link", "nan_joints", "outside_joints", "future_joints", "io", "wrong_size"):
        driver = FaultyDriver(FakeRobot(TASK), fault, 0)
        driver.inner.ticks = 50
        with pytest.raises(RobotError):
            fake_env(driver).reset(seed=0)
        assert driver.inner.sent == []


def test_an_arm_that_has_not_reported_is_not_moved() -> None:
    for start in ((), tuple(MIDDLE)):
        robot = FakeRobot(TASK, start=np.zeros(14))
        env = fake_env(robot, robot_config(start=StartConfig(pose=start)))
        env.reset(seed=0)  # a simulation may stand at 0
        robot.real_time = True
        count = len(robot.sent)
        robot.position[:] = 0.0
        with pytest.raises(RobotError, match="exactly 0, as before an arm has reported"):
            env.reset(seed=0)
        assert len(robot.sent) == count


def test_an_answer_that_took_long_is_old() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    env.reset(seed=0)
    answer = robot.joints

    def slow() -> JointSample:
        found = answer()
        robot.ticks += 3  # 0.3 s pass
        return found

    robot.joints = slow
    assert env.step(chunk_near(fake_env(FakeRobot(TASK))))[-1]["stop_reason"] == StopReason.STALE_JOINTS
