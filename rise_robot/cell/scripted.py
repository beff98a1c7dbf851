"""What a scripted policy is: ground truth in, a chunk of joint targets out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

__all__ = ["ScriptedPolicy"]


class ScriptedPolicy(ABC):
    """A policy that sees the cell's ground truth.

    It is asked again and again from the state the cell is in by then, so that it recovers from whatever happened in
    between; what it remembers of an episode (a delay, a habit) starts anew with `reset`.

    Attributes:
        name: Name, e.g. "expert" or "operator-noisy".
        kind: Kind that it is of in this episode, where it draws one.
        intervening: Whether the last plan corrected another policy.
    """

    name: str
    kind: str | None = None
    intervening: bool = False

    def reset(self) -> None:  # noqa: B027  (most policies remember nothing)
        """Forget the episode before."""

    @abstractmethod
    def plan(self, horizon: int) -> np.ndarray:
        """Plan `horizon` control steps ahead from the present state: (horizon, D) float64 absolute joint targets, rad
        and m, within the joint limits.
        """
