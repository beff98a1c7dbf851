"""What an evaluation found: episodes, and their summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from rise_env.errors import ConfigError

__all__ = ["Episode", "EvaluationResult", "summarise", "wilson_interval"]


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode.

    Attributes:
        seed: Seed it was reset with.
        success: Whether the task succeeded.
        score: Sub-goal score, [0, 10].
        failure_mode: "none", "timeout" or one of the task's.
        seconds: Duration in the environment, s.
        chunks: Action chunks used.
    """

    seed: int
    success: bool
    score: float
    failure_mode: str
    seconds: float
    chunks: int


@dataclass(frozen=True)
class EvaluationResult:
    """Outcome of an evaluation.

    Attributes:
        success_rate: Share of successes.
        success_interval: 95 % Wilson interval of the success rate.
        score_mean: Mean sub-goal score, [0, 10].
        episodes: Number of episodes.
        failure_modes: Failed episodes by mode.
        seconds: Wall-clock time of the whole evaluation, s.
        episode_seconds: Mean duration of an episode in the environment, s.
        details: Every episode, by seed.
    """

    success_rate: float
    success_interval: tuple[float, float]
    score_mean: float
    episodes: int
    failure_modes: dict[str, int]
    seconds: float
    episode_seconds: float
    details: tuple[Episode, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationResult:
        """From `to_dict`, also as read back from JSON; further entries are ignored.

        Raises:
            ConfigError: If entries are missing.
        """
        try:
            values = {field.name: content[field.name] for field in fields(cls)}
            values["details"] = tuple(Episode(**episode) for episode in values["details"])
            return cls(**{**values, "success_interval": tuple(values["success_interval"])})
        except (KeyError, TypeError) as error:
            said = f"no entry {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"this is no evaluation result: {said}") from error


def summarise(episodes: Sequence[Episode], seconds: float) -> EvaluationResult:
    """Sum up episodes; `seconds` is the wall-clock time they took."""
    ordered = tuple(sorted(episodes, key=lambda e: e.seed))
    count, successes = len(ordered), sum(e.success for e in ordered)
    return EvaluationResult(
        success_rate=successes / count,
        success_interval=wilson_interval(successes, count),
        score_mean=float(np.mean([e.score for e in ordered])),
        episodes=count,
        failure_modes=dict(Counter(e.failure_mode for e in ordered if not e.success).most_common()),
        seconds=seconds,
        episode_seconds=float(np.mean([e.seconds for e in ordered])),
        details=ordered,
    )


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927); z = 1.96 gives 95 %."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
