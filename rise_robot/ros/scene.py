"""The work cell behind ROS as a robot with ground truth: episodes by seed, outcomes, scripted policies."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np

from rise_env.errors import ConfigError, RobotError
from rise_env.tasks import TaskSpec
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.ros import ros1
from rise_robot.ros.config import RosConfig
from rise_robot.ros.driver import RosDriver
from rise_robot.ros.watch import read_graph

__all__ = ["RosCellDriver"]


class RosCellDriver(RosDriver):
    """A `SceneDriver` over the node of `rise ros-cell`, which `config.scene` names."""

    scripted_in_thread = True  # they plan in the cell's process

    def __init__(self, task: TaskSpec, config: RosConfig, scripted_policies: tuple[str, ...] = ()) -> None:
        super().__init__(task, config)
        if config.scene is None:
            raise ConfigError("ros.scene is not set: it names the cell, for example /rise_cell")
        self.scripted_policies = scripted_policies
        self._space = config.scene
        self._latest: dict[str, Any] = {}
        self._news = threading.Condition()

    def reset_scene(self, seed: int) -> None:
        """Start the episode that `CellEnv.reset(seed=seed)` starts, and wait until all that arrives is of it;
        RobotError if the cell does not answer.
        """
        self._require_connection()
        answer = self._call("reset", seed=int(seed))
        begun, deadline = self._clock.to_steady(answer["stamp"]), time.monotonic() + self.config.connect_timeout
        with self._news:
            while self._latest.get("episode") != answer["episode"]:
                if not self._news.wait(deadline - time.monotonic()):
                    raise RobotError(f"{self._space}/outcome says nothing of episode {answer['episode']}")
        streams = [*self._images.values(), *self._joints.values()]
        while late := [s.topic for s in streams if (found := s.newest()) is None or found.stamp < begun]:
            if time.monotonic() > deadline:
                raise RobotError(f"after the reset of the cell nothing new arrived on {', '.join(late)}")
            time.sleep(0.002)
        self._target = np.array(answer["command"], float)
        self._pacer.restart()

    def outcome(self) -> dict[str, Any]:
        """Ground truth of the present episode, at most one control period old."""
        self._require_connection()
        with self._news:
            found = dict(self._latest)
        if not found:
            raise RobotError(f"nothing has arrived on {self._space}/outcome yet")
        return {key: found[key] for key in ("progress", "score", "is_success", "failure_mode", "finished")}

    def scripted(self, name: str, seed: int = 0) -> ScriptedPolicy:
        """A policy that sees the ground truth, e.g. "expert"; it plans in the cell's process. ConfigError if there is
        none.
        """
        if name not in self.scripted_policies:
            known = ", ".join(self.scripted_policies) or "none"
            raise ConfigError(f"the cell has no scripted policy {name!r}. Known: {known}.")
        return _Remote(self, name, seed)

    def _connected(self) -> None:
        ros, services = self._require_connection(), read_graph().services
        if missing := [name for name in ("reset", "plan") if f"{self._space}/{name}" not in services]:
            raise RobotError(
                f"no service {self._space}/{missing[0]}: is `rise ros-cell` running at {ros1.master_uri()}? For a real "
                "robot choose another one than 'cell' (--robot piper)."
            )
        topic, kind, settings = f"{self._space}/outcome", ros.std_msgs.String, {"queue_size": 10, "tcp_nodelay": True}
        self._subscribers.append(ros.rospy.Subscriber(topic, kind, self._on_outcome, **settings))

    def _on_outcome(self, message: Any) -> None:
        with self._news:
            self._latest = json.loads(message.data)
            self._news.notify_all()

    def _call(self, service: str, **parameters: Any) -> dict[str, Any]:
        """Set the parameters, call the service and return its answer."""
        ros = self._require_connection()
        rospy = ros.rospy
        try:
            for name, value in parameters.items():
                rospy.set_param(f"{self._space}/{name}", value)
            response = rospy.ServiceProxy(f"{self._space}/{service}", ros.std_srvs.Trigger)()
        except (rospy.ServiceException, rospy.ROSException, OSError) as error:
            raise RobotError(f"the cell at {self._space} does not answer: {error}") from error
        if not response.success:
            raise RobotError(f"the cell at {self._space} refuses: {response.message}")
        return dict(json.loads(response.message))


class _Remote(ScriptedPolicy):
    """A scripted policy in the cell's process; it begins anew with every episode there."""

    def __init__(self, driver: RosCellDriver, name: str, seed: int) -> None:
        self._driver, self.name, self._seed = driver, name, seed

    def plan(self, horizon: int) -> np.ndarray:
        """Ask the cell, (horizon, D) float64."""
        answer = self._driver._call("plan", policy=self.name, policy_seed=self._seed, steps=int(horizon))
        self.intervening = bool(answer["intervening"])
        return np.array(answer["chunk"], float)
