"""The one place that imports ROS. Everything else asks it, so that the rest of the project runs without ROS.

rospy keeps one node per process for the whole life of that process: `start_node` may be called again, but not for
another master. It never touches signal handlers nor the logging of the program it lives in.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rise_env.errors import RobotError

__all__ = ["LOGGING", "Ros", "available", "free_name", "load", "master_pid", "master_uri", "start_node"]

_HELP = (
    "Unpack it below .venv of the checkout with: make ros (needs neither root nor a ROS installation); or start from a "
    "shell in which ROS 1 was set up (source /opt/ros/noetic/setup.bash)."
)
#: Seconds to wait for a connection to the master's port.
_PATIENCE = 3.0
#: Changes no handler: rospy would replace those of the whole program.
LOGGING = str(Path(__file__).with_name("logging.yaml"))


@dataclass(frozen=True)
class Ros:
    """The modules of ROS that this package uses."""

    rospy: Any
    rosgraph: Any
    genpy: Any
    sensor_msgs: Any
    geometry_msgs: Any
    std_msgs: Any
    std_srvs: Any


def available() -> bool:
    """Whether rospy can be imported."""
    return importlib.util.find_spec("rospy") is not None


@functools.cache
def load() -> Ros:
    """Import ROS; RobotError if it is not there; the message says how to get it."""
    _prepare_environment()
    logger_class = logging.getLoggerClass()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # written for older Pythons
            kinds = "sensor_msgs.msg", "geometry_msgs.msg", "std_msgs.msg", "std_srvs.srv"
            modules = [importlib.import_module(name) for name in ("rospy", "rosgraph", "genpy", *kinds)]
            importlib.import_module("genpy.dynamic")
    except ImportError as error:
        raise RobotError(f"ROS 1 is missing: {error}. {_HELP}") from error
    finally:
        logging.setLoggerClass(logger_class)  # rosgraph puts its own in place, for every logger to come
    for module in ("rospy", "rosgraph", "roslib", "genpy", "rosmaster", "rospkg"):
        for category in (DeprecationWarning, ResourceWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}(\..*)?$")
    return Ros(*modules)


def master_uri() -> str:
    """Where the master is: ROS_MASTER_URI, or ROS's default port on this machine."""
    return os.environ.get("ROS_MASTER_URI") or "http://127.0.0.1:11311"


def _prepare_environment() -> None:
    """Fill in what ROS reads from the environment and the user has not set.

    Without ROS_IP a node gives other nodes its host's name, which they often cannot look up; the address that leads to
    the master is what they need.
    """
    os.environ.setdefault("ROS_MASTER_URI", master_uri())
    os.environ.setdefault("ROS_PYTHON_LOG_CONFIG_FILE", LOGGING)
    if os.environ.get("ROS_IP") or os.environ.get("ROS_HOSTNAME"):
        return
    address = _address()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing; asks the routing table
            os.environ["ROS_IP"] = probe.getsockname()[0]
    except OSError as error:
        raise RobotError(
            f"ROS_MASTER_URI={master_uri()} leads nowhere from here ({error}). Set it to the master's address, for "
            "example http://192.168.1.10:11311"
        ) from error


def _require_master() -> None:
    """Make sure that a master answers: rospy would wait for one for ever."""
    try:
        socket.create_connection(_address(), timeout=_PATIENCE).close()
    except OSError as error:
        raise RobotError(
            f"no ROS master at {master_uri()} ({error}). Start one (roscore, or: rise ros-cell --with-master), or set "
            "ROS_MASTER_URI to where it is."
        ) from error
    if master_pid() is None:
        raise RobotError(f"what answers at ROS_MASTER_URI={master_uri()} is no ROS master")


def master_pid() -> int | None:
    """Process id of the master on its machine, None where none answers; seconds where its machine is off."""
    ros = load()
    try:
        return int(ros.rosgraph.Master("/rise").getPid())
    except (OSError, ros.rosgraph.MasterException):
        return None
    except Exception as error:  # noqa: BLE001  (xmlrpc raises its own and http.client's for whatever else answers)
        logging.getLogger(__name__).debug("no answer from %s: %s", master_uri(), error)
        return None


_node: tuple[str, int | None] | None = None


def start_node(name: str, remappings: Sequence[str] = ()) -> Ros:
    """Make this process a ROS node, once; RobotError if ROS or its master is missing, or this process belonged to a
    master that is gone.

    Args:
        name: Name of the node; where a living node has it already, a number is added.
        remappings: What roslaunch adds to a command line, such as `__name:=cell`.
    """
    global _node
    ros = load()
    _require_master()
    master = (master_uri(), master_pid())
    if _node is not None:
        if _node != master:
            raise RobotError(
                f"this process is a node of the ROS master {_node[0]} (process {_node[1]}), which is not the one at "
                f"{master[0]} (process {master[1]}) now. rospy cannot change: start this program again."
            )
        return ros
    if not ros.rospy.core.is_initialized():  # else the program around us has made it a node already
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ros.rospy.init_node(free_name(name), argv=[sys.argv[0], *remappings], disable_signals=True)
    _node = master
    atexit.register(ros.rospy.signal_shutdown, "the program ends")
    return ros


def free_name(name: str) -> str:
    """The name, or with a number: a node that takes the name of another ends that one."""
    count, found = 1, name
    while (uri := _uri_of(found)) is not None:
        host, port = urlparse(uri).hostname, urlparse(uri).port
        try:
            socket.create_connection((host or "", port or 0), timeout=_PATIENCE).close()
        except ConnectionRefusedError:
            break  # it is registered but dead
        except OSError as error:  # it may live where this machine cannot reach it
            logging.getLogger(__name__).debug("node %s: %s", found, error)
        count, found = count + 1, f"{name}_{count + 1}"
    return found


def _uri_of(name: str) -> str | None:
    """Where a node of this name was registered; None if there is none."""
    ros = load()
    try:
        return str(ros.rosgraph.Master("/rise").lookupNode(f"/{name}"))
    except (OSError, ros.rosgraph.MasterException):
        return None


def _address() -> tuple[str, int]:
    found = urlparse(master_uri())
    port = None
    with contextlib.suppress(ValueError):
        port = found.port
    if found.scheme != "http" or not found.hostname or port is None:
        raise RobotError(f"ROS_MASTER_URI={master_uri()} is not of the form http://HOST:11311")
    return found.hostname, port
