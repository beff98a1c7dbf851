"""The runner: budget, checkpoints, resume, progress bar, TensorBoard and what else is done now and then in a run.

An algorithm has nothing to do with any of it. A run that is killed at any point and started again ends with the same
weights, bit for bit: the budget is a number of imagined chunks, schedules follow it, and checkpoints hold all state.
Time decides only when a checkpoint or a film is written.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rise_agents.algorithms.base import Algorithm
from rise_agents.training.tensorboard import make_logger, write_film
from rise_env.errors import TrainingError, requirement
from rise_env.files import write_json

__all__ = ["Budget", "Film", "Probe", "Runner", "read_history"]

_HISTORY = "history.json"
#: Rounds between two entries of the history.
_HISTORY_ROUNDS = 10
_FILM_SEED = 4711


@dataclass(frozen=True)
class Budget:
    """How long to run.

    Attributes:
        chunks: Imagined chunks in all, those before an interruption included. Schedules follow it: it belongs to the
            run's settings, and another number gives another policy.
        minutes: Stop after so much time, interruptions left out, although chunks are left. The policy is then that of
            a run that was cut short: how far it got depends on the machine.
    """

    chunks: int
    minutes: float | None = None

    def __post_init__(self) -> None:
        require = requirement("budget")
        require(self.chunks >= 1, f"{self.chunks} imagined chunks, expected at least 1")
        require(self.minutes is None or self.minutes > 0, f"{self.minutes} minutes, expected a positive number")


class Probe(Protocol):
    """Something to look at in a run, before it, now and then, and after it; it must not change the algorithm."""

    def __call__(self, algorithm: Algorithm[Any]) -> None:
        """Look."""


class Film:
    """Imagines chunks of the policy from the same few recorded states every time, for TensorBoard.

    Args:
        envs: Environments for it alone, in autoreset mode "disabled" with `render_mode="rgb_array"`.
    """

    def __init__(self, envs: Any) -> None:
        self._envs = envs.unwrapped

    def __call__(self, algorithm: Algorithm[Any]) -> None:
        """Write a film."""
        envs = self._envs
        observations, _ = envs.reset(seed=_FILM_SEED)
        envs.step(algorithm.predict(observations, deterministic=True)[0])
        films = [np.stack(film) for film in envs.film() if film]
        if films:
            task = envs.task
            write_film(algorithm.logger, "imagined", np.concatenate(films, axis=1), task.fps / task.stride,
                       algorithm.num_timesteps)  # fmt: skip


class Runner:
    """Runs an algorithm in a folder.

    Args:
        algorithm: Algorithm, freshly made; `run` restores it.
        folder: Run folder: `model/` (the policy), `training_state.pt`, `metrics.json`, `history.json`, `tensorboard/`.
        budget: How long.
        probes: Called before, every `probe_seconds`, and after.
        progress_bar: Show one.
        save_seconds: Time between two checkpoints.
        probe_seconds: Time between two calls of the probes.
        tensorboard: Write TensorBoard files.
        on_start: Called once the state is restored, with the imagined chunks so far.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        folder: str | Path,
        budget: Budget,
        *,
        probes: Sequence[Probe] = (),
        progress_bar: bool = True,
        save_seconds: float = 60.0,
        probe_seconds: float = 120.0,
        tensorboard: bool = True,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.algorithm, self.folder, self.budget = algorithm, Path(folder), budget
        self._probes, self._progress_bar, self._tensorboard = list(probes), progress_bar, tensorboard
        self._save_seconds, self._probe_seconds, self._on_start = save_seconds, probe_seconds, on_start
        self._history: list[dict[str, float]] = []

    def run(self) -> Algorithm[Any]:
        """Go on from where the folder stands, to the end of the budget.

        Raises:
            CheckpointError: If the folder holds another run, or is damaged.
            TrainingError: If the algorithm cannot go on; what it had learned until then is saved.
        """
        algorithm, clock = self.algorithm, _Clock(self.folder / "seconds.json")
        if algorithm.restore(self.folder):
            done = algorithm.num_timesteps
            self._history = [row for row in read_history(self.folder) if row["chunks"] <= done]
        left = self.budget.chunks - algorithm.num_timesteps
        if self._on_start is not None:
            self._on_start(algorithm.num_timesteps)
        if left <= 0:
            return algorithm
        if self._tensorboard:
            algorithm.set_logger(make_logger(self.folder / "tensorboard"))
        with self._saved(), clock.running():
            self._probe()
            algorithm.learn(
                left, callback=_Watch(self, clock), reset_num_timesteps=False, progress_bar=self._progress_bar
            )
            self._probe()
        return algorithm

    @contextlib.contextmanager
    def _saved(self) -> Iterator[None]:
        """Save at the end. What stops a round halfway leaves the last checkpoint, so that the round is done again."""
        try:
            yield
            self.save()
        except TrainingError:
            self.save()
            raise
        finally:
            self.algorithm.logger.close()

    def save(self) -> None:
        """Write a checkpoint now."""
        self.algorithm.save(self.folder)
        write_json(self.folder / _HISTORY, self._history)

    def _note(self) -> None:
        algorithm = self.algorithm
        if algorithm.rounds % _HISTORY_ROUNDS == 1:
            self._history.append({"chunks": algorithm.num_timesteps, **algorithm.scalars()})

    def _probe(self) -> None:
        for probe in self._probes:
            probe(self.algorithm)


class _Watch:
    """What the runner does after a round."""

    def __init__(self, runner: Runner, clock: _Clock) -> None:
        self._runner, self._clock = runner, clock
        self._started = self._saved = self._probed = time.monotonic()
        self._before = runner.algorithm.num_timesteps

    def __call__(self, algorithm: Algorithm[Any]) -> bool:
        runner, now = self._runner, time.monotonic()
        algorithm.metrics["time/imagined_chunks_per_second"] = (algorithm.num_timesteps - self._before) / max(
            now - self._started, 1e-9
        )
        runner._note()
        if now - self._probed > runner._probe_seconds:
            runner._probe()
            self._probed = time.monotonic()
        if now - self._saved > runner._save_seconds:
            runner.save()
            self._clock.write()
            self._saved = time.monotonic()
        limit = runner.budget.minutes
        return limit is None or self._clock.seconds() < 60 * limit


class _Clock:
    """Seconds of a run, those before an interruption included."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = float(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else 0.0
        self._started = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._started = time.monotonic()
        try:
            yield
        finally:
            self.write()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def write(self) -> None:
        write_json(self._file, self.seconds())


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """Metrics of every tenth round of a run: rows with "chunks", the imagined chunks so far, and metrics by tag."""
    file = Path(folder) / _HISTORY
    rows: list[dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return rows
