"""Something that acts, whoever and wherever it is: one protocol for policies, experts, operators and servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Actor"]


@runtime_checkable
class Actor(Protocol):
    """Something that acts: a batch of observations in, a batch of action chunks out.

    Trained policies, experts, operators, random actions and policies behind a server all look like this to whoever runs
    episodes: evaluation, recording, films, the oracle environment, deployment.

    Attributes:
        lags: Past observations that it reads besides the present one, in control steps: the `observation_lags` that an
            environment must be made with.
    """

    lags: tuple[int, ...]

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """New episodes start in the environments of `mask`, bool (N,); `seeds` has one seed per environment."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Action chunks, (N, chunk, D) float32 in rad and m, for observations with a leading axis N."""
