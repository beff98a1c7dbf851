"""The one place where observation and action spaces are built from a TaskSpec."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rise_env.tasks import TaskSpec

__all__ = ["action_space", "image_key", "observation_space"]


def image_key(camera: str) -> str:
    """Observation key of a camera: `image_<camera>` (flat and dot-free, so that Stable-Baselines3 takes it)."""
    return f"image_{camera}"


def observation_space(spec: TaskSpec) -> spaces.Dict:
    """Flat Dict: `image_<camera>` uint8 (H, W, 3) per camera, and `state` float32 (D,) in rad and m.

    The state is not bounded by the joint limits: a measured joint may overshoot its commanded range.
    """
    height, width = spec.image_size
    entries: dict[str, spaces.Space] = {
        image_key(camera): spaces.Box(0, 255, (height, width, 3), np.uint8) for camera in spec.cameras
    }
    entries["state"] = spaces.Box(-np.inf, np.inf, (spec.layout.dim,), np.float32)
    return spaces.Dict(entries)


def action_space(spec: TaskSpec) -> spaces.Box:
    """Box (chunk, D) float32: absolute joint targets in rad and m, bounded by the joint limits."""
    shape = (spec.chunk, spec.layout.dim)
    return spaces.Box(
        np.broadcast_to(spec.layout.low, shape), np.broadcast_to(spec.layout.high, shape), dtype=np.float32
    )
