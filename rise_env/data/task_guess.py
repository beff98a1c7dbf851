"""What a task for a recorded dataset may look like: what its metadata do not say, guessed from its values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.data.lag import command_lag
from rise_env.errors import DatasetError

__all__ = [
    "FRAMES",
    "JointGuess",
    "TimeGuess",
    "guess_image_size",
    "guess_joints",
    "guess_progress",
    "guess_times",
    "unlike_targets",
]

#: Imagined frames per chunk: what the models cost grows with it.
FRAMES = 8
#: Length of a chunk, s; the paper's has 50 steps.
_CHUNK = 1.2
#: How long ago a policy's second look is, s: long enough that motion shows in small pictures.
_LOOK_BACK = 0.3
#: Quantiles of the values that limits are made of, and by how much of their span these are widened.
_QUANTILES, _MARGIN = (0.001, 0.999), 0.25
#: Correlation of command and measured joint below which the one is no target of the other.
_ALIKE = 0.3
#: Share of frames between 0 and 1 from which on a column `progress` is measured all along, not only at the end.
_BETWEEN = 0.1
_HANDS = re.compile(r"grip|hand|finger|thumb|pinky|claw|jaw|suction|pinch", re.IGNORECASE)
_PLACES = re.compile(r"(?:^|[._ ])(?:x|y|z|pos_?[xyz]|height|lift|slide|rail)(?:[._ ]|$)", re.IGNORECASE)
_BARE = re.compile(r"(?:^|[._ ])(?:vel|q[wxyz]|quat\w*|force|torque|effort|current)(?:[._ ]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class JointGuess:
    """One dimension of state and action.

    Attributes:
        name: Its name.
        unit: Guessed unit, of `rise_env.tasks.JointLayout`.
        why: What the unit was guessed from.
        lower: Lower limit.
        upper: Upper limit.
        least: Smallest value, of state and action.
        most: Largest value.
    """

    name: str
    unit: str
    why: str
    lower: float
    upper: float
    least: float
    most: float


@dataclass(frozen=True)
class TimeGuess:
    """Times in control steps.

    Attributes:
        chunk: Actions per chunk, a multiple of `stride`.
        stride: Steps between two imagined frames.
        execute: Actions of a chunk that are run.
        lags: Past moments that a policy looks at.
        lag: Longest time, s, after which a joint follows its command; NaN if none shows it.
    """

    chunk: int
    stride: int
    execute: int
    lags: tuple[int, ...]
    lag: float


def guess_joints(dataset: Dataset) -> list[JointGuess]:
    """Unit and limits of every joint, from its name and its values."""
    state, action = (np.asarray(values, np.float64) for values in (dataset.state, dataset.action))
    both = np.stack([np.quantile(x, _QUANTILES, axis=0) for x in (state, action)])
    low, high = both[:, 0].min(0), both[:, 1].max(0)
    least, most = np.minimum(state.min(0), action.min(0)), np.maximum(state.max(0), action.max(0))
    return [_joint(*one) for one in zip(dataset.spec.layout.names, low, high, least, most, strict=True)]


def _joint(name: str, low: float, high: float, least: float, most: float) -> JointGuess:
    unit, why = _unit(name, low, high)
    smallest = {"rad": 0.05, "deg": 3.0, "m": 0.005}.get(unit, 0.0)
    margin = max(_MARGIN * (high - low), smallest) or max(0.05 * abs(high), 0.05)
    lower, upper = low - margin, high + margin
    if _HANDS.search(name):  # closed is where it begins, and what is full is known
        lower = 0.0 if low >= -0.02 * abs(high) else lower
        full = next((full for full in (1.0, 100.0) if unit == "none" and 0.2 * full < high <= 1.02 * full), None)
        upper = full or upper
    digits = max(2, 3 - math.floor(math.log10(upper - lower)))
    return JointGuess(name, unit, why, round(float(lower), digits), round(float(upper), digits), least, most)


def _unit(name: str, low: float, high: float) -> tuple[str, str]:
    reach = max(abs(low), abs(high))
    if _BARE.search(name):
        return "none", "by its name it is neither an angle nor a length"
    if _HANDS.search(name):
        if low >= -0.02 and reach <= 0.15:
            return "m", "the name is that of a gripper, and values to 0.15 are an opening in metres"
        if low >= -0.02 * reach:
            return "none", "the name is that of a gripper or hand, and values from 0 are its share of opening"
    elif _PLACES.search(name):
        return "m", "by its name it is a position"
    if reach <= 2.1 * math.pi:
        return "rad", "no value is beyond a turn in radians"
    return "deg", "values beyond a turn in radians: degrees, or a scale to 100, which is treated alike"


def unlike_targets(dataset: Dataset) -> list[str]:
    """Joints whose commands have nothing to do with where they are: velocities, changes, or another feature."""
    state, action = (np.asarray(values, np.float64) for values in (dataset.state, dataset.action))
    parts = [values - values.mean(0) for values in (state, action)]
    scale = np.sqrt(np.prod([(values**2).sum(0) for values in parts], axis=0))
    moves = scale > 1e-9
    likeness = np.divide((parts[0] * parts[1]).sum(0), scale, out=np.ones(len(scale)), where=moves)
    return [name for name, like in zip(dataset.spec.layout.names, likeness, strict=True) if like < _ALIKE]


def guess_progress(dataset: Dataset) -> tuple[str, str]:
    """What the value learns from (`value.labels.progress`), "dense" or "time", and why.

    "dense" wants a column `progress` with a number in [0, 1] per frame, of which many lie between: RISE's recordings of
    a robot, too, have that column, but nobody measures it there, and it is 0 up to the success.
    """
    if "progress" not in dataset.columns:
        return "time", "no column `progress`: a success's frames count by time. Measured progress in [0, 1] is better"
    column = np.asarray(dataset.column("progress"), np.float64)
    if column.size != dataset.num_frames:
        return "time", f"the column `progress` has {column.size // dataset.num_frames} numbers per frame, not one"
    if not np.isfinite(column).all():
        return "time", "the column `progress` has values that are not finite"
    least, most = float(column.min()), float(column.max())
    if least < 0 or most > 1:
        return "time", f"the column `progress` runs from {least:.4g} to {most:.4g}, not from 0 to 1"
    between = float(((column > 0) & (column < 1)).mean())
    if between < _BETWEEN:
        return "time", f"the column `progress` is between 0 and 1 in {between:.0%} of the frames: nobody measured it"
    return "dense", f"the dataset measures it: a column `progress` from {least:.4g} to {most:.4g}"


def guess_times(dataset: Dataset) -> TimeGuess:
    """Chunk, stride, steps to run and lags that fit frame rate, episode lengths and the lag of the joints.

    Raises:
        DatasetError: If most episodes are shorter than any chunk.
    """
    fps, lags = dataset.spec.fps, command_lag(dataset)
    lag = float(np.nanmax(lags)) if np.isfinite(lags).any() else math.nan
    # A chunk's end must show what the chunk commands, not what was commanded before.
    seconds = max(_CHUNK, 3 * lag if lag > 0 else 0.0)
    short, middle = int(np.quantile(dataset.lengths, 0.1)), int(np.median(dataset.lengths))
    # Two chunks in nine of ten episodes, and as many frames of a chunk as there is room for.
    stride = max(1, min(math.floor(seconds * fps / FRAMES + 0.5), (short - 1) // 2 // FRAMES))
    frames = next((count for count in (FRAMES, FRAMES // 2) if count * stride < short), FRAMES // 4)
    if frames * stride >= middle:
        raise DatasetError(
            f"{dataset.name}: half of its {dataset.num_episodes} episodes have at most {middle} frames, too few for "
            "any action chunk. Record longer episodes, or leave the short ones out."
        )
    chunk = frames * stride
    furthest = min(3, frames - 1)
    looks = min(furthest, max(1, math.floor(_LOOK_BACK * fps / stride + 0.5)))
    return TimeGuess(chunk, stride, max(1, chunk // 2), (looks * stride,) if looks else (), lag)


def guess_image_size(cameras: Sequence[tuple[int, int]], pixels: int = 48 * 64) -> tuple[int, int]:
    """Height and width for cameras of these sizes: multiples of 16 near so many pixels, least distorted on the whole.

    Example:
        >>> guess_image_size([(480, 640)]), guess_image_size([(720, 1280)])
        ((48, 64), (48, 80))
    """
    pixels = min(pixels, max(height * width for height, width in cameras))

    def distortion(size: tuple[int, int]) -> float:
        shape = sum(abs(math.log(size[0] / size[1] * width / height)) for height, width in cameras) / len(cameras)
        return shape + 0.2 * abs(math.log(size[0] * size[1] / pixels))

    choices = range(16, 161, 16)
    return min(((height, width) for height in choices for width in choices), key=distortion)
