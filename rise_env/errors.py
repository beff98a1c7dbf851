"""Exceptions. Their messages name what was given, what was expected and how to fix it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "ActionError",
    "CheckpointError",
    "ConfigError",
    "LayoutError",
    "RenderingUnavailableError",
    "RiseError",
    "RobotError",
    "TrainingError",
    "requirement",
]


class RiseError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(RiseError, ValueError):
    """A configuration file, preset, override or keyword argument is wrong."""


class LayoutError(RiseError, ValueError):
    """Joint names, order or number do not match the task's joint layout."""


class ActionError(RiseError, ValueError):
    """An action has the wrong shape or type, or is not finite."""


class RenderingUnavailableError(RiseError, RuntimeError):
    """Off-screen or on-screen rendering cannot start on this machine."""


class CheckpointError(RiseError, RuntimeError):
    """A checkpoint is missing, damaged, of another kind or of another shape."""


class TrainingError(RiseError, RuntimeError):
    """Training cannot go on: a loss is not finite, or labels that it needs are missing."""


class RobotError(RiseError, RuntimeError):
    """A robot, or the link to it, is missing, stale, unsafe or faulty."""


def requirement(where: str) -> Callable[[object, str], None]:
    """A function `require(condition, message)` that raises ConfigError("<where>: <message>") if a condition fails."""

    def require(condition: object, message: str) -> None:
        if not condition:
            raise ConfigError(f"{where}: {message}")

    return require
