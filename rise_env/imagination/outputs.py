"""What goes out: fresh arrays, or fresh tensors that stay on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from rise_env.errors import RiseError
from rise_env.spaces import image_key

__all__ = ["observation_of", "require_finite", "rows_of"]


def observation_of(frames: torch.Tensor, states: torch.Tensor, cameras: Iterable[str], tensors: bool) -> dict[str, Any]:
    """Observation of frames uint8 (N, V, H, W, 3) and states float32 (N, D), as tensors or as arrays."""
    images = list(frames.unbind(1)) if tensors else list(np.moveaxis(frames.cpu().numpy(), 1, 0))
    observation = {image_key(name): _copy(image) for name, image in zip(cameras, images, strict=True)}
    observation["state"] = _copy(states if tensors else states.cpu().numpy())
    return observation


def rows_of(observation: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """Single observations of the environments in the mask, as an object array."""
    rows = np.full(len(mask), None, object)
    for i in np.flatnonzero(mask):
        rows[i] = {key: _copy(value[i]) for key, value in observation.items()}
    return rows


def require_finite(numbers: np.ndarray, rows: np.ndarray) -> None:
    """Raise unless what the world model said of the environments `rows` is finite.

    Raises:
        RiseError: Naming the environments for which it is not.
    """
    if not np.isfinite(numbers).all():
        bad = rows[~np.isfinite(numbers)].tolist()
        raise RiseError(f"the world model gives values that are not finite (NaN or infinity) for environments {bad}")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else np.array(value)
