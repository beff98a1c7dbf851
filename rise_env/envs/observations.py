"""Observations as fresh arrays, or as fresh tensors that stay on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rise_env.errors import RiseError
from rise_env.spaces import image_key, lag_key

__all__ = ["observation_of", "require_finite", "rows_of"]


def observation_of(
    frames: torch.Tensor, states: torch.Tensor, cameras: Sequence[str], lags: Sequence[int], tensors: bool
) -> dict[str, Any]:
    """Observation of frames uint8 (N, L, V, H, W, 3) and states float32 (N, L, D), as tensors or as arrays.

    `lags` has one entry per L, the present (0) first.
    """
    images: Any = frames if tensors else frames.cpu().numpy()
    joints: Any = states if tensors else states.cpu().numpy()
    observation: dict[str, Any] = {}
    for place, lag in enumerate(lags):
        for view, camera in enumerate(cameras):
            observation[lag_key(image_key(camera), lag)] = _copy(images[:, place, view])
        observation[lag_key("state", lag)] = _copy(joints[:, place])
    return observation


def rows_of(observation: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """Single observations of the environments in the mask, as an object array."""
    rows = np.full(len(mask), None, object)
    for i in np.flatnonzero(mask):
        rows[i] = {key: _copy(value[i]) for key, value in observation.items()}
    return rows


def require_finite(numbers: np.ndarray, rows: np.ndarray) -> None:
    """Raise unless the world model's numbers for the environments `rows` are finite.

    Raises:
        RiseError: Naming the environments for which it is not.
    """
    if not np.isfinite(numbers).all():
        bad = rows[~np.isfinite(numbers)].tolist()
        raise RiseError(f"the world model gives values that are not finite (NaN or infinity) for environments {bad}")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else np.array(value)
