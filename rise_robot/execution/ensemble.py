"""Temporal ensembling (ACT, arXiv 2304.13705): every step is a weighted mean of all chunks that know it."""

from __future__ import annotations

import numpy as np

from rise_robot.config import EnsembleConfig
from rise_robot.execution.base import ChunkExecutor, Merge

__all__ = ["EnsembleExecutor"]


class EnsembleExecutor(ChunkExecutor):
    """Weights exp(-decay i) over the chunks that cover a step, i = 0 the oldest."""

    name = "ensemble"

    def __init__(self, period: int = 1, config: EnsembleConfig | None = None) -> None:
        super().__init__(period)
        self._decay = (config or EnsembleConfig()).decay
        self.reset()

    def reset(self) -> None:
        """Forget all chunks."""
        super().reset()
        self._chunks: list[tuple[int, np.ndarray]] = []  # oldest first
        self._step = 0

    @property
    def planned(self) -> int:
        """Steps until the last chunk ends."""
        return max(0, max((start + len(chunk) for start, chunk in self._chunks), default=0) - self._step)

    def add(self, chunk: np.ndarray, computed_at: int, now: int) -> Merge:
        """Keep the chunk beside the older ones."""
        self._step = max(self._step, now)
        dropped = min(max(0, now - computed_at), len(chunk))
        known = self.planned
        self._chunks.append((computed_at, np.array(chunk, np.float64)))
        return Merge(computed_at, now, dropped, min(known, len(chunk) - dropped), self.planned)

    def next(self, step: int) -> np.ndarray | None:
        """The weighted mean of what is known of `step`."""
        self._step = step + 1
        self._chunks = [(start, chunk) for start, chunk in self._chunks if start + len(chunk) > step]
        rows = [chunk[step - start] for start, chunk in self._chunks if start <= step]
        if not rows:
            return None
        values = np.stack(rows)
        weights = np.exp(-self._decay * np.arange(len(rows)))
        mean = (weights / weights.sum()) @ values
        return np.clip(mean, values.min(0), values.max(0))  # rounding must not leave the hull
