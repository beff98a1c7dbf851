"""Policies of this process as a robot asks them: one observation at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rise_agents.policies.real_time import RealTimeRunner, can_tie
from rise_robot.env import RobotEnv
from rise_robot.execution import RTC_KEYS

__all__ = ["LocalPolicy", "ScriptedPolicyInCell"]


class LocalPolicy:
    """A trained policy: satisfies `rise_robot.deployed.DeployedPolicy`.

    Args:
        runner: The policy, with the advantage to ask for.
        name: For the records.
    """

    def __init__(self, runner: RealTimeRunner, name: str) -> None:
        self._runner, self.name = runner, name
        self.lags = tuple(runner.policy.lags)
        self.real_time_chunking = can_tie(runner.policy)

    def begin(self, seed: int) -> None:
        """Seed the noise of an episode."""
        self._runner.begin([seed], np.ones(1, bool))

    def infer(self, observation: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> np.ndarray:
        """A chunk; told what is being played, one that agrees with it."""
        batch = {key: value[None] for key, value in observation.items()}
        if not told:
            return self._runner.act(batch)[0]
        previous, delay, horizon = (told[key] for key in RTC_KEYS)
        return self._runner.act_tied(batch, np.asarray(previous)[None], int(delay), int(horizon))[0]

    def close(self) -> None:
        """Nothing to end."""


class ScriptedPolicyInCell:
    """An expert or operator, which sees the ground truth of the cell behind the driver, in simulated time.

    Args:
        env: Robot with the driver "cell".
        name: Name of the scripted policy.
    """

    real_time_chunking = False
    lags: tuple[int, ...] = ()

    def __init__(self, env: RobotEnv, name: str) -> None:
        self._env, self.name, self._seed = env, name, 0

    def begin(self, seed: int) -> None:
        """Seed its habits."""
        self._seed = seed

    def infer(self, observation: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> np.ndarray:
        """A chunk from the present state."""
        del observation, told
        return self._env.scripted_chunk(self.name, self._seed)

    def close(self) -> None:
        """Nothing to end."""
