"""The one place where observation and action spaces are built from a TaskSpec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium import spaces

from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

__all__ = ["action_space", "check_lags", "default_lags", "image_key", "lag_key", "observation_space"]


def image_key(camera: str) -> str:
    """Observation key of a camera: `image_<camera>` (flat and dot-free, so that Stable-Baselines3 takes it)."""
    return f"image_{camera}"


def lag_key(key: str, lag: int) -> str:
    """Observation key of what `key` was `lag` control steps ago: `<key>_lag<lag>`, or `key` itself for 0."""
    return f"{key}_lag{lag}" if lag else key


def check_lags(spec: TaskSpec, lags: Sequence[int], imagined: bool = True) -> tuple[int, ...]:
    """Lags, in control steps, that the environments of a task can give.

    Args:
        spec: Task.
        lags: Control steps into the past.
        imagined: Whether imagination must give them too, which has no frames between the multiples of the stride;
            where every control step is seen, as in the work cell and on a robot, any number of steps will do.

    Raises:
        ConfigError: If a lag is no positive multiple of the stride (`imagined`), reaches beyond the recorded history or
            the imagined chunk, or if lags repeat.
    """
    stride, furthest = spec.stride if imagined else 1, _furthest_lag(spec)
    if not isinstance(lags, Iterable) or not all(isinstance(lag, int | np.integer) for lag in lags):
        raise ConfigError(f"observation_lags {lags!r}: expected whole numbers of control steps")
    if any(lag < 1 or lag % stride or lag > furthest for lag in lags):
        wanted = f"multiples of the stride {stride}" if stride > 1 else "whole numbers"
        fits = list(range(stride, furthest + 1, stride))
        raise ConfigError(
            f"observation_lags {list(lags)}: expected {wanted} up to {furthest} "
            f"control steps (history {spec.history}, chunk {spec.chunk}): {fits or 'none'}. Those of a policy are "
            "policy.model.lags"
        )
    if len(set(lags)) != len(lags):
        raise ConfigError(f"observation_lags {list(lags)} repeat")
    return tuple(int(lag) for lag in lags)


def default_lags(spec: TaskSpec) -> tuple[int, ...]:
    """One stride, the last imagined frame; nothing where a task remembers no past."""
    return (spec.stride,) if spec.stride <= _furthest_lag(spec) else ()


def _furthest_lag(spec: TaskSpec) -> int:
    return min((spec.history - 1) * spec.stride, spec.chunk - spec.stride)


def observation_space(spec: TaskSpec, lags: Sequence[int] = ()) -> spaces.Dict:
    """Flat Dict: `image_<camera>` uint8 (H, W, 3) per camera, and `state` float32 (D,) in rad and m.

    The state is not bounded by the joint limits: a measured joint may overshoot its commanded range. `lags` give the
    same entries as they were so many control steps ago, under `lag_key`: a single picture does not show speeds.
    """
    height, width = spec.image_size
    entries: dict[str, spaces.Space] = {}
    for lag in (0, *check_lags(spec, lags, imagined=False)):
        for camera in spec.cameras:
            entries[lag_key(image_key(camera), lag)] = spaces.Box(0, 255, (height, width, 3), np.uint8)
        entries[lag_key("state", lag)] = spaces.Box(-np.inf, np.inf, (spec.layout.dim,), np.float32)
    return spaces.Dict(entries)


def action_space(spec: TaskSpec) -> spaces.Box:
    """Box (chunk, D) float32: absolute joint targets in rad and m, bounded by the joint limits."""
    low, high = (np.broadcast_to(limit, (spec.chunk, spec.layout.dim)) for limit in (spec.layout.low, spec.layout.high))
    return spaces.Box(low, high, dtype=np.float32)
