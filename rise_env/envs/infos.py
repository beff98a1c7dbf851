"""Infos of vector environments: arrays with `_key` masks, as Gymnasium 1.x wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["info_of", "masked", "objects"]


def masked(values: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Vector infos that hold `values` where `mask` is True: fresh arrays, each with a `_key` mask of its own."""
    infos: dict[str, Any] = {}
    for key, value in values.items():
        infos[key] = value.copy()
        infos[f"_{key}"] = mask.copy()
    return infos


def objects(value: Any, count: int) -> np.ndarray:
    """Object array of `count` rows: `value` if it is a list or tuple, else `value` in every row."""
    rows = np.empty(count, object)
    rows[:] = value
    return rows


def info_of(infos: Mapping[str, Any], index: int, plain: bool = True) -> dict[str, Any]:
    """Infos of one environment, without the keys whose mask is False for it; scalars of NumPy as Python's if `plain`.

    Example:
        >>> info_of({"value": np.array([0.25, 0.5]), "_value": np.array([True, False])}, 0)
        {'value': 0.25}
    """
    info = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if (key.startswith("_") and key[1:] in infos) or (mask is not None and not mask[index]):
            continue
        entry = info_of(value, index, plain) if isinstance(value, dict) else value[index]
        info[key] = entry.item() if plain and isinstance(entry, np.generic) else entry
    return info
