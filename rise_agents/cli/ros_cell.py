"""Serve the work cell over ROS 1 as a dual Piper, in real time: cameras, joint states and status out, commands in.

  rise ros-cell --with-master
  rise ros-cell --task brick_sorting --image-size 240 320 --seed 7

What drives this cell drives the robot: topics and messages are the same. ROS itself comes with `make ros`. Without
--with-master a master must run at ROS_MASTER_URI (roscore). Below /rise_cell are besides: the services `reset`
(parameter `seed`) and `plan` (chunks of a scripted policy), and the topics `outcome` (ground truth) and `status` (how
well real time is kept). See docs/ros.md. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rise_robot.ros.config import RosConfig

__all__ = ["add_arguments", "run"]

_DEFAULT_PORT = 11311


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--task", default="brick_sorting", help="task (default: %(default)s)")
    parser.add_argument("--preset", default="small", help="preset (default: %(default)s)")
    parser.add_argument("--difficulty", help="easy, normal or hard (default: the preset's)")
    parser.add_argument("--variation", action="store_true", help="vary lighting, colours, friction and camera")
    parser.add_argument(
        "--robot", default="cell", metavar="NAME", help="robot whose topics to use (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument(
        "--image-size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"),
        help="size of the images served (default: 480 640, as the robot's)",
    )  # fmt: skip
    parser.add_argument(
        "--supersample", type=int, default=1, metavar="N", help="draw images N times as large and average (default: 1)"
    )
    parser.add_argument("--camera-rate", type=float, metavar="HZ", help="images per second (default: the robot's, 30)")
    parser.add_argument("--joint-rate", type=float, metavar="HZ", help="joint states per second (default: 200)")
    parser.add_argument(
        "--with-master", type=int, nargs="?", const=_DEFAULT_PORT, metavar="PORT",
        help=f"start a ROS master as well, for this machine alone (port {_DEFAULT_PORT}; 0: a free one)",
    )  # fmt: skip
    parser.add_argument("remappings", nargs="*", metavar="__name:=NAME", help="what roslaunch adds")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    import dataclasses

    from rise_env.errors import ConfigError
    from rise_robot.cell.env import cell_overrides
    from rise_robot.config import load_robot
    from rise_robot.ros.config import ros_config
    from rise_robot.ros.master import RosMaster

    if wrong := [text for text in args.remappings if ":=" not in text]:
        raise ConfigError(f"unknown argument {wrong[0]!r}; see: rise ros-cell --help")
    if min(args.image_size) < 8 or not 1 <= args.supersample <= 8:
        raise ConfigError("--image-size must be at least 8 8, --supersample 1 to 8")
    config = ros_config(load_robot(args.robot))
    rates = {"camera_rate": args.camera_rate, "joint_rate": args.joint_rate}
    config = dataclasses.replace(config, **{key: value for key, value in rates.items() if value is not None})
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    overrides = cell_overrides(args.difficulty, None, None, True if args.variation else None)
    with contextlib.ExitStack() as stack:
        if args.with_master is not None:
            master = stack.enter_context(RosMaster(args.with_master))
            os.environ |= master.environment
            print(f"ROS master: export ROS_MASTER_URI={master.uri} ROS_IP=127.0.0.1", flush=True)
        return _serve(args, overrides, config)


def _serve(args: argparse.Namespace, overrides: list[str], config: RosConfig) -> int:
    from rise_robot.ros.cell_node import CellNode

    node = CellNode(
        args.task, args.preset, overrides, config, tuple(args.image_size), args.supersample, args.seed, args.remappings
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.stop())
    height, width = args.image_size
    print(
        f"ready: {args.task} as {len(config.arms)} arms at {config.joint_rate:g} Hz, {len(config.cameras)} cameras of "
        f"{width} x {height} at {config.camera_rate:g} Hz; Ctrl-C ends",
        flush=True,
    )
    try:
        node.run()
    finally:
        node.close()
        if node.report:
            print(f"last second: {node.report}", flush=True)
    return 0
