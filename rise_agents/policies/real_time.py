"""Real-time chunking (arXiv 2506.07339): a new chunk is sampled so that it agrees with the one being executed.

Inference-time guidance of the flow: every step pulls the chunk that it heads for towards the rows that will have been
executed by the time it arrives, and ever less towards those after. Works with weights that were trained without it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["RtcConstraint", "filled_up", "guidance_weight", "prefix_weights"]


class RtcConstraint(NamedTuple):
    """What new chunks have to agree with.

    Attributes:
        previous: What is left of the old chunks from the observation on, (B, R, D), rad and m, R >= 1.
        delay: Rows of it that will have been executed when the new chunks arrive.
        horizon: Rows over which old and new are to agree.
    """

    previous: torch.Tensor
    delay: int
    horizon: int


def prefix_weights(delay: int, horizon: int, length: int) -> torch.Tensor:
    """How strongly each row of a new chunk is tied to the old one, float32 (length,).

    1 for the first `delay` rows, then falling linearly to 0 at row `horizon` (LeRobot's linear schedule).
    """
    delay, horizon = min(delay, horizon, length), min(horizon, length)
    weights = torch.zeros(length)
    weights[:delay] = 1.0
    weights[delay:horizon] = torch.linspace(1.0, 0.0, horizon - delay + 2)[1:-1]
    return weights


def filled_up(previous: torch.Tensor, length: int) -> torch.Tensor:
    """Chunks (B, R, D) cut or, with their last row, filled up to (B, length, D)."""
    left = previous[:, :length]
    return torch.cat([left, left[:, -1:].expand(-1, length - left.shape[1], -1)], dim=1)


def guidance_weight(time: float, steps: int) -> float:
    """Weight of the guidance at a time of the flow; at most `steps`: then one Euler step goes all the way."""
    done = 1.0 - time
    if done <= 0.0:
        return float(steps)
    return min(float(steps), (time / done) * (time**2 + done**2) / time**2)
