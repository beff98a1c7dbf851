"""What breaks on a robot: does it hold, for the right reason, and can the recording be read?

Every driver fault (`rise_robot.testing.FAULTS`) breaks the work cell behind a driver, every ROS fault
(`rise_robot.ros.testing.ROS_FAULTS`, a second commander, a dead master) a stand-in for a robot behind real ROS
topics, in the middle of a recorded episode. A row is well when the stop has its reason, the driver was told to hold and
sent nothing after it, and every frame until the stop is on record.

  rise bench faults --json out/faults.json
  rise bench faults --only ros
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.progress import say
from rise_env.data import open_dataset
from rise_env.errors import ConfigError
from rise_env.tasks import load_task
from rise_robot.config import RobotConfig, load_robot
from rise_robot.deploy import make_runner
from rise_robot.deployment import Deployment
from rise_robot.drivers import make_driver
from rise_robot.drivers.base import Driver
from rise_robot.env import RobotEnv
from rise_robot.operator_keys import Key, Keys
from rise_robot.recording import EpisodeRecorder, read_episode_records
from rise_robot.ros import ros1
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.master import RosMaster
from rise_robot.ros.testing import ROS_FAULTS, SECOND_COMMANDER, FakeRosRobot
from rise_robot.safety import StopReason
from rise_robot.testing import FAULTS, Fault, FaultyDriver

__all__ = ["add_arguments", "driver_fault", "ros_fault", "run"]

_TASK = ("brick_sorting", "tiny")
#: Control periods before something breaks.
_AFTER = 8
#: Faults that only the benchmark has: they need processes of their own.
_MORE_ROS_FAULTS = ("a second commander", "the master dies")


class _Sway:
    """A policy that moves every arm joint by `size` (rad) and back, from where the state says it is."""

    lags: tuple[int, ...] = ()

    def __init__(self, env: RobotEnv, size: float) -> None:
        angles = np.array([unit == "rad" for unit in env.task.layout.units])
        self._steps = size * np.sin(np.arange(1, env.task.chunk + 1))[:, None] * angles
        self._low, self._high = env.task.layout.low, env.task.layout.high

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        del seeds, mask

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.clip(observations["state"][:, None] + self._steps, self._low, self._high).astype(np.float32)


class _Moment(Keys):
    """No keys; calls `then` when the operator is asked for the `_AFTER`th time."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then, self._polls = then, 0

    def poll(self) -> list[Key]:
        self._polls += 1
        if self._polls == _AFTER + 1:  # the first is asked for before the episode begins
            self._then()
        return []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--only", choices=["driver", "ros"], help="one kind of faults (default: both)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every fault, what it should have led to, and what it led to."""
    logging.disable(logging.CRITICAL)  # what breaks is told in the table
    try:
        return _run(args.only)
    finally:
        logging.disable(logging.NOTSET)


def _run(only: str | None) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    if only != "ros":
        for fault in FAULTS:
            rows[f"driver: {fault}"] = _told(f"driver: {fault}", driver_fault(fault))
    if only != "driver":
        if not ros1.available():
            raise ConfigError("ROS 1 is not installed: run `make ros`, or give --only driver")
        before = dict(os.environ)
        with RosMaster() as master:
            os.environ |= master.environment
            try:
                for ros in (*ROS_FAULTS, *_MORE_ROS_FAULTS):
                    rows[f"ros: {ros}"] = _told(f"ros: {ros}", ros_fault(ros, master))
            finally:
                os.environ.clear()
                os.environ.update(before)
    return {"faults": len(rows), "well": sum(row["well"] for row in rows.values()), "rows": rows}


def _told(name: str, row: dict[str, Any]) -> dict[str, Any]:
    say(f"{name:34} {'well' if row['well'] else 'NOT WELL'}: {row['reason']}: {row['detail']}")
    return row


def driver_fault(fault: Fault) -> dict[str, Any]:
    """One fault of a driver: the work cell, in simulated time."""
    robot = load_robot("cell", ["safety.frozen_images=1.0", "start.pose=[]"])
    cell = make_driver("cell", *_TASK, [], robot)
    driver = FaultyDriver(cell, fault, _AFTER)
    told: list[str] = []
    driver_hold, driver_command = driver.hold, driver.command

    def hold() -> None:
        told.append("hold")
        driver_hold()

    def command(target: np.ndarray) -> None:
        told.append("command")
        driver_command(target)

    driver.hold, driver.command = hold, command  # type: ignore[method-assign]
    row = _recorded(driver, robot, 0.15)
    for _ in range(20):
        cell.tick()
    before = cell.joints().position
    cell.tick()
    still = float(np.abs(cell.joints().position - before).max())
    row |= {"held": told[-1] == "hold" and still < 1e-3, "expected": str(FAULTS[fault])}
    if fault == "hold":
        row["held"] &= "could not be told to hold" in row["detail"]
    return _judged(row, (FAULTS[fault],))


def ros_fault(fault: str, master: RosMaster) -> dict[str, Any]:
    """One fault of a robot behind ROS: real topics, real time."""
    task = load_task(*_TASK)
    fake = FakeRosRobot(task)
    driver, others = RosDriver(task, fake.config), list[ChildProcess]()

    def fail() -> None:
        if fault == "the master dies":
            master.kill()
        elif fault == "a second commander":
            topic = next(iter(fake.config.arms.values())).command
            others.append(ChildProcess(SECOND_COMMANDER, [topic], master.environment, "commander"))
        else:
            fake.fail(fault)  # type: ignore[arg-type]

    try:
        row = _recorded(driver, RobotConfig("fake", task.layout.name), 0.0, fail)
        time.sleep(0.3)
        sent = {arm: len(messages) for arm, messages in fake.commands.items()}
        time.sleep(0.3)
        same = all(list(m[-1].position) == list(m[-2].position) for m in fake.commands.values() if len(m) > 1)
        row["held"] = same and sent == {arm: len(messages) for arm, messages in fake.commands.items()}
    finally:
        for process in others:
            process.stop()
        driver.close()
        fake.close()
    reasons = ROS_FAULTS.get(fault, (StopReason.FAULT,))  # type: ignore[call-overload]
    return _judged(row | {"expected": " or ".join(reasons)}, reasons)


def _recorded(
    driver: Driver, robot: RobotConfig, size: float, fail: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """One recorded episode; `fail` is called after `_AFTER` control periods. What stopped it, and what is on record."""
    with tempfile.TemporaryDirectory(prefix="rise-faults-") as folder:
        env = RobotEnv(driver, robot, keys=_Moment(fail))
        policy, root = _Sway(env, size), Path(folder) / "data"
        runner = make_runner(env, policy, "sway", robot.execution, "sync")
        try:
            with EpisodeRecorder(root, env.task) as recorder:
                episode = Deployment(env, policy, "sway", runner, recorder=recorder).episode(0)
            steps = env.steps
        finally:
            runner.close()
        stop = episode.stop
        (record,), dataset = read_episode_records(root), open_dataset(root)
        images = dataset.frames(np.arange(dataset.num_frames))
    readable = len(images) == record.num_frames == steps >= _AFTER - 1 and np.isfinite(dataset.state).all()
    reason, detail = ("none", "it was not stopped") if stop is None else (str(stop.reason), stop.detail)
    readable = bool(readable) and record.failure_mode == f"stop_{reason}"
    return {"reason": reason, "detail": detail, "frames": record.num_frames, "readable": readable}


def _judged(row: dict[str, Any], reasons: Sequence[StopReason]) -> dict[str, Any]:
    well = row["held"] and row["readable"] and row["reason"] in reasons and bool(row["detail"])
    return {**row, "well": bool(well)}
