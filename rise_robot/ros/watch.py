"""What the ROS master knows: who publishes, who listens; asked again and again while a robot is driven."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlparse

from rise_env.errors import RobotError
from rise_robot.ros import ros1

__all__ = ["Graph", "MasterWatch", "read_graph"]

_LOG = logging.getLogger(__name__)
_warned: set[str] = set()
#: Time without an answer after which the master counts as gone, s, besides the interval.
_PATIENCE = 3.0


@dataclass(frozen=True)
class Graph:
    """Nodes and topics at one moment.

    Attributes:
        publishers: Names of the nodes that publish, by topic.
        services: Names of the nodes that serve, by service.
        types: Message type by topic.
    """

    publishers: Mapping[str, Sequence[str]]
    services: Mapping[str, Sequence[str]]
    types: Mapping[str, str]

    def others(self, topic: str, node: str) -> list[str]:
        """Living nodes besides `node` that publish on a topic."""
        return sorted(name for name in self.publishers.get(topic, ()) if name != node and _lives(name))

    def published(self, kind: str) -> str:
        """Published topics of a type, as text."""
        names = sorted(t for t, nodes in self.publishers.items() if nodes and self.types.get(t) == kind)
        return ", ".join(names) or "none"


def read_graph() -> Graph:
    """Ask the master; RobotError if it does not answer."""
    ros = ros1.load()
    master = ros.rosgraph.Master("/rise")
    try:
        publishers, _, services = (dict(part) for part in master.getSystemState())
        return Graph(publishers, services, dict(master.getTopicTypes()))
    except (OSError, ros.rosgraph.MasterException) as error:
        raise RobotError(f"the ROS master at {ros1.master_uri()} does not answer ({error})") from error


def _lives(node: str) -> bool:
    """Whether a registered node is still there: one that was killed stays registered, but refuses connections."""
    ros = ros1.load()
    try:
        found = urlparse(ros.rosgraph.Master("/rise").lookupNode(node))
        socket.create_connection((found.hostname, found.port), timeout=1.0).close()
    except ConnectionRefusedError:
        if node not in _warned:
            _warned.add(node)
            _LOG.warning("node %s is registered but dead (rosnode cleanup removes it)", node)
        return False
    except (OSError, ros.rosgraph.MasterException):
        return True  # nobody knows: be careful
    return True


class MasterWatch:
    """Asks the master from a thread of its own, so that one that hangs stops nobody.

    Args:
        commands: Topics on which nobody but `node` may publish.
        node: Name of our node.
        interval: Time between two questions, s.
    """

    def __init__(self, commands: Sequence[str], node: str, interval: float) -> None:
        self._commands, self._node, self._interval = list(commands), node, interval
        self._fault: str | None = None
        self._answered = time.monotonic()
        self._stop = threading.Event()
        self._master = ros1.master_pid()
        self._thread = threading.Thread(target=self._run, name="ros-master-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def fault(self) -> str | None:
        """What is wrong, in words."""
        silent = time.monotonic() - self._answered
        if self._fault is None and silent > self._interval + _PATIENCE:
            return f"the ROS master at {ros1.master_uri()} has not answered for {silent:.1f} s"
        return self._fault

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._fault = self._look()
            self._answered = time.monotonic()

    def _look(self) -> str | None:
        try:
            graph = read_graph()
        except RobotError as error:
            return str(error)
        if (found := ros1.master_pid()) != self._master:
            what = "does not answer" if found is None else "is another one than at the start"
            return f"the ROS master at {ros1.master_uri()} {what}"
        for topic in self._commands:
            if others := graph.others(topic, self._node):
                return f"{', '.join(others)} publishes on {topic} as well: two would steer one arm"
        return None
