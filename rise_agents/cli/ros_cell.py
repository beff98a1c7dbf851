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
import functools

from rise_agents.cli.options import add_task, add_variation, at_least, finite

__all__ = ["add_arguments", "run"]

_DEFAULT_PORT = 11311


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_task(parser)
    add_variation(parser)
    parser.add_argument("--robot", default="cell", metavar="NAME", help="whose topics to use (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument(
        "--image-size", type=at_least(1), nargs=2, default=(480, 640), metavar=("H", "W"),
        help="size of the images served (default: 480 640, as the robot's)",
    )  # fmt: skip
    parser.add_argument(
        "--supersample",
        type=at_least(1),
        default=1,
        metavar="N",
        help="draw images N times as large and average (default: 1)",
    )
    parser.add_argument("--camera-rate", type=finite, metavar="HZ", help="images per second (default: the robot's, 30)")
    parser.add_argument("--joint-rate", type=finite, metavar="HZ", help="joint states per second (default: 200)")
    parser.add_argument(
        "--with-master", type=int, nargs="?", const=_DEFAULT_PORT, metavar="PORT",
        help=f"start a ROS master as well, for this machine alone (port {_DEFAULT_PORT}; 0: a free one)",
    )  # fmt: skip
    parser.add_argument("remappings", nargs="*", metavar="__name:=NAME", help="what roslaunch adds")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from rise_env.errors import ConfigError
    from rise_robot.cell.config import cell_overrides
    from rise_robot.ros.serve import serve_cell

    if wrong := [text for text in args.remappings if ":=" not in text]:
        raise ConfigError(f"unknown argument {wrong[0]!r}; see: rise ros-cell --help")
    overrides = cell_overrides(args.difficulty, None, None, args.variation or None)
    serve_cell(
        args.task, args.preset, overrides, args.robot, functools.partial(print, flush=True),
        image_size=tuple(args.image_size), supersample=args.supersample, seed=args.seed, camera_rate=args.camera_rate,
        joint_rate=args.joint_rate, master_port=args.with_master, remappings=args.remappings,
    )  # fmt: skip
    return 0
