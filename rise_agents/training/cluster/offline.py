"""Recorded chunks once more, on another place of a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.policies.data import ChunkSource, RecordedChunks, StartChunks
from rise_env.data import open_dataset
from rise_env.envs.starts import StartStates
from rise_env.tasks import TaskSpec

__all__ = ["elsewhere"]


def elsewhere(
    offline: ChunkSource | None, data: Sequence[Path], opening: Mapping[str, Any]
) -> Callable[[StartStates], ChunkSource | None]:
    """What makes the same chunks elsewhere, from the environment's start states; can be sent.

    Args:
        offline: The chunks.
        data: Datasets that recorded ones come from: they have to lie at the same place on every machine.
        opening: How the datasets are opened, arguments of `open_dataset`.
    """
    if isinstance(offline, RecordedChunks):
        paths, episodes = [path.resolve() for path in data], offline.windows.episodes
        labels = (offline.advantage_bins, offline.values)
        return partial(_recorded, paths, offline.spec, dict(opening), offline.lags, labels, episodes)
    if isinstance(offline, StartChunks):
        return partial(_of_starts, offline.spec, offline.lags, offline.advantage_bins)
    return _none


def _recorded(
    paths: list[Path],
    spec: TaskSpec,
    opening: dict[str, Any],
    lags: tuple[int, ...],
    labels: tuple[np.ndarray, np.ndarray | None],
    episodes: Any,
    _: StartStates,
) -> ChunkSource:
    bins, values = labels
    return RecordedChunks(open_dataset(list(paths), spec, **opening), lags, bins, episodes, values)


def _of_starts(spec: TaskSpec, lags: tuple[int, ...], bins: np.ndarray, starts: StartStates) -> ChunkSource:
    return StartChunks(starts, spec, lags, bins)


def _none(_: StartStates) -> None:
    return None
