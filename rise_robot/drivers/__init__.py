"""Robots by name.

What `rise_env.registry.DRIVERS` names is a function or class `(task, preset, overrides, robot, **options) -> Driver`:
task, preset and overrides are those of `rise_env.tasks.load_task`, `robot` is a `rise_robot.config.RobotConfig`, the
options are plain values (JSON), whatever the driver takes. Nothing is opened: `Driver.connect` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rise_env.errors import ConfigError
from rise_env.registry import DRIVERS
from rise_robot.config import RobotConfig
from rise_robot.drivers.base import Driver

__all__ = ["make_driver"]


def make_driver(
    name: str, task: str, preset: str, overrides: Sequence[str], robot: RobotConfig, **options: Any
) -> Driver:
    """Make a driver; ConfigError if there is none of this name, it takes no such option, or makes no `Driver`."""
    make = DRIVERS.load(name)
    try:
        driver = make(task, preset, overrides, robot, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        given = f"{', '.join(options)} ({error})"
        raise ConfigError(f"driver {name!r} does not take all of these options: {given}") from None
    if not isinstance(driver, Driver):
        members = [*Driver.__annotations__, *(member for member in vars(Driver) if not member.startswith("_"))]
        missing = ", ".join(member for member in members if not hasattr(driver, member))
        raise ConfigError(f"driver {name!r} made a {type(driver).__name__}, which lacks {missing} (see Driver)")
    return driver
