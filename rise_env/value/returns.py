"""Returns, targets and advantages of RECAP (arXiv 2511.14759): the value of a state is the time left to success.

Every control step costs 1, success nothing, failure a fixed cost on top. Returns are divided per task, so that they lie
in [-1, 0] and tasks of any length share one range. Functions of plain arrays: E episodes and their N frames, episode
after episode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rise_env.errors import ConfigError
from rise_env.value.losses import bin_centers

__all__ = ["TARGETS", "bin_targets", "episode_returns", "n_step_advantages", "return_scales"]

#: Distributions that a return is turned into.
TARGETS = ("hl_gauss", "one_hot")
_SIGMA = 0.75  # deviation of "hl_gauss", in bins


def return_scales(
    lengths: np.ndarray, tasks: Sequence[str], failure_cost: float, percentile: float = 100.0
) -> dict[str, float]:
    """Control steps that a return of -1 stands for, by task: H - 1 + failure_cost.

    Args:
        lengths: Frames per episode, int (E,).
        tasks: Instruction of each episode.
        failure_cost: C_fail, in control steps.
        percentile: H is this percentile of the task's episode lengths; 100, the longest, as published.
    """
    names = np.array(tasks)
    return {
        task: max(float(np.percentile(lengths[names == task], percentile)) - 1 + failure_cost, 1.0)
        for task in sorted(set(tasks))
    }


def episode_returns(lengths: np.ndarray, success: np.ndarray, failure_cost: float, scales: np.ndarray) -> np.ndarray:
    """Normalised Monte-Carlo return of every frame, float32 (N,) in [-1, 0]: at an episode's last frame 0 or -C_fail.

    Args:
        lengths: Frames per episode, int (E,).
        success: Outcomes, bool (E,).
        failure_cost: C_fail, in control steps.
        scales: What the returns of each episode are divided by, (E,); an episode that is longer is cut off at -1.
    """
    left = np.concatenate([np.arange(length - 1, -1, -1.0) for length in lengths])
    cost = np.where(success, 0.0, failure_cost)
    returns = -(left + np.repeat(cost, lengths)) / np.repeat(scales, lengths)
    return np.clip(returns, -1.0, 0.0).astype(np.float32)


def n_step_advantages(
    values: np.ndarray, returns: np.ndarray, lengths: np.ndarray, ended: np.ndarray, scales: np.ndarray, n: int
) -> np.ndarray:
    """Advantage of what was done at every frame: rewards of n control steps, plus the value there, less the value here.

    Where the episode ends within n steps, what came of it takes the place of rewards and value. An episode that was cut
    off has no outcome: the value of its last frame stands for the rest.

    Args:
        values: Values of all frames, (N,).
        returns: From `episode_returns`, (N,).
        lengths: Frames per episode, int (E,).
        ended: Whether the outcome is known, bool (E,).
        scales: As for `episode_returns`, (E,).
        n: Control steps; 0 for all that are left (Monte Carlo).

    Returns:
        float32 (N,).
    """
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    here = np.arange(len(values))
    left = last - here
    ahead = np.minimum(left, n) if n else left
    known = np.repeat(ended, lengths) & (left <= ahead)
    bootstrapped = np.asarray(values, np.float64)[here + ahead] - ahead / np.repeat(scales, lengths)
    return (np.where(known, returns, bootstrapped) - values).astype(np.float32)


def bin_targets(returns: torch.Tensor, bins: int, form: str, terminal: torch.Tensor | None = None) -> torch.Tensor:
    """Distributions (n, bins) over bins from -1 to 0 that a value is trained on.

    Args:
        returns: In [-1, 0], (n,).
        bins: Number of bins; their centres reach from -1 to 0, both included.
        form: "one_hot": all on the nearest bin. "hl_gauss" (arXiv 2403.03950): a normal distribution of 0.75 bins
            around the return, integrated over every bin, and cut off at both ends.
        terminal: Frames whose return is the outcome itself, bool (n,): one-hot in either form.

    Raises:
        ConfigError: If a return is not in [-1, 0], or the form is unknown.
    """
    if form not in TARGETS:
        raise ConfigError(f"value target {form!r} is not one of {', '.join(TARGETS)}")
    if not bool(((returns >= -1) & (returns <= 0)).all()):
        raise ConfigError(f"returns from {float(returns.min())} to {float(returns.max())} leave [-1, 0]")
    nearest = ((returns + 1) * (bins - 1)).round().long()
    hard = torch.nn.functional.one_hot(nearest, bins).to(returns.dtype)
    if form == "one_hot":
        return hard
    width = 1 / (bins - 1)
    centers = bin_centers(bins).to(returns)
    edges = torch.cat([centers - width / 2, centers[-1:] + width / 2])
    below = torch.special.ndtr((edges - returns[:, None]) / (_SIGMA * width))
    soft = below.diff(dim=1) / (below[:, -1:] - below[:, :1])
    return soft if terminal is None else torch.where(terminal[:, None], hard, soft)
