"""What `worldsample` is made of: critic, transitions, perturbed copies of chunks, their selection, an entropy."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rise_agents.evaluation.results import Episode

__all__ = ["Critic", "Transitions", "admitted", "joined", "perturbed", "sample_entropy", "size", "transitions"]

#: Blur, in normalised units, under which the entropy of sampled chunks is measured.
_BLUR = 0.1
_STILL = 1e-4  # rad or m: a joint that moves less than this in a chunk stays still in its copies

type Transitions = dict[str, torch.Tensor]


class Critic(nn.Module):
    """Two critics and a value on features of what is seen and a normalised chunk.

    The value has dropout, which is what makes advantages: every state was visited once, with one chunk, and a value
    that knows it by heart says what the critic says.
    """

    def __init__(self, features: int, chunk: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()

        def network(inputs: int, drop: float) -> nn.Module:
            first = [nn.LayerNorm(inputs), nn.Dropout(drop), nn.Linear(inputs, hidden), nn.LayerNorm(hidden)]
            second = [nn.SiLU(), nn.Dropout(drop), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)]
            return nn.Sequential(*first, *second)

        self.critics = nn.ModuleList([network(features + chunk, 0.0) for _ in range(2)])
        self.value = network(features, dropout)

    def q(self, features: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Both critics, (2, n)."""
        together = torch.cat([features, chunks.flatten(1)], dim=1)
        return torch.stack([critic(together)[:, 0] for critic in self.critics])

    def v(self, features: torch.Tensor) -> torch.Tensor:
        """Values, (n,)."""
        found: torch.Tensor = self.value(features)[:, 0]
        return found


def transitions(episode: Episode, decisions: int, steps: int, execute: int, discount: float) -> Transitions:
    """Rewards and discounts of an episode's chunks, float32 (n,).

    The reward is 1 for the chunk that succeeds. A chunk of h control steps is discounted by discount^h, and by 0 where
    nothing follows. The last chunk of an episode that ran out of time is left out: time is no end of the task, and what
    was seen after it is not known.
    """
    lengths = np.full(decisions, execute)
    lengths[-1] = steps - execute * (decisions - 1)
    discounts, rewards = np.power(discount, lengths), np.zeros(decisions)
    rewards[-1], discounts[-1] = float(episode.success), 0.0
    count = decisions - (not episode.success and episode.failure_mode in ("none", "timeout"))
    pair = {"reward": rewards, "discount": discounts}
    return {key: torch.from_numpy(value[:count].astype(np.float32)) for key, value in pair.items()}


def perturbed(
    chunks: torch.Tensor, states: torch.Tensor, scale: float, noise: float, generator: torch.Generator
) -> torch.Tensor:
    """Copies of chunks (n, chunk, D) from joint states (n, D), rad and m, that move differently.

    The motion of joint j relative to the state is multiplied by xi_j, uniform in 1 +- scale and the same throughout a
    chunk; noise of `noise` deviations of its motions over all chunks is added. Joints that do not move stay still.
    """
    motion = chunks - states[:, None]
    factor = 1 + scale * (2 * torch.rand((len(chunks), 1, chunks.shape[2]), generator=generator) - 1)
    spread = motion.flatten(0, 1).std(dim=0)
    moved = motion * factor + noise * spread * torch.randn(chunks.shape, generator=generator)
    still = motion.abs().amax(dim=1, keepdim=True) < _STILL
    return states[:, None] + torch.where(still, motion, moved)


def admitted(q: np.ndarray, positive: np.ndarray, real: float, max_gap: float, kept: np.ndarray) -> np.ndarray:
    """Numbers of the admitted samples, as many positive as negative ones, int64 (2 k,).

    Pairs are taken in order while the mean of both queues stays near the real one, |(E+ q + E- q) / 2 - real| <=
    max_gap; a pair that would leave the bound is passed over, one that leads back to it is taken. The paper prints the
    sum of both means in place of half of it. Returns here lie in [0, 1]: the sum is twice the real mean, and leaves any
    useful bound as soon as the critic has learned something, however alike the samples are.

    Args:
        q: What the critic says of the samples, (n,).
        positive: Which of them count as a success, bool (n,).
        real: Mean of what it says of real ones.
        max_gap: delta_Q.
        kept: What it says of those in the queues already, as many positive as negative ones, (m,).
    """
    rows: list[int] = []
    total, count = float(kept.sum()), len(kept)
    gap = abs(total / count - real) if count else 0.0
    for good, bad in zip(np.flatnonzero(positive), np.flatnonzero(~positive), strict=False):
        after = total + float(q[good] + q[bad])
        new = abs(after / (count + 2) - real)
        if new <= max(max_gap, gap - 1e-9):
            rows += [int(good), int(bad)]
            total, count, gap = after, count + 2, new
    return np.array(rows, np.int64)


def sample_entropy(samples: torch.Tensor) -> float:
    """How undecided a policy is, at least 0, in nats per component: an estimate from samples, for want of a density.

    The entropy of a Gaussian with the samples' variance, blurred, less that of the blur: 1/2 log(1 + (s / 0.1)^2),
    mean over states and components.

    Args:
        samples: Normalised chunks, (samples, states, components).
    """
    return float(0.5 * torch.log1p(samples.var(dim=0) / _BLUR**2).mean())


def joined(before: Transitions, new: Transitions, most: int) -> Transitions:
    """The last `most` of both."""
    if not size(before) or not size(new):
        return before if size(before) else new
    return {key: torch.cat([before[key], new[key]])[-most:].clone() for key in new}


def size(some: Transitions) -> int:
    """Number of transitions."""
    return len(some["state"]) if some else 0
