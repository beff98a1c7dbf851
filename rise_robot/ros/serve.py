"""The work cell over ROS as a command: master, node, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from rise_robot.config import load_robot
from rise_robot.ros.cell_node import CellNode
from rise_robot.ros.config import ros_config
from rise_robot.ros.master import RosMaster

__all__ = ["serve_cell"]


def serve_cell(
    task: str,
    preset: str,
    overrides: Sequence[str],
    robot: str,
    on_line: Callable[[str], None],
    *,
    image_size: tuple[int, int] = (480, 640),
    camera_rate: float | None = None,
    joint_rate: float | None = None,
    master_port: int | None = None,
    **options: Any,
) -> None:
    """Serve a work cell with a robot's topics until SIGINT or SIGTERM; `CellNode` explains the other arguments.

    Args:
        task: Task name or YAML path.
        preset: Preset name.
        overrides: Configuration overrides.
        robot: Name or YAML file of the robot whose topics to use.
        on_line: Called with what people should know: the master's address, "ready: ...", how well real time was kept.
        image_size: Height and width of the images served.
        camera_rate: Images per second; the robot's when None.
        joint_rate: Joint states per second; the robot's when None.
        master_port: Port of a ROS master to start as well, 0 for a free one; none is started when None.
        **options: Further arguments of `CellNode`.
    """
    rates: dict[str, Any] = {"camera_rate": camera_rate, "joint_rate": joint_rate}
    config = ros_config(load_robot(robot))
    config = dataclasses.replace(config, **{name: rate for name, rate in rates.items() if rate is not None})
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with contextlib.ExitStack() as stack:
        if master_port is not None:
            master = stack.enter_context(RosMaster(master_port))
            os.environ |= master.environment
            on_line(f"ROS master: export ROS_MASTER_URI={master.uri} ROS_IP=127.0.0.1")
        node = CellNode(task, preset, overrides, config, image_size, **options)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: node.stop())
        on_line(
            f"ready: {task} as {len(config.arms)} arms at {config.joint_rate:g} Hz, {len(config.cameras)} cameras of "
            f"{image_size[1]} x {image_size[0]} at {config.camera_rate:g} Hz; Ctrl-C ends"
        )
        try:
            node.run()
        finally:
            node.close()
            if node.report:
                on_line(f"last second: {node.report}")
