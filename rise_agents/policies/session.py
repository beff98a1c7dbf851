"""What a client's connection to a policy server remembers, whatever the policy: recent observations and their times."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rise_agents.policies.reading import ObservationReader
from rise_env.acting import ObservationHistory
from rise_env.errors import ActionError, ConfigError
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec

__all__ = ["ObservingSession", "about_task", "empty_observation", "plain"]

logger = logging.getLogger(__name__)


class ObservingSession(ABC):
    """One client's connection; a subclass says what acts.

    Args:
        spec: Task of the policy.
        lags: Past moments that the policy reads, in control steps.
        bars: See `ObservationReader`.
        clock: Seconds, for clients that tell neither step nor time.
    """

    #: Entries of an observation that are read besides what is seen.
    optional: tuple[str, ...] = ("prompt", "reset", "seed", "step", "timestamp")

    def __init__(self, spec: TaskSpec, lags: tuple[int, ...], bars: str, clock: Callable[[], float]) -> None:
        self._spec, self._lags, self._clock = spec, lags, clock
        self._reader = ObservationReader(spec, lags, bars)
        self._history = ObservationHistory(lags)
        self._moment: float | None = None  # of the last observation, control steps
        self._time_key: str | None = None
        self._warned = False

    @abstractmethod
    def _prepare(self, observation: Mapping[str, Any]) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """Check what an observation says besides what is seen; what then makes actions (chunk, D) of a batch of one."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Answer an observation (see docs/serving.md for its keys).

        Returns:
            `actions` float32 (chunk, D) in rad and m, within the joint limits; `state`, D floats as they were read;
            `policy_timing` with `infer_ms`; `unread_keys` if some of the client's were; `lag_steps`, how far back the
            remembered observations were that stood in for each lag; `image_bars`, "cut" or "add", where it mattered.

        Raises:
            ConfigError: If the observation is wrong.
            ActionError: If the policy's actions are not finite.
        """
        started = time.perf_counter()
        reading, act = self._reader.read(observation), self._prepare(observation)
        reset = bool(observation.get("reset", False))
        answer: dict[str, Any] = {}
        batch = {key: value[None] for key, value in {**reading.present, **reading.past}.items()}
        moment = self._time(observation, reset) if self._lags and not reading.past else None
        if reset:
            self._history.reset()
            self._moment = None
        if moment is not None:
            self._history.push(batch, elapsed=0.0 if self._moment is None else moment - self._moment)
            self._moment = moment
            batch = self._history.observe()
            answer["lag_steps"] = self._history.ages()[0].round(3).tolist()
        actions = act(batch)
        if not np.isfinite(actions).all():
            raise ActionError("the policy's actions are not finite (NaN or infinity); none are sent")
        if unread := self._unread(observation, reading.used):
            answer["unread_keys"] = unread
        if self._reader.bars != "auto":
            answer["image_bars"] = self._reader.bars
        timing = {"infer_ms": 1e3 * (time.perf_counter() - started)}
        # A list: openpi's ActionChunkBroker takes every array of an answer for one row per step of the chunk.
        return {"actions": actions, "state": reading.present["state"].tolist(), "policy_timing": timing, **answer}

    def _said(self, observation: Mapping[str, Any]) -> tuple[bool, int | None, str]:
        """Whether an episode begins, the seed if one came, and the instruction."""
        reset, seed = observation.get("reset", False), plain(observation.get("seed"))
        if not isinstance(reset, bool | np.bool_):
            raise ConfigError(f"'reset' is {reset!r}, expected true or false")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**63):
            raise ConfigError(f"'seed' is {seed!r}, expected a whole number from 0")
        prompt = observation.get("prompt", self._spec.prompt)
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError(f"'prompt' is {prompt!r}, expected an instruction")
        return bool(reset), seed, prompt

    def _time(self, observation: Mapping[str, Any], reset: bool) -> float:
        """When the observation was made, in control steps on the client's clock or, if it tells none, on ours."""
        given = [key for key in ("step", "timestamp") if key in observation]
        if len(given) == 2:
            raise ConfigError("'step' and 'timestamp' came both: one of them says when the observation was made")
        key = given[0] if given else "arrival"
        fps = self._spec.fps
        if key == "arrival":
            moment = self._clock() * fps
        else:
            value = plain(observation[key])
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
        names = [key for key in observation if key not in (*self.optional, "images")]
        nested = observation.get("images", {})
        unread = sorted({*names, *(f"images/{name}" for name in nested)} - used)
        if unread and not self._warned:
            self._warned = True
            logger.warning("a client sends what this policy does not read: %s", ", ".join(unread))
        return unread


def about_task(spec: TaskSpec, lags: tuple[int, ...]) -> dict[str, Any]:
    """What a server says of a policy's task; plain values."""
    return {
        "server": "rise",
        "task": spec.name,
        "prompt": spec.prompt,
        "cameras": dict(spec.cameras),
        "image_size": list(spec.image_size),
        "joint_names": list(spec.layout.names),
        "joint_units": list(spec.layout.units),
        "action_shape": [spec.chunk, spec.layout.dim],
        "fps": spec.fps,
        "execute": spec.execute,
        "lags": list(lags),
    }


def empty_observation(spec: TaskSpec, lags: tuple[int, ...]) -> dict[str, Any]:
    """An observation of zeros, the past included."""
    observation: dict[str, Any] = {"prompt": spec.prompt}
    for lag in (0, *lags):
        for camera in spec.cameras:
            observation[lag_key(image_key(camera), lag)] = np.zeros((*spec.image_size, 3), np.uint8)
        observation[lag_key("state", lag)] = np.zeros(spec.layout.dim, np.float32)
    return observation


def plain(value: Any) -> Any:
    """NumPy scalars, and arrays of one element, as Python's numbers and text."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.size == 1):
        return value.item()
    return value
