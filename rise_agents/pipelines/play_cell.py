"""The work cell beside an imagination: the same start, the same chunks, what the cameras truly see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_env.registry import TASKS
from rise_env.tasks import TaskSpec
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import load_cell
from rise_robot.cell.render import CellRenderer, free_graphics

__all__ = ["CellChunk", "CellStart", "TrueCell", "cell_beside"]


@dataclass(frozen=True)
class CellStart:
    """A state of the cell, and how it was reached.

    Attributes:
        frames: uint8 (T, V, H, W, 3), the history that a dynamics model needs, the present last.
        states: float32 (T, D), rad and m.
        state: Snapshot of the cell.
        progress: Ground truth, [0, 1].
    """

    frames: np.ndarray
    states: np.ndarray
    state: CellState
    progress: float


@dataclass(frozen=True)
class CellChunk:
    """What truly came of a chunk.

    Attributes:
        frames: uint8 (K, V, H, W, 3), as often as a dynamics model imagines frames.
        progress: float32 (K,), ground truth, [0, 1].
        state: Snapshot of the cell after it.
    """

    frames: np.ndarray
    progress: np.ndarray
    state: CellState


class TrueCell:
    """A work cell that goes where it is told: to the state of an episode, and on from any snapshot.

    Rendering belongs to one thread: make it where it is used.

    Args:
        spec: Task of the world model beside it.

    Raises:
        ConfigError: If the task has no work cell.
    """

    def __init__(self, spec: TaskSpec) -> None:
        _, config = load_cell(spec.name)
        self.spec, self.cell = spec, WorkCell(spec, config)
        self._renderer = CellRenderer(self.cell.model, self.cell.data, config.supersample)

    @property
    def scripted(self) -> tuple[str, ...]:
        """Names of the scripted policies."""
        return tuple(self.cell.task.scripted_policies)

    def lead(self, seed: int, policy: str, steps: int) -> CellStart:
        """Run an episode with a scripted policy for so many control steps, or to its end if that is sooner.

        Raises:
            ConfigError: If there is no such policy.
        """
        cell, spec = self.cell, self.spec
        acting = cell.task.scripted(policy, seed)
        cell.reset(episode_rng(seed))
        acting.reset()
        seen = [(self._look(), cell.state())]
        while cell.steps < steps and not cell.status.finished:
            cell.step(acting.plan(1)[0])
            seen.append((self._look(), cell.state()))
        back = [seen[max(0, len(seen) - 1 - spec.stride * lag)] for lag in reversed(range(spec.history))]
        frames, states = (np.stack(column) for column in zip(*back, strict=True))
        return CellStart(frames, states.astype(np.float32), cell.save(), cell.status.progress)

    def plan(self, state: CellState, policy: str, seed: int) -> np.ndarray:
        """A scripted policy's chunk from a snapshot, float32 (chunk, D), rad and m."""
        self.cell.restore(state)
        acting = self.cell.task.scripted(policy, seed)
        acting.reset()
        return acting.plan(self.spec.chunk).astype(np.float32)

    def run(self, state: CellState, chunk: np.ndarray) -> CellChunk:
        """Run a chunk (chunk, D), rad and m, from a snapshot."""
        self.cell.restore(state)
        frames, progress = [], []
        for step, target in enumerate(chunk, start=1):
            self.cell.step(target)
            if step % self.spec.stride == 0:
                frames.append(self._look())
                progress.append(self.cell.status.progress)
        return CellChunk(np.stack(frames), np.array(progress, np.float32), self.cell.save())

    def close(self) -> None:
        """Let go of what rendering takes, in the thread that has rendered."""
        free_graphics()

    def _look(self) -> np.ndarray:
        return self._renderer.render(list(self.spec.cameras), self.spec.image_size)


def cell_beside(spec: TaskSpec) -> TrueCell | None:
    """The work cell of a task; None where it has none, as tasks that are known from recordings."""
    if spec.name not in TASKS or TASKS.load(spec.name).cell is None:  # registered for its imagination alone
        return None
    return TrueCell(spec)
