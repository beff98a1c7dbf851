"""Robots by name.

A module of a driver has `make_driver(task, preset, overrides, robot, **options) -> Driver`: task, preset and overrides
are those of `rise_env.tasks.load_task`, `robot` is a `rise_robot.config.RobotConfig`, and the options are plain values
(JSON), whatever the driver takes. Nothing is opened: `Driver.connect` does that.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from rise_env.errors import ConfigError
from rise_robot.config import RobotConfig
from rise_robot.driver import Driver

__all__ = ["DRIVERS", "make_driver"]

#: Module by the name of the driver.
DRIVERS = {"cell": "rise_robot.drivers.cell", "ros": "rise_robot.ros.driver"}


def make_driver(
    name: str, task: str, preset: str, overrides: Sequence[str], robot: RobotConfig, **options: Any
) -> Driver:
    """Make a driver.

    Args:
        name: Key of `DRIVERS`.
        task: Task name or the path of a YAML file.
        preset: Preset name.
        overrides: Overrides of the task's configuration.
        robot: The robot.
        **options: Further arguments of this driver.

    Raises:
        ConfigError: If there is no such driver, or it takes no such option.
    """
    if name not in DRIVERS:
        raise ConfigError(f"unknown driver {name!r}. Known drivers: {', '.join(DRIVERS)}.")
    module = importlib.import_module(DRIVERS[name])
    try:
        driver: Driver = module.make_driver(task, preset, overrides, robot, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(
            f"driver {name!r} does not take all of these options: {', '.join(options)} ({error})"
        ) from None
    return driver
