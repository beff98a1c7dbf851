"""Exceptions. Their messages name what was given, what was expected and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "ActionError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "LayoutError",
    "RenderingUnavailableError",
    "RiseError",
    "RobotError",
    "TrainingError",
    "check_known",
    "did_you_mean",
    "requirement",
    "unknown_name",
]


class RiseError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(RiseError, ValueError):
    """A configuration file, preset, override or keyword argument is wrong."""


class DatasetError(RiseError, ValueError):
    """A dataset is missing, damaged, contradicts itself or lacks what was asked of it."""


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


def requirement(where: str, error: type[RiseError] = ConfigError) -> Callable[[object, str], None]:
    """A function `require(condition, message)` that raises `error`("<where>: <message>") if a condition fails."""

    def require(condition: object, message: str) -> None:
        if not condition:
            raise error(f"{where}: {message}")

    return require


def check_known(kind: str, name: object, known: Sequence[str]) -> None:
    """Raise a ConfigError that lists the `known` names unless `name` is one of them."""
    if name not in known:
        raise ConfigError(unknown_name(kind, name, known))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint " Did you mean 'x'?" with the nearest known name, or an empty text."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Message about an unknown name, with the nearest known name and all of them.

    Example:
        >>> unknown_name("colour", "gren", ["red", "green"])
        "unknown colour 'gren'. Did you mean 'green'? Known: red, green."
    """
    names = list(known)
    return f"unknown {kind} {name!r}.{did_you_mean(str(name), names)} Known: {', '.join(names)}."
