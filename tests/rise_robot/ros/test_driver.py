"""The driver against real ROS topics of a stand-in robot whose parts fail one after the other."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rise_env.errors import ConfigError, LayoutError, RobotError
from rise_env.tasks import load_task
from rise_robot.config import RobotConfig, load_robot
from rise_robot.drivers.base import Driver, SceneDriver
from rise_robot.drivers.ros import make_driver
from rise_robot.ros import ros1
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.config import ros_config
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.master import RosMaster
from rise_robot.ros.testing import ROS_FAULTS, SECOND_COMMANDER, FakeRosRobot, RosFault
from rise_robot.session import RobotSession

pytestmark = pytest.mark.ros

type Wait = Callable[..., Any]


def test_the_constructor_opens_nothing(master: RosMaster) -> None:
    driver = make_driver("brick_sorting", "tiny", [], load_robot("piper"))
    assert isinstance(driver, Driver)
    assert not isinstance(driver, SceneDriver)
    for call in (driver.observe, driver.joints, driver.camera_stamps, lambda: driver.command(np.zeros(14))):
        with pytest.raises(RobotError, match="not connected"):
            call()
    driver.hold()  # must not raise
    assert "not connected" in str(driver.fault())
    driver.close()


def test_the_cell_is_a_robot_with_a_scene() -> None:
    assert isinstance(make_driver("brick_sorting", "tiny", [], load_robot("cell")), SceneDriver)


def test_observation(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    robot.position[:] = np.linspace(0.0, 0.02, 14)
    driver.connect()
    driver.connect()  # twice is fine
    wait_for(lambda: np.allclose(driver.joints().position, robot.position, atol=1e-6))
    seen = driver.observe()
    assert {name: image.shape for name, image in seen.images.items()} == dict.fromkeys(robot.task.cameras, (36, 48, 3))
    assert all((image == 100).all() and image.dtype == np.uint8 for image in seen.images.values())
    assert seen.joints.position.dtype == np.float32
    assert set(seen.stamps) == set(driver.camera_stamps()) == set(robot.task.cameras)
    assert seen.stamp <= driver.now()
    assert driver.fault() is None
    assert driver.target() is None


def test_what_was_published_together_is_found_together(driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()

    def together() -> bool:
        seen = driver.observe()
        return max(abs(stamp - seen.joints.stamp) for stamp in seen.stamps.values()) < 1e-3

    # Not at once: a subscriber may have missed the round of messages that is another camera's newest.
    wait_for(together)


def test_command_hold_and_close(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()
    target = np.linspace(0.0, 0.05, 14)
    driver.command(target)
    wait_for(lambda: robot.commands["left"] and robot.commands["right"])
    left, right = robot.commands["left"][0], robot.commands["right"][0]
    assert left.name == ["joint0", "joint1", "joint2", "joint3", "joint4", "joint5", "joint6"]
    np.testing.assert_array_equal([*left.position, *right.position], target)
    assert left.header.stamp == right.header.stamp
    assert abs(left.header.stamp.to_sec() - time.time()) < 60
    np.testing.assert_array_equal(driver.target(), target)
    driver.hold()
    wait_for(lambda: len(robot.commands["right"]) == 2)
    assert robot.commands["right"][1].position == right.position
    driver.close()
    wait_for(lambda: len(robot.commands["right"]) == 3)  # closing holds once more
    assert robot.commands["right"][2].position == right.position
    driver.close()
    driver.hold()
    time.sleep(0.05)
    assert len(robot.commands["right"]) == 3


def test_hold_before_any_command_is_the_measured_position(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    robot.position[:] = 0.01
    driver.connect()
    wait_for(lambda: np.allclose(driver.joints().position, 0.01))
    driver.hold()
    wait_for(lambda: robot.commands["left"])
    np.testing.assert_allclose(robot.commands["left"][0].position, 0.01, atol=1e-6)


def test_a_driver_that_sent_nothing_closes_silently(robot: Any, driver: RosDriver) -> None:
    driver.connect()
    driver.close()
    time.sleep(0.1)
    assert robot.commands == {"left": [], "right": []}


@pytest.mark.parametrize("bad", [np.full(14, np.nan), np.zeros(13)])
def test_nonsense_is_not_sent(robot: Any, driver: RosDriver, bad: np.ndarray) -> None:
    driver.connect()
    with pytest.raises(RobotError, match="nothing was sent"):
        driver.command(bad)
    time.sleep(0.05)
    assert robot.commands["left"] == []


def refusal(robot: Any, wait_for: Wait, complete: Callable[[str], bool]) -> str:
    """Why no driver connects, once everything else has had the time to arrive."""
    for seconds in (1.0, 4.0, 16.0):
        with pytest.raises(RobotError) as caught:
            RosDriver(robot.task, dataclasses.replace(robot.config, connect_timeout=seconds)).connect()
        # A subscriber that has not noticed yet that the last publisher left takes the next one of this process for it.
        wait_for(lambda: not any(listener.get_num_connections() for listener in robot._listeners.values()))
        if complete(str(caught.value)):
            break
    return str(caught.value)


def test_a_missing_camera_is_named_and_so_is_what_there_is(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    topics = [camera.topic for camera in robot.config.cameras.values()]
    robot.silent.add(topics[1])
    told = refusal(robot, wait_for, lambda told: f"no message on {topics[0]}" not in told)
    assert f"no message on {topics[1]}" in told
    assert topics[0] in told.split("Images are published on")[1]
    assert robot.config.arms["left"].state in told
    robot.silent.clear()
    driver.connect()  # what failed before left nothing behind


def test_nobody_listens(robot: Any, wait_for: Wait) -> None:
    robot.stop_listening()
    assert re.search(
        "nobody listens to .*/master/joint_left", refusal(robot, wait_for, lambda told: "nobody listens" in told)
    )


def test_a_second_publisher_is_refused_and_noticed(
    robot: Any, driver: RosDriver, master: RosMaster, wait_for: Wait
) -> None:
    driver.connect()
    topic = robot.config.arms["right"].command
    intruder = ChildProcess(SECOND_COMMANDER, [topic], master.environment, "intruder")
    try:
        found = str(wait_for(driver.fault))
        assert "/intruder publishes on " + topic in found
        with pytest.raises(RobotError, match=r"/intruder publishes on .*/master/joint_right: two would steer"):
            RosDriver(robot.task, robot.config).connect()
        intruder.kill()  # it stays registered, but nobody is there
        wait_for(lambda: driver.fault() is None)
        other = RosDriver(robot.task, robot.config)
        other.connect()
        other.close()
    finally:
        intruder.stop()


def test_a_camera_that_stops_is_seen_by_its_stamp(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()
    robot.silent.add(robot.config.cameras["head"].topic)
    time.sleep(0.1)
    last = driver.camera_stamps()["head"]
    others = wait_for(lambda: (s := driver.camera_stamps())["left_wrist"] > last + 0.2 and s)
    assert others["head"] == last
    seen = driver.observe()
    assert seen.stamp == pytest.approx(last, abs=0.05)  # the slowest camera decides which moment is shown
    assert seen.stamps["left_wrist"] == pytest.approx(last, abs=0.05)
    assert driver.joints().stamp > last + 0.1


def test_joints_that_stop_are_seen_by_their_stamp(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()
    robot.silent.add(robot.config.arms["right"].state)
    time.sleep(0.1)
    last = driver.joints().stamp
    wait_for(lambda: driver.now() > last + 0.3)
    assert driver.joints().stamp == last


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"arm_status": 7}, "arm_status 7 .collision."),
        ({"err_code": 0x10}, "err_code 0x10"),
        ({"communication_status_joint_3": True}, "no communication with joint 3"),
    ],
)
def test_what_an_arm_reports_is_a_fault(
    robot: Any, driver: RosDriver, status: dict[str, Any], words: str, wait_for: Wait
) -> None:
    driver.connect()
    assert driver.fault() is None
    robot.status = status
    assert re.search(f"arm (left|right): .*{words}", wait_for(driver.fault))


def test_a_silent_arm_is_a_fault(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()
    robot.silent.add(robot.config.arms["left"].status)
    assert "no status on" in wait_for(driver.fault)


def test_an_arm_node_that_goes_away_is_a_fault(robot: Any, driver: RosDriver, wait_for: Wait) -> None:
    driver.connect()
    robot.stop_listening()
    assert "its node is gone" in wait_for(driver.fault)


def test_zeros_before_the_arm_has_reported_are_no_pose(robot: Any, wait_for: Wait) -> None:
    pose = robot.position.copy()
    robot.position[:] = 0.0
    zeros = "puppet/joint_left: all joints are exactly 0, which its node also says"
    assert zeros in refusal(robot, wait_for, lambda told: zeros in told)
    robot.position[:] = pose
    driver = RosDriver(robot.task, robot.config)  # with all the time that a busy machine may take
    driver.connect()
    np.testing.assert_allclose(driver.joints().position, pose, atol=1e-6)
    robot.position[:] = 0.0  # an arm that moves there is believed
    wait_for(lambda: not driver.joints().position.any())
    driver.close()


def test_clocks_that_disagree_are_refused(robot: Any, driver: RosDriver) -> None:
    robot.shift[""] = 5.0
    with pytest.raises(RobotError, match="in the future: the clocks"):
        driver.connect()


def test_an_image_that_cannot_be_read_names_its_topic(robot: Any, driver: RosDriver) -> None:
    robot.image = np.zeros((8, 8, 3), np.uint8)
    driver.connect()
    stream = driver._images["head"]
    wrong = stream.newest().message  # type: ignore[union-attr]
    wrong.encoding = "mono8"
    for _ in range(12):
        stream.put(driver.now(), wrong)
    with pytest.raises(RobotError, match="/head/color/image_raw: image has encoding 'mono8'"):
        driver.observe()


def test_without_a_master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("ROS_IP", "127.0.0.1")
    begun = time.monotonic()
    with pytest.raises(RobotError, match=r"no ROS master at http://127\.0\.0\.1:9"):
        make_driver("brick_sorting", "tiny", [], load_robot("piper")).connect()
    assert time.monotonic() - begun < 30


def test_a_process_keeps_its_master(driver: RosDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.connect()
    driver.close()
    with RosMaster() as other:
        monkeypatch.setenv("ROS_MASTER_URI", other.uri)
        with pytest.raises(RobotError, match="start this program again"):
            driver.connect()


_MASTER_DIES = """
import os, time
from rise_robot.ros.master import RosMaster
master = RosMaster()
os.environ |= master.environment
sys.path.insert(0, sys.argv[1])
from conftest import patiently
from rise_env.tasks import load_task
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.testing import FakeRosRobot
robot = FakeRosRobot(load_task("brick_sorting", "tiny"))
driver = RosDriver(robot.task, robot.config)
driver.connect()
driver.command(robot.position)
assert driver.fault() is None
master.kill()
print("ready", patiently(driver.fault), flush=True)
driver.hold()  # commands still reach the arm
patiently(lambda: len(robot.commands["left"]) >= 2)
driver.close()
master.close()
os._exit(0)
"""


def test_a_master_that_dies_is_a_fault(wait_for: Wait) -> None:
    process = ChildProcess(_MASTER_DIES, [str(Path(__file__).parent)], name="robot", timeout=300)
    try:
        assert "ROS master" in process.ready
        assert "not answer" in process.ready
        wait_for(lambda: not process.running(), 30.0)
        assert process._process.returncode == 0
    finally:
        process.stop()


@pytest.mark.parametrize("fault", ROS_FAULTS)
def test_every_fault_stops_the_robot(robot: FakeRosRobot, driver: RosDriver, fault: RosFault) -> None:
    session = RobotSession(driver, RobotConfig("fake", robot.task.layout.name))
    session.connect()
    session.begin()
    assert session.observe() is not None
    assert session.tick(robot.position.copy()) is not None
    robot.fail(fault)
    deadline = time.monotonic() + 20
    while session.stop is None and time.monotonic() < deadline:
        session.observe()
        session.tick(None)
    assert session.stop is not None
    assert session.stop.reason in ROS_FAULTS[fault], session.stop.detail


def test_importing_the_driver_needs_no_ros() -> None:
    code = "import sys; sys.modules['rospy'] = None; import rise_robot.ros.driver, rise_robot.ros.ros1 as r; r.load()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "RobotError" in done.stderr
    assert "make ros" in done.stderr


def test_arms_and_cameras_are_compared_with_the_task() -> None:
    task, config = load_task("brick_sorting", "tiny"), ros_config(load_robot("piper"))
    with pytest.raises(LayoutError, match="exactly one arm"):
        RosDriver(task, dataclasses.replace(config, arms={"left": config.arms["left"]}))
    with pytest.raises(ConfigError, match="no topic for camera head"):
        RosDriver(task, dataclasses.replace(config, cameras={"left_wrist": config.cameras["left_wrist"]}))


def test_ros_is_imported_where_it_was_unpacked() -> None:
    assert ros1.available()
    assert ros1.load() is ros1.load()
