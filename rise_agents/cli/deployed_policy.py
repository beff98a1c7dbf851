"""A trained policy of this process as a robot asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rise_agents.policies.real_time import RealTimeRunner, can_tie

__all__ = ["LocalPolicy"]


class LocalPolicy:
    """Satisfies `rise_env.acting.RtcActor`.

    Args:
        runner: The policy, with the advantage to ask for.
    """

    def __init__(self, runner: RealTimeRunner) -> None:
        self._runner = runner
        self.lags = tuple(runner.policy.lags)
        self.supports_rtc = can_tie(runner.policy)

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed the noise of an episode."""
        self._runner.begin(seeds, mask)

    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """Action chunks."""
        return self._runner.act(dict(observations))

    def act_rtc(self, observations: Mapping[str, Any], previous: np.ndarray, delay: int, horizon: int) -> np.ndarray:
        """Action chunks that agree with what is being played."""
        return self._runner.act_tied(observations, previous, delay, horizon)
