"""A trained policy as an actor: seeds and observations in, action chunks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rise_agents.policies.base import Policy
from rise_agents.policies.real_time import RtcConstraint
from rise_env.errors import ConfigError

__all__ = ["PolicyActor"]


class PolicyActor:
    """A trained policy that acts in environments; a `rise_env.acting.RtcActor`.

    The noise of an episode depends on its seed alone, whatever else runs beside it.

    Args:
        policy: Policy; put into evaluation mode.
        advantage_bin: Advantage bin to ask for; the best when None.
        guidance: As in `Policy.sample`; the policy's own when None.
        steps: As in `Policy.sample`.
        noise_scale: Standard deviation of the initial noise; 1 as trained, 0 deterministic; the policy's own when None.

    Attributes:
        lags: Past observations that the policy reads, in control steps.
        supports_rtc: Whether the policy knows real-time chunking.
        rows: See `rise_env.acting.rows_at_a_time`; `Policy.rows`.
    """

    def __init__(
        self,
        policy: Policy,
        advantage_bin: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        noise_scale: float | None = None,
    ) -> None:
        self.policy, self.lags, self.supports_rtc = policy.eval(), tuple(policy.lags), policy.supports_rtc
        self.rows = policy.rows
        self.advantage_bin = policy.codec.best_bin if advantage_bin is None else advantage_bin
        self.guidance, self.steps = policy.guidance if guidance is None else guidance, steps
        self.noise_scale = policy.noise_scale if noise_scale is None else noise_scale
        self._generators: list[torch.Generator] = []

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed the episodes that start."""
        if len(self._generators) != len(seeds):
            self._generators = [torch.Generator() for _ in seeds]
        for generator, seed, starts in zip(self._generators, seeds, mask, strict=True):
            if starts:
                generator.manual_seed(int(seed))

    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """Action chunks float32 (N, chunk, D), rad and m, within the joint limits."""
        return self._act(observations)

    def act_rtc(self, observations: Mapping[str, Any], previous: np.ndarray, delay: int, horizon: int) -> np.ndarray:
        """Action chunks like `act`, under the constraints of real-time chunking: see `RtcConstraint`.

        Args:
            observations: With a leading axis N.
            previous: What is left of the chunks that are being executed, (N, R, D), rad and m.
            delay: Rows of it that will have been executed when the new chunks arrive.
            horizon: Rows over which the new chunks are to agree with it.

        Raises:
            ConfigError: If the policy supports no real-time chunking.
        """
        if not self.supports_rtc:
            kind = type(self.policy).__name__
            raise ConfigError(f"a {kind} knows no real-time chunking; use the execution strategy smooth")
        old = torch.as_tensor(previous, dtype=torch.float32).to(self.policy.device)
        return self._act(observations, rtc=RtcConstraint(old, delay, horizon))

    @torch.no_grad()
    def _act(self, observations: Mapping[str, Any], **how: Any) -> np.ndarray:
        policy, context = self.policy, self.policy.context_of(observations)
        bins = torch.full((len(context),), self.advantage_bin, device=policy.device)
        noise = self.noise_scale * policy.draw_noise(self._generators)
        chunks = policy.sample(context, bins, noise, guidance=self.guidance, steps=self.steps, **how)
        return policy.within_limits(chunks).cpu().numpy()
