"""What a comparison found: a row per variant and task, its training seeds together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_agents.evaluation.paired import Gain, mean_gain, success_gain
from rise_agents.evaluation.results import EvaluationResult, wilson_interval
from rise_env.errors import ConfigError

__all__ = ["CompareRow", "RunResult", "compare_rows"]

#: What a run costs, in `RunResult.cost` and as means over the training seeds in `CompareRow.cost`.
COSTS = ("imagined_chunks", "recorded_chunks", "real_steps", "rounds", "train_seconds")


@dataclass(frozen=True)
class RunResult:
    """What one run found.

    Attributes:
        seed: Training seed.
        evaluation: Episodes in the cell.
        returns: Return in imagination from every held-out state, (M,).
        cost: See `COSTS`.
    """

    seed: int
    evaluation: EvaluationResult
    returns: np.ndarray
    cost: Mapping[str, float]


@dataclass(frozen=True)
class CompareRow:
    """A variant on a task.

    Attributes:
        task: Task.
        name: Variant.
        note: A few words on it.
        seeds: Training seeds; empty where nothing is trained.
        episodes: Episodes of all seeds.
        success: Success rate over all of them.
        interval: Its 95 % Wilson interval.
        each: Success rate of every seed.
        score: Mean sub-goal score, [0, 10].
        failures: Failed episodes by mode.
        against: Variant that gains are measured against; None for the base itself.
        gain: Paired gain in success, percentage points.
        imagined: Mean return in imagination.
        imagined_gain: Paired gain in it.
        cost: Means over the seeds.
    """

    task: str
    name: str
    note: str
    seeds: tuple[int, ...]
    episodes: int
    success: float
    interval: tuple[float, float]
    each: tuple[float, ...]
    score: float
    failures: dict[str, int]
    against: str | None
    gain: Gain | None
    imagined: float
    imagined_gain: Gain | None
    cost: dict[str, float]

    @property
    def verdict(self) -> str:
        """What the two gains say together."""
        if self.gain is None or self.imagined_gain is None:
            return "reference"
        cell, imagined = self.gain.direction, self.imagined_gain.direction
        if cell > 0:
            return "better" if imagined > 0 else "better, unseen by imagination"
        if imagined > 0:
            return "in imagination only" if cell == 0 else "better in imagination, worse in the cell"
        return "worse" if cell < 0 else "no difference"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        gains = {name: one and one._asdict() for name, one in (("gain", self.gain),
                                                              ("imagined_gain", self.imagined_gain))}  # fmt: skip
        return {**dataclasses.asdict(self), **gains, "verdict": self.verdict}


def compare_rows(
    task: str, runs: Mapping[str, Sequence[RunResult]], against: Mapping[str, str], notes: Mapping[str, str], base: str
) -> list[CompareRow]:
    """Sum up the runs of a task.

    Args:
        task: Task.
        runs: Runs of every variant; variants without any are left out.
        against: Variant that each is compared with; without runs of it, there are no gains.
        notes: A few words on each.
        base: The variant that is compared with nothing.

    Raises:
        ConfigError: If runs are not of the same episodes and states.
    """
    return [_row(task, name, found, runs.get(against[name], ()), against[name], notes[name], base)
            for name, found in runs.items() if found]  # fmt: skip


def _row(
    task: str, name: str, runs: Sequence[RunResult], other: Sequence[RunResult], against: str, note: str, base: str
) -> CompareRow:
    results = [run.evaluation for run in runs]
    wins = sum(episode.success for result in results for episode in result.details)
    episodes = sum(result.episodes for result in results)
    gain = imagined_gain = None
    if name != base and other:
        gain = success_gain(other[0].evaluation, results)
        if {run.returns.shape for run in (*runs, other[0])} != {other[0].returns.shape}:
            raise ConfigError(f"{name} and {against} were imagined from different states: remove one of them")
        imagined_gain = mean_gain(other[0].returns, [run.returns for run in runs])
    failures: Counter[str] = Counter()
    for result in results:
        failures.update(result.failure_modes)
    trained = any(run.cost["train_seconds"] for run in runs)
    return CompareRow(
        task=task,
        name=name,
        note=note,
        seeds=tuple(run.seed for run in runs) if trained else (),
        episodes=episodes,
        success=wins / episodes,
        interval=wilson_interval(wins, episodes),
        each=tuple(result.success_rate for result in results),
        score=float(np.mean([result.score_mean for result in results])),
        failures=dict(failures.most_common()),
        against=None if name == base else against,
        gain=gain,
        imagined=float(np.mean([run.returns.mean() for run in runs])),
        imagined_gain=imagined_gain,
        cost={key: float(np.mean([run.cost[key] for run in runs])) for key in COSTS},
    )
