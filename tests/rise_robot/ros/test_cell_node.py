"""`rise ros-cell` through real topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rise_robot.ros as ros_package
from rise_env.errors import ConfigError, RobotError
from rise_robot.cell.env import CellEnv
from rise_robot.config import load_robot
from rise_robot.drivers.base import SceneDriver
from rise_robot.ros import messages, ros1
from rise_robot.ros.cell_node import CellNode
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.config import ros_config
from rise_robot.ros.master import RosMaster
from rise_robot.ros.scene import RosCellDriver

pytestmark = pytest.mark.ros

type Wait = Callable[..., Any]

_ROSLAUNCH = Path(sys.executable).with_name("roslaunch")


def test_a_reset_shows_the_episode_of_its_seed(cell_driver: RosCellDriver) -> None:
    assert isinstance(cell_driver, SceneDriver)
    env = CellEnv(execute=1)
    for seed in (5, 0):
        expected, _ = env.reset(seed=seed)
        still = np.repeat(env.cell.command[None], env.action_space.shape[0], axis=0).astype(np.float32)
        cell_driver.reset_scene(seed)
        seen = cell_driver.observe()
        np.testing.assert_allclose(seen.joints.position, expected["state"], atol=2e-3)
        np.testing.assert_allclose(cell_driver.target(), env.cell.command)
        # The belt has moved on, the farther the busier the machine: one of the next two seconds is what was seen.
        moments = [expected, *(env.step(still)[0] for _ in range(20))]
        for camera, image in seen.images.items():
            # Everything but the belt is the same, to rounding (or JPEG: the right wrist).
            found = (np.abs(image.astype(int) - moment[f"image_{camera}"]) for moment in moments)
            apart = min(found, key=np.mean)
            assert apart.mean() < 1.5, camera
            assert np.median(apart) <= (2 if camera == "right_wrist" else 1), camera
        outcome = cell_driver.outcome()
        assert outcome["score"] == 0.0
        assert outcome["failure_mode"] == "none"
        assert outcome["is_success"] is False
        assert outcome["finished"] is False
        assert 0.0 <= outcome["progress"] < 0.5
    answer = cell_driver._call("reset", seed=0)
    np.testing.assert_array_equal(np.float32(answer["state"]), expected["state"])  # to the last bit
    env.close()


def test_commands_move_the_arm(cell_driver: RosCellDriver, wait_for: Wait) -> None:
    cell_driver.reset_scene(1)
    target = cell_driver.target()
    assert target is not None
    target[[0, 13]] += [0.15, -0.03]
    for _ in range(3):
        cell_driver.tick()
        cell_driver.command(target)
    wait_for(lambda: np.abs(cell_driver.joints().position - target)[[0, 13]].max() < 0.01)
    assert cell_driver.fault() is None


def test_scripted_policies_plan_in_the_cell(cell_driver: RosCellDriver) -> None:
    cell_driver.reset_scene(2)
    expert = cell_driver.scripted("expert", 0)
    expert.reset()
    chunk = expert.plan(5)
    low, high = cell_driver.task.layout.low, cell_driver.task.layout.high
    assert chunk.shape == (5, 14)
    assert ((chunk >= low - 1e-6) & (chunk <= high + 1e-6)).all()
    with pytest.raises(ConfigError, match="no scripted policy 'nobody'"):
        cell_driver.scripted("nobody")
    with pytest.raises(RobotError, match="refuses: parameter /rise_cell/steps is 'many'"):
        cell_driver._call("plan", policy="expert", policy_seed=0, steps="many")
    with pytest.raises(RobotError, match="refuses"):
        cell_driver._call("reset", seed=-1)


def test_topics_are_those_of_a_dual_piper(cell_driver: RosCellDriver, wait_for: Wait) -> None:
    ros, heard = ros1.load(), dict[str, Any]()
    kinds = {
        "/puppet/joint_left": ros.sensor_msgs.JointState,
        "/puppet/arm_status_right": messages.message_class("piper_msgs/PiperStatusMsg"),
        "/puppet/end_pose_left": ros.geometry_msgs.PoseStamped,
        "/puppet/end_pose_euler_left": messages.message_class("piper_msgs/PosCmd"),
        "/camera_f/color/image_raw": ros.sensor_msgs.Image,
        "/rise_cell/status": ros.std_msgs.String,
    }
    subscribers = [
        ros.rospy.Subscriber(topic, kind, lambda found, name: heard.update({name: found}), topic)
        for topic, kind in kinds.items()
    ]
    try:
        wait_for(lambda: set(heard) == set(kinds))
    finally:
        for subscriber in subscribers:
            subscriber.unregister()
    joints = heard["/puppet/joint_left"]
    assert joints.name == [f"joint{i}" for i in range(7)]
    assert len(joints.position) == len(joints.velocity) == len(joints.effort) == 7
    assert joints.velocity[6] == 0.0
    assert 0.0 <= joints.position[6] <= 0.08  # total opening, m
    image = heard["/camera_f/color/image_raw"]
    assert (image.height, image.width, image.encoding, image.step) == (96, 128, "rgb8", 384)
    assert heard["/puppet/arm_status_right"].ctrl_mode == 1
    pose, euler = heard["/puppet/end_pose_left"].pose, heard["/puppet/end_pose_euler_left"]
    assert (pose.position.x, pose.position.z) == pytest.approx((euler.x, euler.z), abs=1e-2)
    assert np.hypot(
        pose.orientation.w, np.linalg.norm([pose.orientation.x, pose.orientation.y, pose.orientation.z])
    ) == (pytest.approx(1.0))
    status = json.loads(heard["/rise_cell/status"].data)
    assert status["real_time_factor"] > 0
    assert status["joint_rate"] > 10
    assert status["camera_rate"] > 1


def test_wrong_commands_are_refused_and_counted(cell_driver: RosCellDriver, wait_for: Wait) -> None:
    ros = ros1.load()
    cell_driver.reset_scene(1)
    before = cell_driver.joints().position
    told = dict[str, Any]()
    listener = ros.rospy.Subscriber("/rise_cell/status", ros.std_msgs.String, lambda m: told.update(json.loads(m.data)))
    wait_for(lambda: told)
    refused, publisher = told["refused"], cell_driver._publishers["left"]
    stamp = ros.rospy.Time.from_sec(time.time())
    # One after the other: a publisher of commands keeps the newest only, so the second could replace the first.
    publisher.publish(messages.joint_message(["a"], np.zeros(3), stamp))
    wait_for(lambda: told["refused"] == refused + 1)
    publisher.publish(messages.joint_message(["a"], np.full(7, np.nan), stamp))
    wait_for(lambda: told["refused"] == refused + 2)
    assert told["unstamped"] == 0
    publisher.publish(messages.joint_message(["a"], before[:7], ros.rospy.Time()))
    wait_for(lambda: told["unstamped"] == 1)
    assert told["command_ms"] is None or max(told["command_ms"]) < 60_000
    listener.unregister()
    np.testing.assert_allclose(cell_driver.joints().position, before, atol=5e-3)


def test_nodes_have_names_that_can_be_found(cell: ChildProcess, master: RosMaster) -> None:
    ros = ros1.load()
    assert ros.rosgraph.Master("/test").lookupNode("/rise_cell")
    assert ros.rosgraph.Master("/test").lookupNode("/rise_cell_cameras")
    assert ros1.free_name("rise_cell") == "rise_cell_2"  # taking a name would end its node
    assert ros1.free_name("nobody") == "nobody"


def test_a_second_cell_at_the_same_master_is_refused(cell: ChildProcess, master: RosMaster) -> None:
    with pytest.raises(RobotError, match="publishes /puppet/joint_left already"):
        CellNode("brick_sorting", "tiny", [], ros_config(load_robot("cell")))


def test_a_robot_without_a_scene_is_no_cell(master: RosMaster) -> None:
    with pytest.raises(ConfigError, match=r"no ros\.scene"):
        CellNode("brick_sorting", "tiny", [], ros_config(load_robot("piper")))


def test_the_command_ends_in_order_and_leaves_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rise_agents.cli.main", "ros-cell", "--with-master", "0", "--image-size", "36", "48"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert lines[0].startswith("ROS master: export ROS_MASTER_URI=http://127.0.0.1:")
    assert lines[1].startswith("ready: brick_sorting as 2 arms")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.skipif(not _ROSLAUNCH.exists(), reason="no roslaunch beside this Python: make ros")
def test_roslaunch_starts_the_cell() -> None:
    package = Path(ros_package.__file__).parent
    with RosMaster() as master:
        settings = {**os.environ, **master.environment, "ROS_PACKAGE_PATH": str(package), "PYTHONUNBUFFERED": "1"}
        launcher = subprocess.Popen(
            [_ROSLAUNCH, "rise_robot", "cell.launch", "height:=36", "width:=48"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=settings,
        )
        try:
            assert launcher.stdout is not None
            said: list[str] = []
            while not (line := launcher.stdout.readline()).startswith("ready: brick_sorting"):
                assert line, said
                said.append(line)
        finally:
            launcher.send_signal(signal.SIGINT)
            launcher.communicate(timeout=40)
        assert launcher.returncode == 0


def test_without_ros_the_command_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['rospy'] = None; from rise_agents.cli.main import main; sys.exit(main(['ros-cell']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "make ros" in done.stderr
