"""A fake robot behind real ROS topics, for tests of the driver and benchmarks: it is no model of an arm."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, Literal

import numpy as np

from rise_env.tasks import TaskSpec
from rise_robot.ros import messages, ros1
from rise_robot.ros.config import ArmConfig, CameraConfig, RosConfig
from rise_robot.safety import StopReason

__all__ = ["ROS_FAULTS", "SECOND_COMMANDER", "FakeRosRobot", "RosFault"]

#: A program (for `ChildProcess`) that publishes commands on the topic that is its argument, as node /intruder.
SECOND_COMMANDER = """
import rospy, sensor_msgs.msg, time
rospy.init_node("intruder", disable_signals=True)
publisher = rospy.Publisher(sys.argv[1], sensor_msgs.msg.JointState, queue_size=1)
print("ready", flush=True)
while True:
    time.sleep(1)
"""

type RosFault = Literal[
    "camera is silent", "joints are silent", "status is silent", "arm reports a collision", "nobody listens",
    "camera in the future", "joints in the future", "joints go back in time", "camera without stamps",
    "joints without stamps", "joints are NaN", "images change their size", "images in another encoding",
]  # fmt: skip
#: Why each of them must stop the robot; two reasons where it is chance which rule sees it first.
ROS_FAULTS: dict[RosFault, tuple[StopReason, ...]] = {
    "camera is silent": (StopReason.STALE_CAMERA,),
    "joints are silent": (StopReason.STALE_JOINTS,),
    "status is silent": (StopReason.FAULT,),
    "arm reports a collision": (StopReason.FAULT,),
    "nobody listens": (StopReason.FAULT,),
    "camera in the future": (StopReason.FAULT, StopReason.BAD_STAMP),
    "joints in the future": (StopReason.FAULT, StopReason.BAD_STAMP),
    "joints go back in time": (StopReason.FAULT, StopReason.BAD_STAMP),
    "camera without stamps": (StopReason.FAULT,),
    "joints without stamps": (StopReason.FAULT,),
    "joints are NaN": (StopReason.LINK,),
    "images change their size": (StopReason.LINK,),
    "images in another encoding": (StopReason.LINK,),
}


class FakeRosRobot:
    """Publishes what arms and cameras publish, from a thread, and keeps the commands; every part can fail.

    It does not move: joints are where `position` says. This process must have a ROS master, and becomes a node.

    Args:
        task: Its cameras and joints.

    Attributes:
        config: Topics, for a `RosDriver`.
        position: Joints, float64 (D,), rad and m.
        image: What every camera shows, uint8 (H, W, 3).
        status: Fields of `piper_msgs/PiperStatusMsg` that are not 0.
        silent: Topics that are not served.
        shift: How far stamps lie in the future, by topic or "" for all, s.
        unstamped: Topics whose messages have no stamp.
        encoding: Encoding that images claim to have.
        commands: What arrived, by arm.

    Raises:
        RobotError: If there is no ROS master.
    """

    _numbers = itertools.count()

    def __init__(self, task: TaskSpec) -> None:
        ros = ros1.start_node("test")
        self._ros, self.task, space = ros, task, f"/fake{next(self._numbers)}"
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
        self.silent: set[str] = set()
        self.unstamped: set[str] = set()
        self.shift: dict[str, float] = {}
        self.encoding = "rgb8"
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
            now = time.time()
            for side, arm in self.config.arms.items():
                if arm.state not in self.silent:
                    own = self.position[arm.indices(self.task.layout)]
                    message = messages.joint_message(arm.message_names, own, self._stamp(now, arm.state))
                    self._joints[side].publish(message)
                if arm.status not in self.silent:
                    self._status[side].publish(self._status[side].data_class(ctrl_mode=1, **self.status))
            for camera, publisher in self._images.items():
                topic = self.config.cameras[camera].topic
                if topic not in self.silent:
                    message = messages.encode_image(self.image, self._stamp(now, topic), camera)
                    message.encoding = self.encoding
                    publisher.publish(message)

    def _stamp(self, now: float, topic: str) -> Any:
        seconds = 0.0 if topic in self.unstamped else now + self.shift.get(topic, self.shift.get("", 0.0))
        return self._ros.rospy.Time.from_sec(seconds)

    def fail(self, fault: RosFault) -> None:
        """Let one thing break, as `ROS_FAULTS` names it."""
        arm, (camera, *_) = next(iter(self.config.arms.values())), self.config.cameras.values()
        match fault:
            case "camera is silent":
                self.silent.add(camera.topic)
            case "joints are silent":
                self.silent.add(arm.state)
            case "status is silent":
                self.silent.add(str(arm.status))
            case "arm reports a collision":
                self.status = {"arm_status": 7}
            case "nobody listens":
                self.stop_listening()
            case "camera in the future":
                self.shift[camera.topic] = 100.0
            case "joints in the future":
                self.shift[arm.state] = 100.0
            case "joints go back in time":
                self.shift[arm.state] = -0.18
            case "camera without stamps":
                self.unstamped.add(camera.topic)
            case "joints without stamps":
                self.unstamped.add(arm.state)
            case "joints are NaN":
                self.position[:] = np.nan
            case "images change their size":
                self.image = np.ascontiguousarray(self.image[:-4])
            case "images in another encoding":
                self.encoding = "mono16"

    def stop_listening(self) -> None:
        """The nodes that take commands are gone."""
        for listener in self._listeners.values():
            listener.unregister()
        self._listeners = {}

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()
        for endpoint in (*self._joints.values(), *self._status.values(), *self._images.values()):
            endpoint.unregister()
        self.stop_listening()
