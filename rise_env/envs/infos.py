"""Infos of vector environments: arrays with `_key` masks, as Gymnasium 1.x wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rise_env.envs.starts import StartBatch

__all__ = ["EpisodeInfos", "info_of"]

#: Infos that only a step has.
_STEP_KEYS = ("advantage", "uncertainty", "clamped")


def masked(values: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Vector infos that hold `values` where `mask` is True: fresh arrays, each with a `_key` mask of its own."""
    infos: dict[str, Any] = {}
    for key, value in values.items():
        infos[key] = value.copy()
        infos[f"_{key}"] = mask.copy()
    return infos


def objects(value: Any, count: int) -> np.ndarray:
    """Object array of `count` rows: `value` if it is a list or tuple, else `value` in every row."""
    rows = np.empty(count, object)
    rows[:] = value
    return rows


def info_of(infos: Mapping[str, Any], index: int, plain: bool = True) -> dict[str, Any]:
    """Infos of one environment, without the keys whose mask is False for it; scalars of NumPy as Python's if `plain`.

    Example:
        >>> info_of({"value": np.array([0.25, 0.5]), "_value": np.array([True, False])}, 0)
        {'value': 0.25}
    """
    info = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if (key.startswith("_") and key[1:] in infos) or (mask is not None and not mask[index]):
            continue
        entry = info_of(value, index, plain) if isinstance(value, dict) else value[index]
        info[key] = entry.item() if plain and isinstance(entry, np.generic) else entry
    return info


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

    def advance(self, rows: np.ndarray, success_threshold: float, value: np.ndarray, **step: np.ndarray) -> None:
        """Record that a chunk was imagined, with the values at its end and the infos that only a step has."""
        self.value[rows], self.progress[rows] = value, value.clip(0, 1)
        for key, entries in step.items():
            getattr(self, key)[rows] = entries
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
        step = [f"advantage {self.advantage[i]:+.3f}", f"uncertainty {self.uncertainty[i]:.3f}"]
        step = step if self.imagined_chunks[i] else ["advantage -", "uncertainty -"]
        return [f"value {self.value[i]:.3f}", *step, f"{self.state_source[i]} {self.imagined_chunks[i]}/{max_chunks}"]
