"""Normalisation statistics of state and action."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.files import write_json

__all__ = ["FeatureStats", "Stats", "compute_stats"]


@dataclass(frozen=True)
class FeatureStats:
    """Statistics of one feature, per dimension, float64 (D,); `q01` and `q99` are percentiles."""

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray


@dataclass(frozen=True)
class Stats:
    """Statistics of a dataset: joint names, the frames they were computed from, joint state and action."""

    names: tuple[str, ...]
    num_frames: int
    state: FeatureStats
    action: FeatureStats

    def save(self, path: str | Path) -> None:
        """Write JSON, in one step."""
        write_json(path, asdict(self))

    def save_openpi(self, path: str | Path) -> None:
        """Write openpi's `assets/<id>/norm_stats.json`, in one step."""
        features = {"state": self.state, "actions": self.action}
        kept = ("mean", "std", "q01", "q99")
        content = {key: {name: getattr(feature, name) for name in kept} for key, feature in features.items()}
        write_json(path, {"norm_stats": content})


def compute_stats(dataset: Dataset) -> Stats:
    """Exact statistics of all frames."""
    names = dataset.spec.layout.names
    return Stats(names, dataset.num_frames, _compute(dataset.state), _compute(dataset.action))


def _compute(values: np.ndarray) -> FeatureStats:
    exact = values.astype(np.float64)
    q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0)
    return FeatureStats(exact.mean(0), exact.std(0), exact.min(0), exact.max(0), q01, q99)
