"""Losses and targets of the value heads. Shapes: M ensemble members, n frames; targets (n,), weights (M, n)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rise_env.value.config import TDConfig
from rise_env.value.labels import Labels

__all__ = [
    "Transition",
    "bin_centers",
    "distributional_loss",
    "expectation",
    "progress_loss",
    "success_loss",
    "td_loss",
    "td_target",
    "td_transition",
    "two_hot",
]


def bin_centers(bins: int) -> torch.Tensor:
    """Centres of the bins of the distributional head: evenly from -1 to 0, both included."""
    return torch.linspace(-1.0, 0.0, bins)


def two_hot(values: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Probabilities (..., bins) on the two bins next to each value, such that their expectation is the value.

    Args:
        values: Any shape, in [centers[0], centers[-1]].
        centers: Rising and evenly spaced.

    Raises:
        ValueError: If a value lies outside the bins or is not finite.
    """
    low, high, last = float(centers[0]), float(centers[-1]), len(centers) - 1
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"values from {float(values.min())} to {float(values.max())} leave the bins [{low}, {high}]")
    position = (values - low) * (last / (high - low))
    below = position.floor().clamp(0, last - 1)
    upper = (position - below).clamp(0, 1)
    probabilities = torch.zeros(*values.shape, last + 1, dtype=values.dtype, device=values.device)
    index = below.to(torch.int64).unsqueeze(-1)
    probabilities.scatter_(-1, index, (1 - upper).unsqueeze(-1))
    return probabilities.scatter_(-1, index + 1, upper.unsqueeze(-1))


def expectation(logits: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Mean (...) of the distribution with logits (..., bins)."""
    return (logits.softmax(-1) * centers).sum(-1)


def progress_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of (V - progress)^2 for logits (M, n)."""
    return _mean((torch.sigmoid(logits) - target) ** 2, weight)


def success_loss(logits: torch.Tensor, success: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy to whether the episode succeeds, for logits (M, n) and float `success` (n,)."""
    return _mean(F.binary_cross_entropy_with_logits(logits, success.expand_as(logits), reduction="none"), weight)


def distributional_loss(
    logits: torch.Tensor, returns: torch.Tensor, centers: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Weighted cross-entropy to the bins of the normalised Monte-Carlo return, for logits (M, n, bins)."""
    return _mean(-(two_hot(returns, centers) * logits.log_softmax(-1)).sum(-1), weight)


def td_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of (tanh - target)^2 for logits (M, n) and targets (M, n) or (n,)."""
    return _mean((torch.tanh(logits) - target.detach()) ** 2, weight)


def _mean(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)


class Transition(NamedTuple):
    """What the TD target of some frames is made of.

    Attributes:
        next_index: Frame that the target bootstraps from, int64 (n,); the frame itself where it does not.
        reward: Discounted reward until then, float32 (n,).
        discount: Factor of the next frame's value, float32 (n,); 0 where the outcome lies before it.
        known: Whether there is a target, bool (n,): not for the last frame of an episode that was cut off.
    """

    next_index: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    known: np.ndarray


def td_transition(labels: Labels, index: np.ndarray, config: TDConfig) -> Transition:
    """Look `config.n_step` frames ahead of each frame.

    The value of the outcome frame is its reward, and so is that of the frames after it. An episode that was cut off
    (`labels.ended` false) pays nothing: its frames bootstrap from its last frame at the latest.
    """
    episode = labels.episode[index]
    local = index - labels.starts[episode]
    ended = labels.ended[episode]
    end = np.where(ended, labels.outcome[episode], labels.lengths[episode] - 1)
    ahead = np.clip(end - local, 0, config.n_step)
    final = ended & (local + ahead >= end)
    paid = np.where(labels.success[episode], config.success, config.failure)
    factor = config.gamma ** ahead.astype(np.float64)
    next_index = np.where(final, index, index + ahead).astype(np.int64)
    reward, discount = np.where(final, factor * paid, 0.0), np.where(final, 0.0, factor)
    return Transition(next_index, reward.astype(np.float32), discount.astype(np.float32), final | (ahead > 0))


def td_target(reward: torch.Tensor, discount: torch.Tensor, next_value: torch.Tensor, config: TDConfig) -> torch.Tensor:
    """Clamped target (M, n) from the target network's next values (M, n)."""
    return (reward + discount * next_value).clamp(-config.clamp, config.clamp)
