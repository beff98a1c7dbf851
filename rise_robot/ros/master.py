"""A ROS master of our own: for tests, for benchmarks, and for `rise ros-cell --with-master`."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile

from rise_env.errors import RobotError
from rise_robot.closing import Closing
from rise_robot.ros import ros1
from rise_robot.ros.children import ChildProcess

__all__ = ["RosMaster"]

_CODE = """
import rosmaster.master, time
master = rosmaster.master.Master(int(sys.argv[1]), 3)
master.start()
print("ready", master.uri, flush=True)
while master.ok():
    time.sleep(0.1)
"""


class RosMaster(Closing):
    """A ROS master in a process of its own, reachable from this machine alone; ready when it is made; 0 is a free port.

    Attributes:
        uri: Its address, for ROS_MASTER_URI.
        environment: Environment variables for nodes that are to use it; their logs go where it has its own.

    Raises:
        RobotError: If ROS is missing or the port is taken.

    Example:
        >>> with RosMaster() as master:  # doctest: +SKIP
        ...     os.environ |= master.environment
    """

    def __init__(self, port: int = 0) -> None:
        ros1.load()
        if port:
            _require_free(port)
        self._home = tempfile.mkdtemp(prefix="rise-ros-")
        self.environment = {
            "ROS_IP": "127.0.0.1", "ROS_HOME": self._home, "ROS_LOG_DIR": os.path.join(self._home, "log")
        }  # fmt: skip
        settings = self.environment | {"ROS_PYTHON_LOG_CONFIG_FILE": ros1.LOGGING}
        try:
            self._process = ChildProcess(_CODE, [str(port)], settings, "ROS master", timeout=30.0)
        except BaseException:
            shutil.rmtree(self._home, ignore_errors=True)
            raise
        self.environment["ROS_MASTER_URI"] = self.uri = self._process.ready.rstrip("/")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()

    def close(self) -> None:
        """End it and remove its files. Twice is fine."""
        self._process.stop()
        shutil.rmtree(self._home, ignore_errors=True)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RobotError(
                f"port {port} cannot be used ({error.strerror}): does a ROS master run there already? Choose another."
            ) from error
