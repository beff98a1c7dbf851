"""How long after a command the measured joints follow it, as a dataset shows it."""

from __future__ import annotations

import numpy as np

from rise_env.data.dataset import Dataset

__all__ = ["command_lag"]

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
    count = max(2, round(longest * dataset.spec.fps)) + 1
    dim = dataset.spec.layout.dim
    products, commanded, measured = np.zeros((count, dim)), np.zeros((count, dim)), np.zeros((count, dim))
    for start, length in zip(dataset.starts.tolist(), dataset.lengths.tolist(), strict=True):
        rows = slice(start, start + length)
        action, state = (np.diff(x[rows].astype(np.float64), axis=0) for x in (dataset.action, dataset.state))
        for shift in range(min(count, len(action))):
            a, s = action[: len(action) - shift], state[shift:]
            products[shift] += (a * s).sum(0)
            commanded[shift] += (a * a).sum(0)
            measured[shift] += (s * s).sum(0)
    scale = np.sqrt(commanded * measured)
    likeness = np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-12)
    best, joints = likeness.argmax(0), np.arange(dim)
    inside = np.clip(best, 1, count - 2)
    before, at, after = (likeness[inside + step, joints] for step in (-1, 0, 1))
    curve = before - 2 * at + after
    vertex = np.divide(before - after, 2 * curve, out=np.zeros(dim), where=curve < -1e-12)
    frames = np.where(best == inside, inside + np.clip(vertex, -0.5, 0.5), best)
    return np.where(likeness[best, joints] >= _CLEAR, frames / dataset.spec.fps, np.nan)
