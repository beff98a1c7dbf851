"""The driver "ros": a robot over ROS 1, or the work cell behind it."""

from __future__ import annotations

from collections.abc import Sequence

from rise_env.tasks import load_task
from rise_robot.config import RobotConfig
from rise_robot.ros.config import ros_config
from rise_robot.ros.driver import RosDriver

__all__ = ["make_driver"]


def make_driver(task: str, preset: str, overrides: Sequence[str], robot: RobotConfig) -> RosDriver:
    """The robot of a YAML file over ROS (see `rise_robot.drivers`); one with a scene where `ros.scene` names it."""
    config = ros_config(robot)
    if config.scene is None:
        return RosDriver(load_task(task, preset, overrides), config)
    from rise_robot.cell.config import load_cell
    from rise_robot.cell.task import make_cell_task
    from rise_robot.ros.scene import RosCellDriver

    spec, cell = load_cell(task, preset, overrides)
    return RosCellDriver(spec, config, make_cell_task(spec.name, cell.ranges).scripted_policies)
