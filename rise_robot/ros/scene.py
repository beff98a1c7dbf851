"""The driver's side of a simulated cell: episodes, ground truth, and the scripted policies that see it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np

from rise_env.errors import RobotError
from rise_robot.ros import ros1
from rise_robot.ros.streams import StampClock
from rise_robot.ros.watch import read_graph

__all__ = ["CellScene"]

_TIMEOUT = 10.0  # s


class CellScene:
    """Services and topics of `rise ros-cell` beyond those of a Piper.

    Args:
        namespace: Where they are, for example "/rise_cell".
        clock: Clock for the stamps.
    """

    def __init__(self, namespace: str, clock: StampClock) -> None:
        self._ros = ros1.load()
        self._namespace, self._clock = namespace, clock
        self._outcome: dict[str, Any] = {}
        self._news = threading.Condition()
        self._call = self._ros.rospy.ServiceProxy(f"{namespace}/reset", self._ros.std_srvs.Trigger)
        self._subscriber = self._ros.rospy.Subscriber(
            f"{namespace}/outcome", self._ros.std_msgs.String, self._take, queue_size=10, tcp_nodelay=True
        )

    @classmethod
    def find(cls, namespace: str, clock: StampClock) -> CellScene | None:
        """The scene, where its services are there."""
        return cls(namespace, clock) if f"{namespace}/reset" in read_graph().services else None

    def reset(self, seed: int) -> tuple[float, np.ndarray]:
        """Start the episode of a seed.

        Returns:
            When it began, s on the clock, and the joint targets (D,) that the arms hold.

        Raises:
            RobotError: If the cell does not answer or refuses.
        """
        answer = self._trigger({"seed": int(seed)})
        begun = self._clock.to_steady(answer["stamp"])
        deadline = time.monotonic() + _TIMEOUT
        with self._news:
            while self._outcome.get("episode") != answer["episode"]:
                if not self._news.wait(deadline - time.monotonic()):
                    raise RobotError(f"{self._namespace}/outcome tells nothing of episode {answer['episode']}")
        return begun, np.array(answer["command"], float)

    def outcome(self) -> dict[str, Any]:
        """Ground truth of the present episode, at most one control period old."""
        with self._news:
            found = dict(self._outcome)
        return {key: found[key] for key in ("progress", "score", "is_success", "failure_mode", "finished")}

    def close(self) -> None:
        """Listen no more."""
        self._subscriber.unregister()
        self._call.close()

    def _take(self, message: Any) -> None:
        with self._news:
            self._outcome = json.loads(message.data)
            self._news.notify_all()

    def _trigger(self, parameters: dict[str, Any]) -> dict[str, Any]:
        rospy = self._ros.rospy
        try:
            for name, value in parameters.items():
                rospy.set_param(f"{self._namespace}/{name}", value)
            response = self._call()
        except (rospy.ServiceException, rospy.ROSException, OSError) as error:
            raise RobotError(f"the cell at {self._namespace} does not answer: {error}") from error
        if not response.success:
            raise RobotError(f"the cell at {self._namespace} refuses: {response.message}")
        found: dict[str, Any] = json.loads(response.message)
        return found
