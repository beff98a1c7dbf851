"""EpisodeInfos: what an imagination environment reports of each of its episodes in its infos."""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_env.envs.infos import masked, objects
from rise_env.envs.starts import StartBatch

__all__ = ["EpisodeInfos"]

#: Infos that only a step has.
_STEP_KEYS = ("advantage", "uncertainty", "clamped")


class EpisodeInfos:
    """One row per environment: attributes (N,) under the keys of the infos, see `ImaginationVectorEnv`.

    Args:
        count: Number of environments N.
        backend: Class of the model that gives the rewards.
    """

    def __init__(self, count: int, backend: str) -> None:
        self.value, self.progress = np.zeros(count, np.float32), np.zeros(count, np.float32)
        self.advantage, self.uncertainty = np.zeros(count, np.float32), np.zeros(count, np.float32)
        self.clamped, self.imagined_chunks = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.episode_index, self.frame_index = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.is_success = np.zeros(count, bool)
        self.state_source, self.task = objects("dataset", count), objects("", count)
        self.reward_backend = objects(backend, count)

    def begin(self, rows: np.ndarray, batch: StartBatch, values: np.ndarray) -> None:
        """Record that episodes begin at recorded states of the given values."""
        self.value[rows], self.progress[rows] = values, values.clip(0, 1)
        self.is_success[rows], self.imagined_chunks[rows] = False, 0
        self.episode_index[rows], self.frame_index[rows] = batch.episode_index, batch.frame_index
        self.state_source[rows], self.task[rows] = "dataset", objects(batch.prompts, len(rows))
        for key in _STEP_KEYS:
            getattr(self, key)[rows] = 0

    def advance(
        self,
        rows: np.ndarray,
        value: np.ndarray,
        advantage: np.ndarray,
        uncertainty: np.ndarray,
        clamped: np.ndarray,
        success_threshold: float,
    ) -> None:
        """Record that a chunk was imagined."""
        self.value[rows], self.progress[rows] = value, value.clip(0, 1)
        self.advantage[rows], self.uncertainty[rows], self.clamped[rows] = advantage, uncertainty, clamped
        self.is_success[rows] = self.progress[rows] >= success_threshold
        self.imagined_chunks[rows] += 1
        self.state_source[rows] = "imagined"

    def infos(self, mask: np.ndarray, stepped: np.ndarray | None = None) -> dict[str, Any]:
        """Vector infos of the environments in `mask`; those in `stepped` also have the entries of a step."""
        infos = masked({key: value for key, value in vars(self).items() if key not in _STEP_KEYS}, mask)
        if stepped is not None and stepped.any():
            infos |= masked({key: getattr(self, key) for key in _STEP_KEYS}, stepped)
        return infos

    def texts(self, i: int, max_chunks: int) -> list[str]:
        """Lines of text below a picture of environment i."""
        texts = [f"value {self.value[i]:.3f}"]
        imagined = self.imagined_chunks[i] > 0
        texts.append(f"advantage {self.advantage[i]:+.3f}" if imagined else "advantage -")
        texts.append(f"uncertainty {self.uncertainty[i]:.3f}" if imagined else "uncertainty -")
        return [*texts, f"{self.state_source[i]} {self.imagined_chunks[i]}/{max_chunks}"]
