"""How long after a command the measured joints follow it, as a dataset shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rise_env.data.dataset import Dataset

__all__ = ["command_lag", "lag_behind"]

#: Correlation of commanded and measured velocity below which a joint shows no lag.
_CLEAR = 0.3


def command_lag(dataset: Dataset, longest: float = 1.0) -> np.ndarray:
    """Shift in time at which measured velocities look most like commanded ones.

    Fractions of a frame come from a parabola through the best shift and its neighbours. Actions that are recorded
    states of the next frame (a robot guided by hand) show one frame at most.

    Args:
        dataset: Absolute joint targets and measured joints.
        longest: Longest lag that is looked for, s.

    Returns:
        (D,) lag of every joint, s; NaN for joints that hardly move or do not follow their commands.
    """
    count = max(2, round(longest * dataset.spec.fps))
    frames, likeness = lag_behind(dataset.action, dataset.state, dataset.lengths.tolist(), count)
    return np.where(likeness >= _CLEAR, frames / dataset.spec.fps, np.nan)


def lag_behind(
    leader: np.ndarray, follower: np.ndarray, lengths: Sequence[int], longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames after which the velocities of `follower` look most like those of `leader`, and how much so.

    Args:
        leader: float (N, D), episodes one after the other.
        follower: float (N, D).
        lengths: Frames of every episode.
        longest: Longest lag that is looked for, frames; at least 2.

    Returns:
        Lag, in fractions of frames from 0 to `longest`, float64 (D,), and correlation there; 0 where one stands.
    """
    count, dim = longest + 1, leader.shape[1]
    products, commanded, measured = np.zeros((count, dim)), np.zeros((count, dim)), np.zeros((count, dim))
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        start += length
        action, state = (np.diff(x[rows].astype(np.float64), axis=0) for x in (leader, follower))
        for shift in range(min(count, len(action))):
            a, s = action[: len(action) - shift], state[shift:]
            products[shift] += (a * s).sum(0)
            commanded[shift] += (a * a).sum(0)
            measured[shift] += (s * s).sum(0)
    scale = np.sqrt(commanded * measured)
    likeness = np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-12)
    # The first of equals: a motion of constant speed looks the same at every shift.
    best, joints = (likeness >= likeness.max(0) - 1e-6).argmax(0), np.arange(dim)
    inside = np.clip(best, 1, count - 2)
    before, at, after = (likeness[inside + step, joints] for step in (-1, 0, 1))
    curve = before - 2 * at + after
    vertex = np.divide(before - after, 2 * curve, out=np.zeros(dim), where=curve < -1e-12)
    frames = np.where(best == inside, inside + np.clip(vertex, -0.5, 0.5), best)
    return frames, likeness[best, joints]
