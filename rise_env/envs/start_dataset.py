"""Start states drawn from the episodes of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data import Dataset, Windows, open_dataset, split_episodes
from rise_env.envs.starts import StartStates, check_splits
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

__all__ = ["starts_from_dataset"]


def starts_from_dataset(
    dataset: Dataset | str | Path | Sequence[str | Path],
    spec: TaskSpec | None = None,
    count: int | None = 256,
    seed: int = 0,
    *,
    splits: Mapping[str, Any] | None = None,
    frames: Sequence[int] = (),
) -> StartStates:
    """Draw start states from recorded episodes, any moment that a whole chunk follows.

    Args:
        dataset: Opened dataset, its directory or Hub id, or several of these, which are joined.
        spec: Task; the dataset's own by default.
        count: Number of states, shared among the splits by their number of moments, at least one each; None takes
            every moment.
        seed: Seed of the draw.
        splits: Episode indices by "train" and "heldout"; by default those of `split_episodes(dataset)`, which
            training uses too. A dataset of one episode is all "train".
        frames: Frames of an episode that may be start states; any when empty. A policy that runs a part of its chunks
            decides at multiples of that only, and some skills are decided at the first.

    Raises:
        ConfigError: If no episode is left or the splits are unknown.
        DatasetError: If the dataset does not fit the task, or has no episode long enough.
    """
    data = open_dataset(dataset, spec) if isinstance(dataset, str | Path | Sequence) else dataset
    spec = spec or data.spec
    outcome = np.array([-1 if one.success is None else int(one.success) for one in data.episodes], np.int8)
    if splits is None:
        splits = {"train": [0]} if data.num_episodes == 1 else split_episodes(data)
    check_splits(splits)
    windows = {name: Windows(data, spec, episodes=list(chosen)) for name, chosen in splits.items() if len(chosen)}
    if not windows:
        raise ConfigError(f"{data.name} has no episodes to start from")
    generator, parts = np.random.default_rng(seed), []
    allowed = {name: _at_frames(one, frames) for name, one in windows.items()}
    total = sum(map(len, allowed.values()))
    if not total:
        raise ConfigError(f"no episode of {data.name} has a start state at any of the frames {list(frames)}")
    for name, one in windows.items():
        those = allowed[name]
        share = len(those) if count is None else min(len(those), max(1, round(count * len(those) / total)))
        chosen = np.sort(those[generator.choice(len(those), share, replace=False)])
        parts += [(name, one.batch(rows)) for rows in np.array_split(chosen, -(-share // 256))]
    names, batches = zip(*parts, strict=True)
    episodes = np.concatenate([batch.episode for batch in batches])
    return StartStates.build(
        spec,
        np.concatenate([data.frames(batch.history_index) for batch in batches]),
        np.concatenate([batch.states for batch in batches]),
        episode_index=episodes,
        frame_index=np.concatenate([batch.frame for batch in batches]),
        prompts=[prompt for batch in batches for prompt in batch.prompts],
        split=np.repeat(names, [len(batch) for batch in batches]),
        success=outcome[episodes],
        actions=np.concatenate([batch.actions for batch in batches]),
        source=data.name,
    )


def _at_frames(windows: Windows, frames: Sequence[int]) -> np.ndarray:
    """Numbers of the windows that lie at some frames of their episodes, int64 (n,); of all without frames."""
    return np.flatnonzero(np.isin(windows.frame, frames)) if frames else np.arange(len(windows))
