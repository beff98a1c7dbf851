"""Recorded joint values against the limits of a layout: a wrong unit, or a wrong layout, must not train a policy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from rise_env.errors import DatasetError
from rise_env.tasks import JointLayout

__all__ = ["check_limits"]

_WARN = 0.05  # of the range


def check_limits(values: np.ndarray, layout: JointLayout, where: Callable[[int], str]) -> None:
    """Check recorded values, (N, D) and finite, against the limits of a layout.

    Values up to 5 % of a joint's range outside its limits pass: a servo overshoots. Up to `layout.tolerance` they are
    worth a warning.

    Args:
        values: float (N, D).
        layout: Its limits.
        where: Says what row i is, for the message.

    Raises:
        DatasetError: If a value lies further outside; the message names joint, value, place, limits and the way out.
    """
    outside = layout.furthest_outside(values)
    if outside is None or outside.excess <= min(_WARN, layout.tolerance):
        return
    count = int((np.abs(values - (layout.low + layout.high) / 2) > (layout.high - layout.low) / 2).any(1).sum())
    problem = (
        f"{where(outside.row)}: {outside.message}. It is {outside.excess:.3g} of the joint's range outside (tolerance "
        f"{layout.tolerance:g}); {count} of {len(values)} frames have a value outside its limits"
    )
    if outside.excess <= layout.tolerance:
        warnings.warn(problem, stacklevel=3)
        return
    raise DatasetError(
        f"{problem}. Convert the values to the units of layout {layout.name!r}, leave such episodes out "
        "(--skip-bad-episodes), or, if they are right, widen `lower`, `upper` or `tolerance` of the layout."
    )
