"""A dataset in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, override

import numpy as np

from rise_env.data.cache import Progress, cache_root
from rise_env.data.dataset import Dataset
from rise_env.errors import DatasetError
from rise_env.tasks import TaskSpec

__all__ = ["ArrayDataset"]


class ArrayDataset(Dataset):
    """A dataset without files.

    Args:
        spec: Task.
        lengths: Frames per episode.
        state: float32 (N, D).
        action: float32 (N, D).
        frames: uint8 (N, V, H, W, 3); black when None.
        outcomes: Bool (E,), or None.
        prompts: Instruction of each episode; the task's when None.
        **columns: Further columns, (N, ...).
    """

    root, frames_key = Path("memory"), "memory"
    state: np.ndarray = np.zeros(0)
    action: np.ndarray = np.zeros(0)
    outcomes: np.ndarray | None = None

    def __init__(
        self,
        spec: TaskSpec,
        lengths: Sequence[int],
        state: np.ndarray,
        action: np.ndarray,
        *,
        frames: np.ndarray | None = None,
        outcomes: np.ndarray | None = None,
        prompts: Sequence[str] | None = None,
        **columns: np.ndarray,
    ) -> None:
        super().__init__(spec, np.asarray(lengths), cache_root())
        self.state, self.action, self.outcomes = state, action, outcomes
        texts = list(prompts or [spec.prompt] * len(lengths))
        self.tasks = dict(enumerate(dict.fromkeys(texts)))
        numbers = {text: i for i, text in self.tasks.items()}
        task_index = np.repeat([numbers[text] for text in texts], self.lengths)
        self._columns = {"task_index": task_index, **columns}
        self.columns = list(self._columns)
        empty = np.zeros((1, *self.frame_shape), np.uint8)
        self._frames = np.broadcast_to(empty, (self.num_frames, *self.frame_shape)) if frames is None else frames

    @property
    @override
    def parts(self) -> tuple[ArrayDataset]:
        return (self,)

    @override
    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise DatasetError(f"there is no column {name!r}")
        return self._columns[name]

    @override
    def frames(self, index: Any) -> np.ndarray:
        return np.array(self._frames[self.check_index(index)])

    @override
    def prepare(self, progress: Progress | None = None) -> None:
        pass
