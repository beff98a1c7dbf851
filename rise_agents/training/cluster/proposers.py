"""Chunks proposed for a fixed number of observations at once: they do not depend on where that is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.policies.base import Policy

__all__ = ["SlicedProposer", "slices"]


def slices(
    observations: Mapping[str, Any], noise: torch.Tensor, rows: int
) -> Iterator[tuple[dict[str, np.ndarray], torch.Tensor]]:
    """Observations, `rows` at once, and the noise (N * G, ...) of each part, in tensors of their own."""
    seen = {key: np.asarray(value) for key, value in observations.items()}
    count = len(seen["state"])
    each = len(noise) // count
    for first in range(0, count, rows):
        last = min(first + rows, count)
        # A view would be sent with all of its storage.
        yield {key: value[first:last] for key, value in seen.items()}, noise[first * each : last * each].clone()


class SlicedProposer:
    """Proposes in this process what workers would propose.

    Args:
        rows: Observations at once.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __call__(
        self, policy: Policy, observations: Mapping[str, Any], noise: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Chunks as of `Policy.propose`."""
        parts = slices(observations, noise, self._rows)
        return torch.cat([policy.propose(policy.context_of(seen), drawn, guidance) for seen, drawn in parts])
