"""A robot behind ROS 1 topics, by default two Piper arms with three cameras, as a `Driver`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rise_env.errors import RobotError
from rise_env.tasks import TaskSpec
from rise_robot.drivers.base import JointSample, Observation
from rise_robot.pacing import Pacer
from rise_robot.ros import messages, ros1
from rise_robot.ros.config import ArmConfig, RosConfig
from rise_robot.ros.streams import StampClock, Stamped, Stream, matching
from rise_robot.ros.watch import Graph, MasterWatch, read_graph

__all__ = ["RosDriver"]

_LOG = logging.getLogger(__name__)
#: Messages kept per stream: enough to find, for the slowest camera's moment, what the others saw then.
_KEPT_IMAGES, _KEPT_JOINTS = 12, 400


def _measured(message: Any) -> bool:
    """Whether a joint state was measured: a Piper's node publishes zeros until the arm has reported."""
    return any(message.position)


class RosDriver:
    """Arms and cameras over ROS.

    Nothing is opened before `connect`. One process can be one ROS node, so drivers of one process share a node and a
    master. Where `rise ros-cell` serves the topics, `rise_robot.ros.scene.RosCellDriver` adds scene and ground truth.

    Raises:
        LayoutError: If the arms do not hold the joints of the task's layout.
        ConfigError: If a camera of the task has no topic.
    """

    name = "ros"
    real_time = True

    def __init__(self, task: TaskSpec, config: RosConfig) -> None:
        config.check(task)
        self.task, self.config = task, config
        self._arms = {name: arm.indices(task.layout) for name, arm in config.arms.items()}
        self._clock = StampClock()
        self._pacer = Pacer(1.0 / task.fps)
        self._images: dict[str, Stream] = {}
        self._joints: dict[str, Stream] = {}
        self._status: dict[str, Stream] = {}
        self._subscribers: list[Any] = []
        self._publishers: dict[str, Any] = {}
        self._watch: MasterWatch | None = None
        self._target: np.ndarray | None = None
        self._sent = False
        self._ros: ros1.Ros | None = None
        self._sizes: dict[str, tuple[int, ...]] = {}  # of the images, as they were at first

    def connect(self) -> None:
        """Subscribe, advertise, and wait for the first message of everything. Nothing moves.

        Raises:
            RobotError: If there is no master, something does not arrive, nobody listens to the commands, somebody else
                commands, or clocks disagree.
        """
        if self._ros is not None:
            return
        self._ros = ros = ros1.start_node(self.config.node)
        try:
            if ros.rospy.get_param("/use_sim_time", False):
                raise RobotError(
                    "/use_sim_time is true: stamps are not those of a clock. Set it to false (rosparam set "
                    "/use_sim_time false) and start the nodes again."
                )
            self._refuse_company(read_graph())
            self._open(ros)
            self._wait_for_everything()
            commands = [arm.command for arm in self.config.arms.values()]
            self._watch = MasterWatch(commands, ros.rospy.get_name(), self.config.watch_interval)
            self._connected()
        except BaseException:
            self._shut()
            raise
        self._pacer.restart()

    def close(self) -> None:
        """Hold where commands were sent, then unsubscribe. Motors stay on."""
        if self._ros is None:
            return
        if self._sent:
            self.hold()
        self._shut()

    def _open(self, ros: ros1.Ros) -> None:
        self._clock = StampClock()
        config, image, joints = self.config, ros.sensor_msgs.Image, ros.sensor_msgs.JointState
        for camera in self.task.cameras:
            source = config.cameras[camera]
            kind = image if source.kind == "image" else ros.sensor_msgs.CompressedImage
            self._images[camera] = self._subscribe(ros, source.topic, kind, _KEPT_IMAGES)
        for name, arm in config.arms.items():
            self._joints[name] = self._subscribe(ros, arm.state, joints, _KEPT_JOINTS, accept=_measured)
            if arm.status is not None:
                kind = messages.message_class("piper_msgs/PiperStatusMsg")
                self._status[name] = self._subscribe(ros, arm.status, kind, 1, stamped=False)
            self._publishers[name] = ros.rospy.Publisher(arm.command, joints, queue_size=1, tcp_nodelay=True)

    def _subscribe(
        self, ros: ros1.Ros, topic: str, kind: Any, length: int, stamped: bool = True, accept: Any = None
    ) -> Stream:
        stream = Stream(topic, self._clock, length, accept)
        take: Callable[[Any], None] = stream.push if stamped else lambda found: stream.put(self._clock.now(), found)
        # A buffer smaller than a message makes rospy fall behind for ever.
        settings = {"queue_size": 10, "buff_size": 2**24, "tcp_nodelay": True}
        self._subscribers.append(ros.rospy.Subscriber(topic, kind, take, **settings))
        return stream

    def _refuse_company(self, graph: Graph) -> None:
        assert self._ros is not None
        for arm in self.config.arms.values():
            if others := graph.others(arm.command, self._ros.rospy.get_name()):
                raise RobotError(
                    f"{', '.join(others)} publishes on {arm.command}: two would steer one arm. Stop that node (an arm "
                    "node started as leader, with the other `mode`, or another controller). See docs/ros.md on modes."
                )

    def _wait_for_everything(self) -> None:
        streams = [*self._images.values(), *self._joints.values(), *self._status.values()]
        deadline = time.monotonic() + self.config.connect_timeout

        def silent() -> list[Stream]:
            return [stream for stream in streams if stream.newest() is None]

        def unheard() -> list[str]:
            arms = self.config.arms
            return [arms[name].command for name, p in self._publishers.items() if p.get_num_connections() == 0]

        while silent() or unheard():
            if time.monotonic() > deadline:
                raise RobotError(self._missing(silent(), unheard()))
            time.sleep(0.01)
        for stream in streams:
            if stream.ahead > self.config.clock_tolerance:
                raise RobotError(
                    f"stamps on {stream.topic} lie {stream.ahead:.3f} s in the future: the clocks of the machines "
                    "disagree. Let one be the time server of the other (chrony)."
                )
        self.observe()  # formats and sizes are right

    def _missing(self, silent: Sequence[Stream], unheard: Sequence[str]) -> str:
        graph = read_graph()
        lines = [f"the robot is not complete after {self.config.connect_timeout:g} s:"]
        for stream in silent:
            nodes = ", ".join(graph.publishers.get(stream.topic, ()))
            if stream.unstamped:
                why = "its messages have no stamp"
            elif stream.refused:
                why = (
                    "all joints are exactly 0, which its node also says before the arm has reported: check the arm's "
                    "power and CAN; an arm that really stands there must be moved a little by hand"
                )
            elif nodes:
                why = f"published by {nodes} as {graph.types.get(stream.topic)}, but nothing that fits arrives"
            else:
                why = "nobody publishes it"
            lines.append(f"  no message on {stream.topic}: {why}")
        lines += [
            f"  nobody listens to {topic}: start the arm nodes in the mode that takes commands (docs/ros.md)"
            for topic in unheard
        ]
        lines.append(f"Images are published on: {graph.published('sensor_msgs/Image')}")
        lines.append(f"Joint states are published on: {graph.published('sensor_msgs/JointState')}")
        lines.append("Other names belong into section 'ros' of the robot's YAML file.")
        return "\n".join(lines)

    def _connected(self) -> None:
        """What a kind of robot does once everything has arrived."""
        if any(name.endswith("/rise_cell/reset") for name in read_graph().services):
            _LOG.warning(
                "this is the simulated cell (rise ros-cell), driven as if it were a robot. For its ground truth and "
                "resets choose the robot 'cell' (--robot cell)."
            )

    def _shut(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for endpoint in (*self._subscribers, *self._publishers.values()):
            endpoint.unregister()
        self._subscribers, self._publishers, self._watch, self._sizes = [], {}, None, {}
        self._images, self._joints, self._status = {}, {}, {}
        self._target, self._sent, self._ros = None, False, None

    def now(self) -> float:
        """This process's monotonic clock, s."""
        return self._clock.now()

    def observe(self) -> Observation:
        """Images and joints of the moment of the slowest camera; RobotError if one is missing or cannot be read."""
        self._require_connection()
        found = matching(self._images, {f"arm {name}": stream for name, stream in self._joints.items()})
        if found is None:
            raise RobotError("there is no complete observation yet: connect() first")
        images = {}
        for camera, stream in self._images.items():
            message = found[camera].message
            compressed = self.config.cameras[camera].kind == "compressed"
            try:
                image = messages.decode_compressed(message) if compressed else messages.decode_image(message)
            except RobotError as error:
                raise RobotError(f"{stream.topic}: {error}") from error
            first = self._sizes.setdefault(camera, image.shape[:2])
            if image.shape[:2] != first:
                raise RobotError(
                    f"images on {stream.topic} are {image.shape[0]} x {image.shape[1]} now, they were {first[0]} x "
                    f"{first[1]} at the start: somebody changed the camera's settings. Start again."
                )
            images[camera] = messages.resize(image, self.task.image_size)
        joints = self._sample({name: found[f"arm {name}"] for name in self._joints})
        return Observation(images, joints, {camera: found[camera].stamp for camera in self._images})

    def joints(self) -> JointSample:
        """The newest joint state of both arms; its stamp is that of the older one."""
        return self._sample(self._newest(self._joints, "joint state"))

    def camera_stamps(self) -> Mapping[str, float]:
        """When the newest image of every camera was taken, s."""
        return {camera: found.stamp for camera, found in self._newest(self._images, "image").items()}

    def _newest(self, streams: Mapping[str, Stream], what: str) -> dict[str, Stamped]:
        self._require_connection()
        newest = {name: stream.newest() for name, stream in streams.items()}
        if missing := [streams[name].topic for name, found in newest.items() if found is None]:
            raise RobotError(f"no {what} on {', '.join(missing)} yet")
        return {name: found for name, found in newest.items() if found is not None}

    def _sample(self, found: Mapping[str, Stamped]) -> JointSample:
        position = np.zeros(self.task.layout.dim, np.float32)
        for name, stamped in found.items():
            indices, where = self._arms[name], f"joint state on {self._joints[name].topic}"
            position[indices] = messages.joint_positions(stamped.message, len(indices), where)
        return JointSample(position, min(stamped.stamp for stamped in found.values()))

    def target(self) -> np.ndarray | None:
        """The last joint targets sent; None before the first."""
        return None if self._target is None else self._target.copy()

    def command(self, target: np.ndarray) -> None:
        """Publish joint targets to every arm; RobotError if they are not (D,) finite numbers or cannot be sent."""
        ros = self._require_connection()
        target = np.asarray(target, np.float64)
        if target.shape != (self.task.layout.dim,) or not np.isfinite(target).all():
            raise RobotError(f"joint target {target} is not ({self.task.layout.dim},) finite numbers; nothing was sent")
        stamp = ros.rospy.Time.from_sec(time.time())
        try:
            for name, arm in self.config.arms.items():
                own = target[self._arms[name]]
                self._publishers[name].publish(messages.joint_message(arm.message_names, own, stamp))
        except ros.rospy.ROSException as error:
            raise RobotError(f"the command could not be published: {error}") from error
        self._target, self._sent = target.copy(), True

    def hold(self) -> None:
        """Send the last targets again, or, where none were sent, the measured joints."""
        try:
            self.command(self.joints().position if self._target is None else self._target)
        except RobotError as error:  # the arm holds its last target by itself
            _LOG.error("the hold command could not be sent: %s", error)

    def tick(self) -> None:
        """Wait for the next control period."""
        self._pacer.wait()

    def fault(self) -> str | None:
        """What is wrong with arms, clocks, listeners or the master."""
        if self._ros is None:
            return "the robot is not connected"
        if self._ros.rospy.is_shutdown():
            return "the ROS node was shut down"
        if self._clock.jump:
            return f"the time of day jumped by {self._clock.jump:+.3f} s: stamps before and after it do not compare"
        if self._watch is not None and (found := self._watch.fault()):
            return found
        for name, arm in self.config.arms.items():
            if found := self._arm_fault(name, arm):
                return f"arm {name}: {found}"
        for stream in (*self._images.values(), *self._joints.values()):
            if stream.ahead > self.config.clock_tolerance:
                return f"stamps on {stream.topic} lie {stream.ahead:.3f} s in the future"
            if stream.back > self.config.clock_tolerance:
                return f"stamps on {stream.topic} went back by {stream.back:.3f} s: a clock was set, or it is replayed"
            if stream.without_stamp:
                return f"messages on {stream.topic} have no stamp any more: how old they are cannot be told"
        return None

    def _arm_fault(self, name: str, arm: ArmConfig) -> str | None:
        if self._publishers[name].get_num_connections() == 0:
            return f"nobody listens to {arm.command} any more: its node is gone"
        if name not in self._status:
            return None
        newest = self._status[name].newest()
        if newest is None:
            return None
        age = self.now() - newest.arrival
        if age > self.config.status_timeout:
            return f"no status on {arm.status} for {age:.1f} s"
        return messages.status_words(newest.message)

    def counts(self) -> dict[str, dict[str, float]]:
        """Messages, lost ones, longest gap (s) and delay from stamp to arrival (s) per topic since `connect`."""
        found = {}
        for stream in (*self._images.values(), *self._joints.values()):
            p50, p99 = np.percentile(list(stream.delays) or [np.nan], (50, 99)).tolist()
            counted = {"messages": stream.count, "lost": stream.lost, "longest_gap": stream.gap}
            found[stream.topic] = counted | {"delay_p50": p50, "delay_p99": p99}
        return found

    def _require_connection(self) -> ros1.Ros:
        if self._ros is None:
            raise RobotError("the robot is not connected: call connect() first")
        return self._ros
