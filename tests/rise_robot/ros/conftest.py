"""A real ROS master and a real cell node in processes of their own, and a stand-in for a robot whose parts can fail."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rise_env.tasks import load_task
from rise_robot.config import load_robot
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.config import ros_config
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.master import RosMaster
from rise_robot.ros.scene import RosCellDriver
from rise_robot.ros.testing import FakeRosRobot

_CELL = "from rise_agents.cli.main import main; sys.exit(main(['ros-cell', *sys.argv[1:]]))"


def patiently(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value of a condition; fails when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """See `patiently`."""
    return patiently


@pytest.fixture(scope="session")
def master() -> Iterator[RosMaster]:
    """The session's master; this process becomes its node at the first use."""
    before = dict(os.environ)
    with RosMaster() as found:
        os.environ |= found.environment
        yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def cell_robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot file as a lab has one: one camera is compressed."""
    path = tmp_path_factory.mktemp("robot") / "lab.yaml"
    camera = "{topic: /camera_r/color/image_raw/compressed, kind: compressed}"
    path.write_text(f"extends: cell\nname: lab\nros: {{cameras: {{right_wrist: {camera}}}}}\n")
    return path


@pytest.fixture(scope="module")  # it would use up processor time until the last test of all
def cell(master: RosMaster, cell_robot: Path) -> Iterator[ChildProcess]:
    """`rise ros-cell` in a process of its own; its images are twice the size of the task's."""
    arguments = ["--robot", str(cell_robot), "--image-size", "96", "128", "--camera-rate", "20"]
    process = ChildProcess(_CELL, arguments, master.environment, "cell", timeout=300)
    yield process
    process.stop()


@pytest.fixture
def cell_driver(cell: ChildProcess, cell_robot: Path) -> Iterator[RosCellDriver]:
    """A connected driver of the cell."""
    config = dataclasses.replace(ros_config(load_robot(cell_robot)), connect_timeout=30.0, watch_interval=0.1)
    driver = RosCellDriver(load_task("brick_sorting", "small"), config, ("expert",))
    driver.connect()
    yield driver
    driver.close()


@pytest.fixture
def robot(master: RosMaster) -> Iterator[FakeRosRobot]:
    """A healthy fake robot."""
    found = FakeRosRobot(load_task("brick_sorting", "tiny"))
    yield found
    found.close()


@pytest.fixture
def driver(robot: FakeRosRobot) -> Iterator[RosDriver]:
    """A driver of the fake robot, not connected yet."""
    found = RosDriver(robot.task, robot.config)
    yield found
    found.close()
