"""States of the work cell drawn afresh from a seed, which chunks can be run from again and again.

Each state is reached by a scripted policy in an episode of its own seed and stopped at a random step, so nobody can
have tuned anything to the states of a seed that was not used before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from rise_env.protocols import History
from rise_env.tasks import TaskSpec
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import CellConfig
from rise_robot.cell.render import CellRenderer

__all__ = ["FreshStates", "Ran", "State"]

#: Policies that lead to the states, taken in turn.
_BEHAVIOUR_POLICIES = ("operator", "corrected", "operator", "expert", "operator-distracted")
_LATEST_START = 36


@dataclass(frozen=True)
class State:
    """A state of the cell. History T, views V, joints D.

    Attributes:
        seed: Seed of its episode.
        snapshot: What the cell goes back to.
        frames: uint8 (T, V, H, W, 3), oldest first.
        joints: float32 (T, D), rad and m.
        progress: Ground truth, [0, 1].
        rng: Draws what is particular to this state.
    """

    seed: int
    snapshot: CellState
    frames: np.ndarray
    joints: np.ndarray
    progress: float
    rng: np.random.Generator


class Ran(NamedTuple):
    """What came of a chunk.

    Attributes:
        frames: uint8 (n, V, H, W, 3), after the steps that were asked for.
        joints: float32 (n, D), measured then.
        progress: float32 (K,), ground truth as often as frames are imagined.
        snapshot: The cell after it.
        success: Whether the task has succeeded.
    """

    frames: np.ndarray
    joints: np.ndarray
    progress: np.ndarray
    snapshot: CellState
    success: bool


class FreshStates:
    """Some states, and the cell that runs chunks from them.

    Args:
        spec: Task.
        config: Its cell.
        count: Number of states S.
        seed: Seed of the first; the next ones have the next.
        on_state: Called after each.
    """

    def __init__(
        self, spec: TaskSpec, config: CellConfig, count: int, seed: int, on_state: Callable[[], object] = lambda: None
    ) -> None:
        self.spec, self.cell = spec, WorkCell(spec, config)
        self._renderer = CellRenderer(self.cell.model, self.cell.data, config.supersample)
        self.states: list[State] = []
        for index in range(count):
            self.states.append(self._reach(seed + index, _BEHAVIOUR_POLICIES[index % len(_BEHAVIOUR_POLICIES)]))
            on_state()

    def __len__(self) -> int:
        return len(self.states)

    @property
    def seeds(self) -> list[int]:
        """Seed of every state's episode."""
        return [state.seed for state in self.states]

    @property
    def progress(self) -> np.ndarray:
        """Ground-truth progress of every state, float64 (S,)."""
        return np.array([state.progress for state in self.states])

    def history(self, device: torch.device, rows: Sequence[int] | None = None) -> History:
        """Where imaginations of some states start; of all when None."""
        chosen = self.states if rows is None else [self.states[row] for row in rows]
        return History(
            torch.from_numpy(np.stack([state.frames for state in chosen])).to(device),
            torch.from_numpy(np.stack([state.joints for state in chosen])).to(device),
            [self.spec.prompt] * len(chosen),
        )

    def run(self, snapshot: CellState, chunk: np.ndarray, looks: Collection[int]) -> Ran:
        """Run a chunk (chunk, D), rad and m, from a snapshot, with a look after each of the steps `looks`, from 1."""
        self.cell.restore(snapshot)
        seen, progress = [], []
        for step, target in enumerate(chunk, start=1):
            self.cell.step(target)
            if step % self.spec.stride == 0:
                progress.append(self.cell.status.progress)
            if step in looks:
                seen.append((self._look(), self.cell.state()))
        frames = (
            np.stack([one for one, _ in seen]) if seen else np.zeros((0, *self.states[0].frames.shape[1:]), np.uint8)
        )
        joints = np.array([one for _, one in seen], np.float32).reshape(len(seen), self.spec.layout.dim)
        return Ran(frames, joints, np.array(progress, np.float32), self.cell.save(), self.cell.status.success)

    def _reach(self, seed: int, behaviour_policy: str) -> State:
        spec, cell, rng = self.spec, self.cell, np.random.default_rng([seed, 1])
        policy = cell.task.scripted(behaviour_policy, seed)
        start = int(rng.integers(_LATEST_START))
        while True:  # an episode that ends before the drawn step: stop earlier
            back = [max(0, start - spec.stride * lag) for lag in range(spec.history - 1, -1, -1)]
            cell.reset(episode_rng(seed))
            policy.reset()
            seen = {0: (self._look(), cell.state())}
            while cell.steps < start and not cell.status.finished:
                cell.step(policy.plan(1)[0])
                if cell.steps in back:
                    seen[cell.steps] = self._look(), cell.state()
            if not cell.status.finished:
                break
            start = int(rng.integers(cell.steps))
        frames, joints = (np.stack(column) for column in zip(*(seen[step] for step in back), strict=True))
        return State(seed, cell.save(), frames, joints.astype(np.float32), float(cell.status.progress), rng)

    def _look(self) -> np.ndarray:
        return self._renderer.render(list(self.spec.cameras), self.spec.image_size)
