"""A trained policy as a policy server serves it: a session per client, who may be one of openpi's or of ours."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from rise_agents.policies.base import Policy, observation_tensors
from rise_agents.policies.loading import advantage_bin_of
from rise_agents.policies.reading import ObservationReader
from rise_agents.policies.real_time import RtcConstraint
from rise_env.acting import ObservationHistory
from rise_env.errors import ActionError, ConfigError
from rise_env.spaces import image_key, lag_key

__all__ = ["PolicyService", "ServedSession"]

logger = logging.getLogger(__name__)
_RTC = ("prev_action_chunk", "inference_delay", "execute_horizon")  # real-time chunking
_OPTIONAL = ("advantage", "noise", "prompt", "reset", "seed", "step", "timestamp", *_RTC)


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
        spec, codec = self.policy.spec, self.policy.codec
        return {
            "server": "rise",
            "policy": type(self.policy).__name__,
            "task": spec.name,
            "prompt": spec.prompt,
            "cameras": dict(spec.cameras),
            "image_size": list(spec.image_size),
            "joint_names": list(spec.layout.names),
            "joint_units": list(spec.layout.units),
            "action_shape": [spec.chunk, spec.layout.dim],
            "fps": spec.fps,
            "execute": spec.execute,
            "lags": list(self.policy.lags),
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
        spec = self.policy.spec
        observation: dict[str, Any] = {"prompt": spec.prompt}
        for lag in (0, *self.policy.lags):
            for camera in spec.cameras:
                observation[lag_key(image_key(camera), lag)] = np.zeros((*spec.image_size, 3), np.uint8)
            observation[lag_key("state", lag)] = np.zeros(spec.layout.dim, np.float32)
        return observation


class _Options(NamedTuple):
    """What an observation says besides what is seen."""

    reset: bool
    seed: int | None
    prompt: str
    advantage_bin: int
    noise: torch.Tensor | None
    rtc: RtcConstraint | None


class ServedSession:
    """What one client's connection remembers: recent observations, noise, and how its images come.

    Args:
        service: What it belongs to.
    """

    def __init__(self, service: PolicyService) -> None:
        self._service = service
        policy = service.policy
        self._reader = ObservationReader(policy.spec, policy.lags, service.bars)
        self._history = ObservationHistory(policy.lags)
        self._moment: float | None = None  # of the last observation, control steps
        self._generator = torch.Generator()
        self._generator.seed()
        self._time_key: str | None = None
        self._warned = False

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Answer an observation (see docs/serving.md for its keys).

        Returns:
            `actions` float32 (chunk, D) in rad and m, within the joint limits; `state` float32 (D,) as it was read;
            `policy_timing` with `infer_ms`; `unread_keys` if some of the client's were; `lag_steps`, how far back the
            remembered observations were that stood in for each lag; `image_bars`, "cut" or "add", where it mattered.

        Raises:
            ConfigError: If the observation is wrong.
            ActionError: If the policy's actions are not finite.
        """
        started = time.perf_counter()
        service, policy = self._service, self._service.policy
        reading, options = self._reader.read(observation), self._options(observation)
        answer: dict[str, Any] = {}
        batch = {key: value[None] for key, value in {**reading.present, **reading.past}.items()}
        moment = self._time(observation, options.reset) if policy.lags and not reading.past else None
        if options.reset:
            self._history.reset()
            self._moment = None
        if moment is not None:
            self._history.push(batch, elapsed=0.0 if self._moment is None else moment - self._moment)
            self._moment = moment
            batch = self._history.observe()
            answer["lag_steps"] = self._history.ages()[0].round(3).tolist()
        if options.seed is not None:
            self._generator.manual_seed(options.seed)
        with torch.no_grad():
            context = policy.context(observation_tensors(batch, policy.device), [options.prompt])
            if options.noise is None:
                noise = policy.noise_scale * policy.draw_noise([self._generator])
            else:
                noise = options.noise.to(policy.device)[None]
            bins = torch.full((1,), options.advantage_bin, device=policy.device)
            constraint = {"rtc": options.rtc} if options.rtc else {}
            chunks = policy.sample(context, bins, noise, guidance=service.guidance, steps=service.steps, **constraint)
            actions = policy.within_limits(chunks)[0].float().cpu().numpy()
        if not np.isfinite(actions).all():
            raise ActionError("the policy's actions are not finite (NaN or infinity); none are sent")
        if unread := self._unread(observation, reading.used):
            answer["unread_keys"] = unread
        if self._reader.bars != "auto":
            answer["image_bars"] = self._reader.bars
        timing = {"infer_ms": 1e3 * (time.perf_counter() - started)}
        return {"actions": actions, "state": reading.present["state"], "policy_timing": timing, **answer}

    def _options(self, observation: Mapping[str, Any]) -> _Options:
        reset, seed = observation.get("reset", False), _plain(observation.get("seed"))
        if not isinstance(reset, bool | np.bool_):
            raise ConfigError(f"'reset' is {reset!r}, expected true or false")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise ConfigError(f"'seed' is {seed!r}, expected a whole number from 0")
        prompt = observation.get("prompt", self._service.policy.spec.prompt)
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError(f"'prompt' is {prompt!r}, expected an instruction")
        asked = self._advantage_bin(observation), self._noise(observation), self._rtc(observation)
        return _Options(bool(reset), seed, prompt, *asked)

    def _advantage_bin(self, observation: Mapping[str, Any]) -> int:
        if "advantage" not in observation:
            return self._service.advantage_bin
        value = _plain(observation["advantage"])
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
        counts = [_plain(observation[key]) for key in _RTC[1:]]
        for key, value in zip(_RTC[1:], counts, strict=True):
            if type(value) is not int or value < 0:
                raise ConfigError(f"{key!r} is {value!r}, expected a whole number of control steps from 0")
        return RtcConstraint(torch.from_numpy(rest.astype(np.float32))[None], *counts)

    def _time(self, observation: Mapping[str, Any], reset: bool) -> float:
        """When the observation was made, in control steps on the client's clock or, if it tells none, on ours."""
        given = [key for key in ("step", "timestamp") if key in observation]
        if len(given) == 2:
            raise ConfigError("'step' and 'timestamp' came both: one of them says when the observation was made")
        key = given[0] if given else "arrival"
        fps = self._service.policy.spec.fps
        if key == "arrival":
            moment = self._service.clock() * fps
        else:
            value = _plain(observation[key])
            if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e15:
                raise ConfigError(f"{key!r} is {value!r}, expected a number")
            moment = float(value) * (fps if key == "timestamp" else 1)
        if not reset and self._time_key not in (None, key):
            raise ConfigError(
                f"observations were timed by {self._time_key!r} and now by {key!r}: keep to one, or send 'reset': true"
            )
        if not reset and self._moment is not None and moment < self._moment:
            raise ConfigError(
                f"{key!r} went back by {self._moment - moment:g} control steps: send 'reset': true with the "
                "first observation of an episode"
            )
        self._time_key = key
        return moment

    def _unread(self, observation: Mapping[str, Any], used: frozenset[str]) -> list[str]:
        names = [key for key in observation if key not in (*_OPTIONAL, "images")]
        nested = observation.get("images", {})
        unread = sorted({*names, *(f"images/{name}" for name in nested)} - used)
        if unread and not self._warned:
            self._warned = True
            logger.warning("a client sends what this policy does not read: %s", ", ".join(unread))
        return unread


def _plain(value: Any) -> Any:
    """NumPy scalars, and arrays of one element, as Python's numbers and text."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size == 1):
        return value.item()
    return value
