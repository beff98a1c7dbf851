"""Recorded joint values against the limits of a layout: a wrong unit, or a wrong layout, must not train a policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from rise_env.errors import DatasetError
from rise_env.tasks import JointLayout

__all__ = ["LARGEST", "check_limits", "impossible"]

#: No joint has ever been there, in degrees, millimetres or steps of an encoder.
LARGEST = 1e6
#: Nor there, whatever the limits: a hundred and more turns, a hundred metres.
_ABSURD = {"rad": 1000.0, "deg": 60_000.0, "m": 100.0, "none": LARGEST}


def check_limits(values: np.ndarray, layout: JointLayout, where: Callable[[int], str], way_out: str = "") -> None:
    """Check recorded values against the limits of a layout.

    Values beyond `layout.tolerance` are a warning: they may be right, and the layout too narrow. Values beyond 1000 rad
    or 100 m cannot be: they are an error, unless the tolerance is infinite.

    Args:
        values: float (N, D), finite.
        layout: Its limits.
        where: Says what row i is, for the message.
        way_out: What else one can do about impossible values.

    Raises:
        DatasetError: If a value is impossible; the message, like the warning, names joint, value, place, limits,
            tolerance and the way out.
    """
    outside = layout.furthest_outside(values)
    if outside is None or outside.excess <= layout.tolerance:
        return
    half = layout.tolerance + 0.5
    beyond = np.abs(values - (layout.low + layout.high) / 2) > half * (layout.high - layout.low)
    problem = (
        f"{where(outside.row)}: {outside.message}. That is {outside.excess:.3g} times the joint's range outside "
        f"(tolerance {layout.tolerance:g}); {int(beyond.any(1).sum())} of {len(values)} frames are beyond it. "
        f"Convert the values to the units of layout {layout.name!r}, or, if they are right, widen `lower`, `upper` or "
        "`tolerance` of the layout"
    )
    if impossible(values, layout).any():
        raise DatasetError(f"{problem}{way_out}.")
    warnings.warn(problem, stacklevel=3)


def impossible(values: np.ndarray, layout: JointLayout | None) -> np.ndarray:
    """Which values, (N, D), are not finite, or beyond what any joint does; units are unknown without a layout."""
    numbers = np.asarray(values, np.float64)
    if layout is None:
        most: np.ndarray | float = LARGEST
    else:
        most = np.array([_ABSURD[unit] if layout.tolerance < np.inf else np.inf for unit in layout.units])
    with np.errstate(invalid="ignore"):
        return ~np.isfinite(numbers) | (np.abs(numbers) > most)
