"""A policy of LeRobot as a policy server serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rise_agents.policies.lerobot_base import LeRobotBase
from rise_agents.policies.reading import ObservationReader
from rise_agents.policies.session import ObservingSession, about_task, empty_observation

__all__ = ["LeRobotService"]


class LeRobotService:
    """A LeRobot policy for a policy server; satisfies `rise_robot.serving.ServedPolicy`.

    Args:
        policy: Policy.
        bars: What to do with images of another shape: see `ObservationReader`.
        clock: Seconds, for clients that tell neither step nor time.
    """

    def __init__(self, policy: LeRobotBase, *, bars: str = "auto", clock: Callable[[], float] = time.monotonic) -> None:
        self.policy, self.bars, self.clock = policy, bars, clock
        ObservationReader(policy.spec, policy.lags, bars)  # names that contradict each other are said at once

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients learn when they connect; plain values."""
        about = about_task(self.policy.spec, self.policy.lags)
        return {**about, "policy": f"lerobot {self.policy.policy.config.type}", "real_time_chunking": False}

    def open(self) -> _Session:
        """A session for a new client."""
        return _Session(self)

    def example(self) -> dict[str, Any]:
        """An observation of zeros, the past included."""
        return empty_observation(self.policy.spec, self.policy.lags)


class _Session(ObservingSession):
    def __init__(self, service: LeRobotService) -> None:
        self._policy = service.policy.fresh()
        super().__init__(self._policy.spec, self._policy.lags, service.bars, service.clock)
        self._begin(None)

    def _begin(self, seed: int | None) -> None:
        fallback = int(np.random.default_rng().integers(2**63))
        self._policy.reset([fallback if seed is None else seed], np.ones(1, bool))

    def _prepare(self, observation: Mapping[str, Any]) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        reset, seed, prompt = self._said(observation)

        def act(batch: dict[str, np.ndarray]) -> np.ndarray:
            if reset or seed is not None:
                self._begin(seed)
            return self._policy.act(batch, [prompt])[0]

        return act
