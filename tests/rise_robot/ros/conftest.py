"""A real ROS master and a real cell node in processes of their own, and a stand-in for a robot whose parts can fail."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rise_env.tasks import TaskSpec, load_task
from rise_robot.config import load_robot
from rise_robot.ros import messages, ros1
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.config import ArmConfig, CameraConfig, RosConfig, ros_config
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.master import RosMaster
from rise_robot.ros.scene import RosCellDriver

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


class FakeRobot:
    """Publishes what arms and cameras publish, from a thread, and keeps the commands; every part can fail."""

    numbers = itertools.count()

    def __init__(self, task: TaskSpec) -> None:
        ros = ros1.start_node("test")
        self.ros, self.task, space = ros, task, f"/fake{next(self.numbers)}"
        names = task.layout.names
        sides = dict.fromkeys(name.partition("_")[0] for name in names)
        arms = {
            side: ArmConfig(
                joints=tuple(name for name in names if name.startswith(f"{side}_")),
                state=f"{space}/puppet/joint_{side}",
                command=f"{space}/master/joint_{side}",
                status=f"{space}/puppet/arm_status_{side}",
            )
            for side in sides
        }
        cameras = {camera: CameraConfig(f"{space}/{camera}/color/image_raw") for camera in task.cameras}
        self.config = RosConfig(arms, cameras, connect_timeout=30.0, watch_interval=0.1, status_timeout=0.5)
        self.position = task.layout.low.astype(float).copy()
        self.image = np.full((*(2 * side for side in task.image_size), 3), 100, np.uint8)
        self.status: dict[str, Any] = {}
        self.silent: set[str] = set()  # topics that are not served
        self.shift = 0.0  # s that stamps lie in the future
        self.commands: dict[str, list[Any]] = {side: [] for side in arms}
        joint, image = ros.sensor_msgs.JointState, ros.sensor_msgs.Image
        status = messages.message_class("piper_msgs/PiperStatusMsg")
        publish = lambda topic, kind: ros.rospy.Publisher(topic, kind, queue_size=5, tcp_nodelay=True)  # noqa: E731
        self._joints = {side: publish(arm.state, joint) for side, arm in arms.items()}
        self._status = {side: publish(str(arm.status), status) for side, arm in arms.items()}
        self._images = {camera: publish(source.topic, image) for camera, source in cameras.items()}
        self._listeners = {
            side: ros.rospy.Subscriber(arm.command, joint, self.commands[side].append) for side, arm in arms.items()
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            stamp = self.ros.rospy.Time.from_sec(time.time() + self.shift)
            for side, arm in self.config.arms.items():
                if arm.state not in self.silent:
                    own = self.position[arm.indices(self.task.layout)]
                    self._joints[side].publish(messages.joint_message(arm.message_names, own, stamp))
                if arm.status not in self.silent:
                    self._status[side].publish(self._status[side].data_class(ctrl_mode=1, **self.status))
            for camera, publisher in self._images.items():
                if self.config.cameras[camera].topic not in self.silent:
                    publisher.publish(messages.encode_image(self.image, stamp, camera))

    def stop_listening(self) -> None:
        """The nodes that take commands are gone."""
        for listener in self._listeners.values():
            listener.unregister()
        self._listeners = {}

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for endpoint in (*self._joints.values(), *self._status.values(), *self._images.values()):
            endpoint.unregister()
        self.stop_listening()


@pytest.fixture
def robot(master: RosMaster) -> Iterator[FakeRobot]:
    """A healthy fake robot."""
    found = FakeRobot(load_task("brick_sorting", "tiny"))
    yield found
    found.close()


@pytest.fixture
def driver(robot: FakeRobot) -> Iterator[RosDriver]:
    """A driver of the fake robot, not connected yet."""
    found = RosDriver(robot.task, robot.config)
    yield found
    found.close()
