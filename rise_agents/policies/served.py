"""A trained policy as a policy server serves it: a session per client, who may be one of openpi's or of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.policies.base import Policy, observation_tensors
from rise_agents.policies.loading import advantage_bin_of
from rise_agents.policies.reading import ObservationReader
from rise_agents.policies.real_time import RtcConstraint
from rise_agents.policies.session import ObservingSession, about_task, empty_observation, plain
from rise_env.errors import ConfigError

__all__ = ["PolicyService", "ServedSession"]

_RTC = ("prev_action_chunk", "inference_delay", "execute_horizon")  # real-time chunking


class PolicyService:
    """A policy for a policy server; satisfies `rise_robot.serving.ServedPolicy`.

    Args:
        policy: Policy; put into evaluation mode.
        advantage: Advantage bin to ask for where a client says none: see `policies.loading.advantage_bin_of`.
        guidance: As in `Policy.sample`; the policy's own when None.
        steps: As in `Policy.sample`.
        bars: What to do with images of another shape: see `ObservationReader`.
        clock: Seconds, for clients that tell neither step nor time.

    Raises:
        ConfigError: If there is no such bin, or an argument is wrong.
    """

    def __init__(
        self,
        policy: Policy,
        advantage: str | int = "best",
        *,
        guidance: float | None = None,
        steps: int | None = None,
        bars: str = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy.eval()
        self.advantage_bin = advantage_bin_of(policy, str(advantage))
        self.guidance = policy.guidance if guidance is None else guidance
        self.steps, self.bars, self.clock = steps, bars, clock
        ObservationReader(policy.spec, policy.lags, bars)  # names that contradict each other are said at once

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients learn when they connect; plain values."""
        codec = self.policy.codec
        return {
            **about_task(self.policy.spec, tuple(self.policy.lags)),
            "policy": type(self.policy).__name__,
            "advantage_bins": codec.num_bins,
            "advantage": "none" if self.advantage_bin == codec.unconditional else self.advantage_bin,
            "noise_shape": list(self.policy.noise_shape),
            "real_time_chunking": self.policy.supports_rtc,
        }

    def open(self) -> ServedSession:
        """A session for a new client."""
        return ServedSession(self)

    def example(self) -> dict[str, Any]:
        """An observation of zeros, the past included."""
        return empty_observation(self.policy.spec, tuple(self.policy.lags))


class ServedSession(ObservingSession):
    """One client's connection, with the noise that its episodes start from.

    Args:
        service: What it belongs to.
    """

    optional = (*ObservingSession.optional, "advantage", "noise", *_RTC)

    def __init__(self, service: PolicyService) -> None:
        self._service, policy = service, service.policy
        super().__init__(policy.spec, tuple(policy.lags), service.bars, service.clock)
        self._generator = torch.Generator()
        self._generator.seed()

    def _prepare(self, observation: Mapping[str, Any]) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        _, seed, prompt = self._said(observation)
        asked, given, rtc = self._advantage_bin(observation), self._noise(observation), self._rtc(observation)
        service, policy = self._service, self._service.policy

        @torch.no_grad()
        def act(batch: dict[str, np.ndarray]) -> np.ndarray:
            if seed is not None:
                self._generator.manual_seed(seed)
            context = policy.context(observation_tensors(batch, policy.device), [prompt])
            if given is None:
                noise = policy.noise_scale * policy.draw_noise([self._generator])
            else:
                noise = given.to(policy.device)[None]
            bins = torch.full((1,), asked, device=policy.device)
            constraint = {} if rtc is None else {"rtc": rtc}
            chunks = policy.sample(context, bins, noise, guidance=service.guidance, steps=service.steps, **constraint)
            return policy.within_limits(chunks)[0].float().cpu().numpy()

        return act

    def _advantage_bin(self, observation: Mapping[str, Any]) -> int:
        if "advantage" not in observation:
            return self._service.advantage_bin
        value = plain(observation["advantage"])
        if type(value) not in (int, str):  # 1 is a bin, and 1.0 might be meant as a measured advantage
            raise ConfigError(
                f"'advantage' is {value!r}, expected the name of a bin (best, middle, worst, none) or its number, a "
                f"whole one from 0 to {self._service.policy.codec.best_bin}"
            )
        return advantage_bin_of(self._service.policy, str(value))

    def _noise(self, observation: Mapping[str, Any]) -> torch.Tensor | None:
        if "noise" not in observation:
            return None
        value, shape = observation["noise"], self._service.policy.noise_shape
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.shape != shape:
            came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ConfigError(f"'noise' is {came}, expected standard normal floats of shape {shape}")
        if not np.isfinite(value).all():
            raise ConfigError("'noise' is not finite (NaN or infinity)")
        return torch.from_numpy(value.astype(np.float32))

    def _rtc(self, observation: Mapping[str, Any]) -> RtcConstraint | None:
        given = [key for key in _RTC if key in observation]
        if not given:
            return None
        policy = self._service.policy
        if missing := [key for key in _RTC if key not in observation]:
            raise ConfigError(f"{given[0]!r} came without {missing[0]!r}: real-time chunking needs {', '.join(_RTC)}")
        if not policy.supports_rtc:
            kind = type(policy).__name__
            raise ConfigError(f"{given[0]!r}: a {kind} knows no real-time chunking; send none of its keys")
        rest, dim = observation[_RTC[0]], policy.spec.layout.dim
        if not isinstance(rest, np.ndarray) or rest.dtype.kind != "f" or rest.ndim != 2 or rest.shape[1] != dim:
            came = f"{rest.dtype} {rest.shape}" if isinstance(rest, np.ndarray) else type(rest).__name__
            raise ConfigError(f"{_RTC[0]!r} is {came}, expected floats (R, {dim}): what is left to play, rad and m")
        if not 1 <= len(rest) <= policy.spec.chunk or not np.isfinite(rest).all():
            raise ConfigError(f"{_RTC[0]!r} has {len(rest)} rows, expected 1 to {policy.spec.chunk}, all finite")
        counts = [plain(observation[key]) for key in _RTC[1:]]
        for key, value in zip(_RTC[1:], counts, strict=True):
            if type(value) is not int or value < 0:
                raise ConfigError(f"{key!r} is {value!r}, expected a whole number of control steps from 0")
        return RtcConstraint(torch.from_numpy(rest.astype(np.float32))[None], *counts)
