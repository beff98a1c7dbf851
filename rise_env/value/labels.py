"""Labels of every recorded frame: outcome, progress, return. Read from explicit columns, never from a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rise_env.errors import TrainingError, requirement
from rise_env.value.config import LabelConfig

__all__ = ["FrameDataset", "Labels", "fill_dips", "make_labels", "optional_column"]


class FrameDataset(Protocol):
    """What the value model asks of a dataset; `rise_env.data.Dataset` gives it, and describes it."""

    starts: np.ndarray
    lengths: np.ndarray
    num_frames: int

    @property
    def episodes(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def columns(self) -> list[str]: ...  # noqa: D102
    @property
    def success(self) -> np.ndarray: ...  # noqa: D102

    def frames(self, index: Any) -> np.ndarray:
        """Frames of some moments: uint8 (n, V, H, W, 3), or latents float (n, V, C, h, w)."""

    def column(self, name: str) -> np.ndarray:
        """A column of the dataset, (N, ...); an error if there is none."""


def optional_column(dataset: FrameDataset, name: str) -> np.ndarray | None:
    """A column with one value per frame, (N,), or None where the dataset has none."""
    return np.asarray(dataset.column(name)).reshape(-1) if name in dataset.columns else None


@dataclass(frozen=True)
class Labels:
    """What is known of E episodes and their N frames.

    Attributes:
        starts: First frame of each episode, int64 (E,).
        lengths: Frames of each episode, int64 (E,).
        episode: Episode of each frame, int64 (N,).
        tasks: Instruction of each episode.
        success: Whether the episode succeeded, bool (E,).
        ended: Whether its outcome is known, bool (E,); false for an episode that was cut off.
        outcome: Frame within the episode at which its outcome was certain, int64 (E,).
        progress: Progress label, float32 (N,).
        progress_known: Whether the frame has one, bool (N,).
        returns: Monte-Carlo return (RECAP) normalised to [-1, 0], float32 (N,).
        return_scales: Control steps that -1 stands for, by instruction.
        dense: Whether `progress` is the dataset's ground truth.
    """

    starts: np.ndarray
    lengths: np.ndarray
    episode: np.ndarray
    tasks: tuple[str, ...]
    success: np.ndarray
    ended: np.ndarray
    outcome: np.ndarray
    progress: np.ndarray
    progress_known: np.ndarray
    returns: np.ndarray
    return_scales: dict[str, float]
    dense: bool

    def frames_of(self, episodes: np.ndarray) -> np.ndarray:
        """Indices of all frames of some episodes, in order."""
        chosen = np.zeros(len(self.lengths), bool)
        chosen[episodes] = True
        return np.flatnonzero(chosen[self.episode])


def make_labels(dataset: FrameDataset, config: LabelConfig) -> Labels:
    """Label every frame of a dataset.

    What is read: the explicit outcome of every episode; the column `progress` (needed for dense labels; with it, the
    outcome of a success is certain at the first frame with full progress, else at its last frame); and, where there is
    one, `episode_truncated` for episodes that were cut off before their outcome.

    Raises:
        DatasetError: If the dataset does not say which episodes succeeded; that is never guessed from a name.
        TrainingError: If a needed column is missing, or contradicts itself.
    """
    starts, lengths = np.asarray(dataset.starts, np.int64), np.asarray(dataset.lengths, np.int64)
    if not len(starts) or lengths.min() < 1:
        raise TrainingError(f"the dataset has {len(starts)} episodes, or one without frames")
    episode = np.repeat(np.arange(len(starts)), lengths)
    local = np.arange(len(episode)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order = np.repeat(starts, lengths) + local
    if not np.array_equal(order, np.arange(dataset.num_frames)):
        raise TrainingError("episodes of the dataset must follow each other without gaps")
    success = np.ones(len(starts), bool) if config.outcome == "success" else np.asarray(dataset.success)
    truncated = _per_episode(dataset, "episode_truncated", starts, lengths)
    ended = np.ones(len(starts), bool) if truncated is None else ~truncated
    truth = _truth(dataset, config)
    outcome = lengths - 1
    if truth is not None:
        for i in np.flatnonzero(success):
            reached = np.flatnonzero(truth[starts[i] : starts[i] + lengths[i]] >= config.success_progress - 1e-6)
            outcome[i] = reached[0] if len(reached) else outcome[i]
    time = np.minimum(local / np.maximum(outcome[episode], 1), 1.0)
    time = np.where(local >= outcome[episode], 1.0, time)
    dense = config.progress == "dense"
    if truth is not None and config.fill_dips:
        pieces = zip(starts, starts + lengths, strict=True)
        truth = np.concatenate([fill_dips(truth[a:b], config.fill_dips) for a, b in pieces])
    if dense and truth is None:
        raise TrainingError(
            "value.labels.progress is 'dense', but the dataset has no column 'progress'; set it to 'time' "
            "(progress is then t / T on successful episodes)."
        )
    progress = truth if dense and truth is not None else time
    known = np.ones(len(episode), bool) if dense else (success & ended)[episode]
    tasks = tuple(str(record.task) for record in dataset.episodes)
    names, percentile = np.array(tasks), config.length_percentile
    scales = {task: max(1.0, float(np.percentile(outcome[names == task] + 1, percentile))) for task in sorted({*tasks})}
    scale = np.array([scales[task] for task in tasks])[episode]
    cost = np.where(success, 0.0, config.failure_cost)[episode]
    returns = -(np.maximum(outcome[episode] - local, 0) + cost) / scale
    progress, returns = np.asarray(progress, np.float32), np.clip(returns, -1.0, 0.0).astype(np.float32)
    return Labels(
        starts, lengths, episode, tasks, success, ended, outcome, progress, known, returns, scales, dense
    )  # fmt: skip


def fill_dips(values: np.ndarray, length: int) -> np.ndarray:
    """Fill dips of a curve (n,) that last at most `length` steps (a morphological closing); the rest stays."""
    padded = np.pad(values, length, mode="edge")
    highest = np.lib.stride_tricks.sliding_window_view(padded, length + 1).max(-1)
    return np.lib.stride_tricks.sliding_window_view(highest, length + 1).min(-1)


def _per_episode(dataset: FrameDataset, name: str, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    column = optional_column(dataset, name)
    if column is None:
        return None
    require, values = requirement(f"column {name!r}", TrainingError), column[starts]
    require(column.dtype == bool, f"it is {column.dtype}, expected bool")
    require(np.array_equal(np.repeat(values, lengths), column), "it changes within an episode")
    return values


def _truth(dataset: FrameDataset, config: LabelConfig) -> np.ndarray | None:
    truth = optional_column(dataset, "progress")
    if truth is None:
        return None
    truth = truth.astype(np.float64)
    if not (np.isfinite(truth).all() and truth.min() >= -1e-6 and truth.max() <= 1 + 1e-6):
        raise TrainingError(f"column 'progress' runs from {truth.min()} to {truth.max()}, expected [0, 1]")
    return np.clip(truth, 0.0, 1.0)
