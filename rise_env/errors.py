"""Exceptions. Their messages name what was given, what was expected and how to fix it."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    "observed_requirements",
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


#: What numbers and names are expected to be, by name, while somebody wants to know.
_observed: dict[str, list[str]] | None = None


@contextmanager
def observed_requirements() -> Iterator[dict[str, list[str]]]:
    """What `requirement` checks meanwhile: by name what a value is expected to be, such as "at least 1"."""
    global _observed
    before, _observed = _observed, {}
    try:
        yield _observed
    finally:
        _observed = before


class requirement:
    """Checks that raise `error`("<where>: <message>") where they fail: `require = requirement("agent preset")`.

    `require(condition, message)` checks anything. The methods check numbers and names, given as an object and the names
    of its attributes, or as keyword arguments; None passes; NaN and what is no number fail.

    Example:
        >>> from types import SimpleNamespace
        >>> require = requirement("preset 'small'")
        >>> require.at_least(1, SimpleNamespace(steps=3, batch_size=8), "steps", "batch_size")
        >>> require.within("[0, 1)", ema_decay=1.0)
        Traceback (most recent call last):
        ...
        rise_env.errors.ConfigError: preset 'small': ema_decay is 1.0, expected a number in [0, 1)
    """

    def __init__(self, where: str, error: type[RiseError] = ConfigError) -> None:
        self.where, self.error = where, error

    def __call__(self, condition: object, message: str) -> None:
        """Raise the error unless the condition holds."""
        if not condition:
            raise self.error(f"{self.where}: {message}")

    def at_least(self, least: float, owner: object = None, /, *names: str, **values: Any) -> None:
        """Every number is at least `least`."""
        self._each(lambda value: value >= least, f"at least {least}", owner, names, values)

    def whole(self, least: int, owner: object = None, /, *names: str, **values: Any) -> None:
        """Every value is a whole number, of Python or NumPy, and at least `least`."""

        def holds(value: Any) -> bool:
            return not isinstance(value, bool) and value == operator.index(value) and value >= least

        self._each(holds, f"a whole number from {least}", owner, names, values)

    def positive(self, owner: object = None, /, *names: str, **values: Any) -> None:
        """Every number is more than 0, and finite."""
        self._each(lambda value: 0 < value < math.inf, "a positive number", owner, names, values)

    def within(self, interval: str, owner: object = None, /, *names: str, **values: Any) -> None:
        """Every number is in the interval, such as "[0, 1)", whose round brackets leave the bound out."""
        low, high = map(float, interval[1:-1].split(","))

        def inside(value: float) -> bool:
            above = value >= low if interval[0] == "[" else value > low
            return above and (value <= high if interval[-1] == "]" else value < high)

        self._each(inside, f"a number in {interval}", owner, names, values)

    def one_of(self, known: Collection[Any], owner: object = None, /, *names: str, **values: Any) -> None:
        """Every value is one of the known ones."""
        self._each(lambda value: value in known, f"one of {', '.join(map(str, known))}", owner, names, values)

    def boolean(self, owner: object = None, /, *names: str, **values: Any) -> None:
        """Every value is True or False, of Python or NumPy: "no", "x" and 1 would all count as true."""
        # np.bool_ is no subclass of bool, and NumPy is not worth importing for it.
        self._each(lambda value: type(value).__name__ in ("bool", "bool_"), "True or False", owner, names, values)

    def _each(
        self, holds: Callable[[Any], bool], expected: str, owner: object, names: Sequence[str], values: dict[str, Any]
    ) -> None:
        for name, value in ({name: getattr(owner, name) for name in names} | values).items():
            if _observed is not None:
                _observed.setdefault(name, []).append(expected)
            try:
                fine = value is None or bool(holds(value))
            except (TypeError, ValueError):  # it cannot be compared with a number
                fine = False
            self(fine, f"{name} is {value!r}, expected {expected}")


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
