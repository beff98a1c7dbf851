"""The work cell as a ROS node with the topics of a dual Piper, in real time."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from rise_env.errors import ActionError, ConfigError, RobotError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.ros import messages, ros1
from rise_robot.ros.cameras import CameraProcess
from rise_robot.ros.config import RosConfig
from rise_robot.ros.piper_topics import ArmTopics
from rise_robot.ros.realtime import RealTimeCell
from rise_robot.ros.watch import read_graph

__all__ = ["CellNode"]

_LOG = logging.getLogger(__name__)
#: Physics that falls further behind than this lets time slip instead of rushing, s.
_LARGEST_LAG = 0.25
#: Simulated seconds per second below which a warning is due.
_REAL_TIME = 0.98
_REPORT_INTERVAL = 1.0
_PATIENCE = 10.0
_NODE = "rise_cell"


class CellNode:
    """Serves a work cell until `stop` is called.

    Topics of the arms and cameras are those of a dual Piper. Below `config.scene` are besides: the services `reset`
    (std_srvs/Trigger; the seed is the parameter `seed`) and `plan` (a chunk of a scripted policy: parameters `policy`,
    `policy_seed` and `steps`), the latched topic `outcome` (std_msgs/String, JSON: ground truth after every control
    step) and the topic `status` (JSON once per second: how well real time is kept).

    Args:
        task: Task name or YAML path.
        preset: Preset name.
        overrides: Configuration overrides.
        config: Topics and rates.
        image_size: Height and width of the images served.
        supersample: Images are drawn at this multiple of their size and averaged.
        seed: Seed of the first episode.
        remappings: What roslaunch added to the command line.

    Attributes:
        report: The last status; see `status` above.

    Raises:
        ConfigError: If the configuration is wrong.
        RobotError: If ROS or its master is missing, or somebody serves these topics already.
    """

    def __init__(
        self,
        task: str,
        preset: str,
        overrides: Sequence[str],
        config: RosConfig,
        image_size: tuple[int, int] = (480, 640),
        supersample: int = 1,
        seed: int = 0,
        remappings: Sequence[str] = (),
    ) -> None:
        spec, cell_config = load_cell(task, preset, overrides)
        config.check(spec)
        if min(image_size) < 8 or not 1 <= supersample <= 8:
            raise ConfigError("--image-size must be at least 8 8, --supersample 1 to 8")
        if config.scene is None:
            raise ConfigError("this robot has no ros.scene, which the cell needs: choose the robot 'cell' (--robot)")
        self.config, self._scene, self.report = config, config.scene, dict[str, Any]()
        self._ros = ros1.start_node(_NODE, remappings)
        self._refuse_company()
        self._cameras = CameraProcess((task, preset, list(overrides)), config, image_size, supersample)
        self._world = RealTimeCell(WorkCell(spec, cell_config))
        self._stop = threading.Event()
        #: What ROS's threads ask of the physics, and where they wait for the answer.
        self._requests: deque[tuple[Callable[[], str], Future[str]]] = deque()
        self._commands: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._received = self._refused = self._unstamped = 0
        self._delays: deque[float] = deque(maxlen=200)
        self._policies: dict[tuple[str, int], Any] = {}
        self._arms = [ArmTopics(self._world.cell, arm) for arm in config.arms.values()]
        rospy, string = self._ros.rospy, self._ros.std_msgs.String
        self._outcome = rospy.Publisher(f"{self._scene}/outcome", string, queue_size=10, latch=True, tcp_nodelay=True)
        self._status = rospy.Publisher(f"{self._scene}/status", string, queue_size=2, latch=True)
        self._cameras.begin(self._reset(seed))
        self._cameras.wait()
        kind, settings = self._ros.sensor_msgs.JointState, {"queue_size": 5, "tcp_nodelay": True}
        self._endpoints = [
            rospy.Subscriber(arm.command, kind, self._on_command, name, **settings) for name, arm in config.arms.items()
        ]
        self._services = [
            rospy.Service(f"{self._scene}/{name}", self._ros.std_srvs.Trigger, self._handler(prepare))
            for name, prepare in (("reset", self._prepare_reset), ("plan", self._prepare_plan))
        ]

    def stop(self) -> None:
        """Make `run` return. Safe from signal handlers."""
        self._stop.set()

    def close(self) -> None:
        """End cameras and services."""
        self._stop.set()
        for endpoint in self._endpoints:
            endpoint.unregister()
        for service in self._services:
            service.shutdown("the cell ends")
        self._cameras.close()
        self._ros.rospy.signal_shutdown("the cell ends")

    def run(self) -> None:
        """Keep real time until `stop`; RobotError if the cameras fail."""
        world, clock = self._world, time.monotonic
        origin, done, ticks, frames = clock(), 0, 0, 0
        looked, simulated, slipped = origin, 0, 0.0
        while not self._stop.is_set() and not self._ros.rospy.is_shutdown():
            now = clock()
            self._answer_requests()
            self._apply_commands()
            due = int((now - origin) / world.timestep) - done
            if due * world.timestep > _LARGEST_LAG:
                lost = due * world.timestep - _LARGEST_LAG
                origin, slipped = origin + lost, slipped + lost
                due = int((now - origin) / world.timestep) - done
            if world.advance(due):
                self._publish_outcome()
            done, simulated = done + due, simulated + due
            wall, position = time.time(), world.cell.state()
            stamp = self._ros.rospy.Time.from_sec(wall)
            for arm in self._arms:
                arm.publish(stamp, position)
            if now >= origin + frames / self.config.camera_rate:
                frames = int((now - origin) * self.config.camera_rate) + 1
                self._cameras.show(wall, world.cell.physics())
            if now - looked >= _REPORT_INTERVAL:
                self._publish_status(now - looked, simulated * world.timestep, slipped, ticks)
                looked, simulated, slipped, ticks = now, 0, 0.0, 0
            ticks += 1
            # The next multiple of the period that is still to come: a late loop skips, it does not rush.
            period = 1.0 / self.config.joint_rate
            time.sleep(max(0.0, origin + (int((clock() - origin) / period) + 1) * period - clock()))

    def _publish_status(self, seconds: float, simulated: float, slipped: float, ticks: int) -> None:
        factor, delays = simulated / seconds, list(self._delays)
        measured = [round(float(value) * 1e3, 3) for value in np.percentile(delays, (50, 99))] if delays else None
        self.report = {
            "real_time_factor": round(factor, 4),
            "slipped_seconds": round(slipped, 4),
            "joint_rate": round(ticks / seconds, 1),
            "camera_rate": round(self._cameras.sent / seconds, 1),
            "camera_skipped": self._cameras.skipped,
            "camera_seconds": round(self._cameras.seconds, 4),
            "commands": self._received,
            "refused": self._refused,
            "unstamped": self._unstamped,
            "command_ms": measured,
            "episode": self._world.episode,
            "seed": self._world.seed,
        }
        self._cameras.sent = self._cameras.skipped = 0
        self._status.publish(json.dumps(self.report))
        if factor < _REAL_TIME:
            _LOG.warning(
                "real time is not kept: %.2f simulated seconds per second (joints %.0f Hz, cameras %.0f Hz). Serve "
                "smaller images (--image-size 120 160) or leave the cell more of the processor.",
                factor, self.report["joint_rate"], self.report["camera_rate"],
            )  # fmt: skip

    def _on_command(self, message: Any, name: str) -> None:
        arm = self.config.arms[name]
        try:
            position = messages.joint_positions(message, len(arm.joints), f"command on {arm.command}")
        except RobotError as error:
            self._refused += 1
            self._ros.rospy.logwarn_throttle(1.0, str(error))
            return
        self._received += 1
        if (stamp := message.header.stamp.to_sec()) > 0:
            self._delays.append(time.time() - stamp)
        else:
            self._unstamped += 1
        self._commands.append((arm.indices(self._world.cell.spec.layout), position))

    def _apply_commands(self) -> None:
        while self._commands:
            try:
                self._world.set_target(*self._commands.popleft())
            except ActionError as error:
                self._refused += 1
                _LOG.warning("%s", error)

    def _handler(self, prepare: Callable[[], Callable[[], str]]) -> Callable[[Any], Any]:
        """A service: what it needs is read in ROS's thread, the work is done between two physics steps."""

        def handle(_: Any) -> Any:
            answer: Future[str] = Future()
            try:
                self._requests.append((prepare(), answer))
                return self._ros.std_srvs.TriggerResponse(True, answer.result(_PATIENCE))
            except TimeoutError:
                return self._ros.std_srvs.TriggerResponse(False, f"the cell did not answer within {_PATIENCE:g} s")
            except (RobotError, ValueError) as error:  # ConfigError is a ValueError
                return self._ros.std_srvs.TriggerResponse(False, str(error))

        return handle

    def _answer_requests(self) -> None:
        while self._requests:
            work, answer = self._requests.popleft()
            try:
                answer.set_result(work())
            except (RobotError, ValueError) as error:
                answer.set_exception(error)

    def _parameter(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._ros.rospy.get_param(f"{self._scene}/{name}", default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RobotError(f"parameter {self._scene}/{name} is {value!r}, expected {kind.__name__}")
        return value

    def _reset(self, seed: int) -> Any:
        state = self._world.reset(seed)
        self._policies.clear()
        self._commands.clear()
        self._publish_outcome()
        return state

    def _prepare_reset(self) -> Callable[[], str]:
        seed = self._parameter("seed", int)
        if seed < 0:
            raise RobotError(f"seed {seed} is negative")

        def work() -> str:
            self._cameras.begin(self._reset(seed))
            cell = self._world.cell
            answer = {"episode": self._world.episode, "seed": seed, "stamp": time.time()}
            return json.dumps(answer | {"state": cell.state().tolist(), "command": cell.command.tolist()})

        return work

    def _prepare_plan(self) -> Callable[[], str]:
        name, seed = self._parameter("policy", str), self._parameter("policy_seed", int, 0)
        steps = self._parameter("steps", int, self._world.cell.spec.chunk)

        def work() -> str:
            if (name, seed) not in self._policies:
                self._policies[name, seed] = self._world.cell.task.scripted(name, seed)
                self._policies[name, seed].reset()
            policy = self._policies[name, seed]
            chunk = np.asarray(policy.plan(steps), float)
            return json.dumps({"chunk": chunk.tolist(), "intervening": bool(policy.intervening)})

        return work

    def _publish_outcome(self) -> None:
        world = self._world
        episode = {"episode": world.episode, "seed": world.seed, "seconds": world.cell.seconds}
        self._outcome.publish(json.dumps(world.cell.status.outcome() | episode))

    def _refuse_company(self) -> None:
        graph, own = read_graph(), self._ros.rospy.get_name()
        for arm in self.config.arms.values():
            if others := graph.others(arm.state, own):
                raise RobotError(
                    f"{', '.join(others)} publishes {arm.state} already: a robot or another cell is at this master. "
                    "Use another master (rise ros-cell --with-master PORT)."
                )
