"""Something that acts, whoever and wherever it is: one protocol for policies, experts, operators and servers.

`ObservationHistory` is what an environment or a server remembers for those that read the past as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from rise_env.errors import ConfigError
from rise_env.spaces import lag_key

__all__ = ["Actor", "ActorSource", "ObservationHistory", "RtcActor", "actor_in", "needed_by", "rows_at_a_time"]


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


@runtime_checkable
class RtcActor(Actor, Protocol):
    """An actor that can do real-time chunking (arXiv 2506.07339): its chunks agree with one that is being played.

    Attributes:
        supports_rtc: Whether it can: a wrapper has the method whatever it wraps.
    """

    supports_rtc: bool

    def act_rtc(
        self, observations: Mapping[str, np.ndarray], previous: np.ndarray, delay: int, horizon: int
    ) -> np.ndarray:
        """Action chunks, (N, chunk, D) float32 in rad and m, that agree with the chunks being played.

        Args:
            observations: As of `act`.
            previous: What is left of those chunks from the observation on, (N, R, D), rad and m, R >= 1.
            delay: Leading rows of it that will have been played when the new chunks arrive.
            horizon: Leading rows over which the new chunks are constrained.
        """


#: Who acts: an actor, or a function that makes or finds it for a vector environment; the function may have `lags`, too.
type ActorSource = Actor | Callable[[gymnasium.vector.VectorEnv], Actor]


def needed_by(source: ActorSource) -> dict[str, Any]:
    """Keyword arguments that an environment must be made with for an actor."""
    lags = getattr(source, "lags", ())
    return {"observation_lags": list(lags)} if lags else {}


def rows_at_a_time(actor: Actor) -> int:
    """How many observations an actor is asked about in one call where results must not depend on their number.

    That is its attribute `rows`, or one. The size of a batch changes the last bits of matrix products; what else is in
    it, and where a row stands, must not.
    """
    return int(getattr(actor, "rows", 1))


def actor_in(source: ActorSource, envs: gymnasium.vector.VectorEnv) -> Actor:
    """The actor for a vector environment."""
    return source if isinstance(source, Actor) else source(envs)


class ObservationHistory:
    """The recent observations of a batch of environments, as far back as some lags reach.

    For each lag, the observation is taken that lies nearest in time to so many control steps ago. At the start of an
    episode that is its first one. Observations may come at every control step, only at those that will be asked for, or
    at irregular times.

    Args:
        lags: Control steps into the past.
        num_envs: Number of environments N.

    Example:
        >>> history = ObservationHistory(lags=(2,), num_envs=1)
        >>> for step in range(4):
        ...     history.push({"state": np.array([[step]])})
        >>> history.observe()
        {'state': array([[3]]), 'state_lag2': array([[1]])}
    """

    def __init__(self, lags: Sequence[int], num_envs: int = 1) -> None:
        self.lags = tuple(int(lag) for lag in lags)
        self._furthest = max(self.lags, default=0)
        self._kept: list[list[tuple[float, dict[str, np.ndarray]]]] = [[] for _ in range(num_envs)]

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget the episodes of the environments of `mask`, bool (N,); of all when None."""
        for kept, starts in zip(self._kept, self._all if mask is None else mask, strict=True):
            if starts:
                kept.clear()

    def push(
        self, observations: Mapping[str, np.ndarray], mask: np.ndarray | None = None, elapsed: float = 1.0
    ) -> None:
        """Take in the present observations; they are copied.

        Observations less than half a control step apart replace each other, so that memory stays bounded.

        Args:
            observations: Arrays (N, ...), without lagged entries.
            mask: Environments that have moved on, bool (N,); all when None.
            elapsed: Control steps since the last push, at least 0. The first push of an episode ignores it.

        Raises:
            ConfigError: If the arrays are not of N environments.
        """
        for key, value in observations.items():
            if len(value) != len(self._kept):
                raise ConfigError(f"{key!r} is of {len(value)} environments, the history of {len(self._kept)}")
        for i in np.flatnonzero(self._all if mask is None else mask):
            kept = self._kept[i]
            now = kept[-1][0] + elapsed if kept else 0.0
            # Compared with the last but one: else a fast stream would push the last one ever onwards.
            if (len(kept) >= 2 and now - kept[-2][0] < 0.5) or (kept and now == kept[-1][0]):
                kept.pop()
            kept.append((now, {key: np.array(value[i]) for key, value in observations.items()}))
            while len(kept) > 1 and kept[1][0] <= now - self._furthest:  # a later one is nearer to every lag
                kept.pop(0)

    def observe(self) -> dict[str, np.ndarray]:
        """The last observations and, under `rise_env.spaces.lag_key`, those of every lag; arrays (N, ...).

        Raises:
            ConfigError: If nothing was pushed since an environment was reset.
        """
        found: dict[str, np.ndarray] = {}
        for lag in (0, *self.lags):
            moments = [self._nearest(kept, lag)[1] for kept in self._kept]
            found |= {lag_key(key, lag): np.stack([moment[key] for moment in moments]) for key in moments[0]}
        return found

    def ages(self) -> np.ndarray:
        """How old the observations of every lag really are, in control steps: float64 (N, number of lags)."""
        return np.array([[kept[-1][0] - self._nearest(kept, lag)[0] for lag in self.lags] for kept in self._kept])

    @property
    def _all(self) -> np.ndarray:
        return np.ones(len(self._kept), bool)

    @staticmethod
    def _nearest(kept: list[tuple[float, dict[str, np.ndarray]]], lag: int) -> tuple[float, dict[str, np.ndarray]]:
        if not kept:
            raise ConfigError("an environment was reset, and no observation of it was pushed since")
        wanted = kept[-1][0] - lag
        return min(kept, key=lambda moment: abs(moment[0] - wanted))
