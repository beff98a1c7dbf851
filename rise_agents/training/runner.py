"""The runner: budget, checkpoints, resume, progress bar, TensorBoard and what else is done now and then in a run.

An algorithm has nothing to do with any of it. A run that is killed at any point and started again ends with the same
weights, bit for bit: the budget is a number of imagined chunks, schedules follow it, and checkpoints hold all state.
Time decides only when a checkpoint or a film is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Protocol

import imageio.v3 as iio
import numpy as np
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary

from rise_agents.algorithms.base import Algorithm
from rise_env.errors import ConfigError, requirement
from rise_env.files import read_json, write_json

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
        real_steps: In place of `chunks` the control steps in all, for algorithms that act in the work cell.
        minutes: Stop after so much time, interruptions left out, although chunks are left. The policy is then that of
            a run that was cut short: how far it got depends on the machine.
    """

    chunks: int
    minutes: float | None = None
    real_steps: int | None = None

    def __post_init__(self) -> None:
        require = requirement("budget")
        require.at_least(1, self, "chunks", "real_steps")
        require.positive(self, "minutes")


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
            fps = envs.task.fps / envs.task.stride
            _write_film(algorithm.logger, "imagined", np.concatenate(films, axis=1), fps, algorithm.num_timesteps)


@dataclass
class Runner:
    """Runs an algorithm in a folder.

    Args:
        algorithm: Algorithm, freshly made; `run` restores it.
        folder: Run folder: `model/` (the policy), `training_state.pt`, `metrics.json`, `history.json`, `tensorboard/`.
        budget: How long.
        probes: Called before, every `probe_seconds`, and after.
        progress_bar: Show one.
        save_seconds: Time between two checkpoints; the first one of a new run follows its first round.
        probe_seconds: Time between two calls of the probes.
        tensorboard: Write TensorBoard files.
        on_start: Called once the state is restored, with the part of the budget that is spent (`Algorithm.spent`).
        on_round: Called after every round; like a probe it must not change the algorithm.
    """

    algorithm: Algorithm[Any]
    folder: Path
    budget: Budget
    _: KW_ONLY
    probes: Sequence[Probe] = ()
    progress_bar: bool = True
    save_seconds: float = 60.0
    probe_seconds: float = 120.0
    tensorboard: bool = True
    on_start: Callable[[int], None] = lambda spent: None
    on_round: Callable[[Algorithm[Any]], None] = lambda algorithm: None

    def run(self) -> Algorithm[Any]:
        """Go on from where the folder stands, to the end of the budget.

        What stops a round halfway leaves the last checkpoint, so that the round is done again; a note of the exception
        says which.

        Raises:
            CheckpointError: If the folder holds another run, or is damaged.
            TrainingError: If the algorithm cannot go on.
        """
        algorithm, limit = self.algorithm, 60 * (self.budget.minutes or math.inf)
        algorithm.restore(self.folder)
        budget = self.budget.real_steps if algorithm.needs_cell else self.budget.chunks
        if budget is None:
            raise ConfigError(f"{algorithm.name} acts in the cell: its budget is a number of real_steps")
        before, chunks_before = algorithm.spent, algorithm.num_timesteps
        history = [row for row in read_history(self.folder)
                   if row["chunks"] <= chunks_before
                   and row.get("time/real_steps", 0) <= algorithm.num_real_steps]  # fmt: skip
        file = self.folder / "seconds.json"  # of the run, those before an interruption included
        spent = read_json(file, float, 0.0, "Delete it: only times are lost.")
        self.on_start(before)
        if before >= budget or spent >= limit:
            return algorithm
        if self.tensorboard:
            board = str(self.folder / "tensorboard")
            algorithm.set_logger(Logger(board, [TensorBoardOutputFormat(board)]))
        started = saved = probed = time.monotonic()
        begun = started - spent
        kept: int | None = before or None

        def save() -> None:
            nonlocal saved, kept
            write_json(self.folder / _HISTORY, history)  # first: what is ahead of the state is left out when it is read
            algorithm.save(self.folder)
            kept = algorithm.spent
            write_json(file, time.monotonic() - begun)
            saved = time.monotonic()

        def probe() -> None:
            for one in self.probes:
                one(algorithm)

        def after_round(algorithm: Algorithm[Any]) -> bool:
            nonlocal probed
            now, chunks = time.monotonic(), algorithm.num_timesteps
            algorithm.metrics["time/imagined_chunks_per_second"] = (chunks - chunks_before) / max(now - started, 1e-9)
            if algorithm.rounds % _HISTORY_ROUNDS == 1:
                history.append({"chunks": chunks, **algorithm.scalars()})
            self.on_round(algorithm)
            if now - probed > self.probe_seconds:
                probe()
                probed = time.monotonic()
            if now - saved > self.save_seconds or kept is None:
                save()
            return time.monotonic() - begun < limit

        try:
            probe()
            started = saved = probed = time.monotonic()
            algorithm.learn(budget - before, after_round, reset_num_timesteps=False, progress_bar=self.progress_bar)
            probe()
            save()
        except BaseException as stopped:
            unit = algorithm.phase().unit
            stopped.add_note(
                f"{self.folder} keeps nothing yet: the first checkpoint follows the first round" if kept is None
                else f"{self.folder} keeps {kept:,} {unit}: the same command goes on from there"
            )  # fmt: skip
            raise
        finally:
            algorithm.logger.close()
        return algorithm


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """Metrics of every tenth round of a run: rows with "chunks", the imagined chunks so far, and metrics by tag."""
    file = Path(folder) / _HISTORY
    return read_json(file, list[dict[str, Any]], [], "Delete it: only curves are lost.")


def _write_film(logger: Logger, tag: str, frames: np.ndarray, fps: float, step: int) -> None:
    """Write frames uint8 (T, H, W, 3) for TensorBoard, if it is written to; it shows them among the images."""
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            # `SummaryWriter.add_video` would ask for moviepy; TensorBoard plays any encoded GIF.
            gif: Any = iio.imwrite("<bytes>", frames, extension=".gif", duration=1000 / fps, loop=0)
            image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=gif)
            output.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
            output.writer.flush()  # films are rare: whoever looks now sees the last one, and all metrics up to it
