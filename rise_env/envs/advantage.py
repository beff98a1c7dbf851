"""The advantage of an imagined chunk, raw: scaling, clipping and binning are left to the agents.

Everything here takes NumPy arrays and torch tensors alike and gives back the same kind. Sums run frame by frame, so
that a row's result does not depend on how many rows there are.
"""

from __future__ import annotations

from typing import Any

from rise_env.errors import ConfigError, check_known

__all__ = ["ADVANTAGE_MODES", "chunk_advantage", "penalized"]

#: "mean": mean_k V(o_{t+k}) - V(o_t), equation 2 of arXiv 2602.11075. "last": V(o_{t+K}) - V(o_t). "tail": mean of the
#: last three frames less the mean of the start and the first three. The last two are the official release's options.
ADVANTAGE_MODES = ("mean", "last", "tail")

_TAIL = 3


def chunk_advantage(values: Any, start_value: Any, mode: str = "mean") -> Any:
    """Advantage of a chunk from the values of its imagined frames.

    Args:
        values: (..., K) values V(o_{t+1}), ..., V(o_{t+K}) of the imagined frames, K >= 1.
        start_value: (...,) value V(o_t) of the frame that the chunk starts from.
        mode: One of `ADVANTAGE_MODES`.

    Returns:
        (...,) advantages in the unit of the values.

    Raises:
        ConfigError: If the mode is unknown or the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> float(chunk_advantage(np.array([0.25, 0.5, 0.75]), np.array(0.25)))
        0.25
    """
    check_known("advantage mode", mode, ADVANTAGE_MODES)
    if tuple(values.shape[:-1]) != tuple(start_value.shape) or not values.shape[-1]:
        raise ConfigError(
            f"values have shape {tuple(values.shape)} and start values {tuple(start_value.shape)}, "
            "expected (..., K) with K >= 1 and (...,)"
        )
    frames = values.shape[-1]
    if mode == "last":
        return values[..., -1] - start_value
    if mode == "mean":
        return _sum(values, 0, frames) / frames - start_value
    edge = min(_TAIL, frames)
    return _sum(values, frames - edge, frames) / edge - (start_value + _sum(values, 0, edge)) / (edge + 1)


def penalized(advantage: Any, uncertainty: Any, weight: float) -> Any:
    """Advantage less `weight` times the uncertainty; a weight of 0 leaves it bit for bit as it is.

    Raises:
        ConfigError: If the weight is negative.
    """
    if not weight >= 0:  # NaN, too
        raise ConfigError(f"uncertainty penalty {weight} is negative or no number: it would reward uncertainty")
    return advantage if weight == 0 else advantage - weight * uncertainty


def _sum(values: Any, first: int, stop: int) -> Any:
    total = values[..., first]
    for k in range(first + 1, stop):
        total = total + values[..., k]
    return total
