"""Labelling: values and chunk advantages of recorded frames, into tagged sidecar files beside the dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.errors import requirement
from rise_env.files import atomic_path
from rise_env.value.evaluation import chunk_advantages, chunk_means, ranking_problem, read_values
from rise_env.value.labels import FrameDataset, optional_column
from rise_env.value.model import ValueModel
from rise_env.value.pictures import draw_values

__all__ = ["FrameLabels", "draw_labels", "label_frames", "ranking_problem_of", "write_labels"]

#: Advantage of demonstrations and corrections: the optimum. To score an expert with a value model only adds its errors.
_OPTIMAL = 1.0


@dataclass(frozen=True)
class FrameLabels:
    """Labels of N frames; float32 (N,) unless said otherwise.

    Attributes:
        value: Value of the frame.
        spread: Its uncertainty.
        value_next: Mean value over the recorded chunk that starts here.
        measured: Measured chunk advantage.
        forced: Whether the frame belongs to a demonstration or a correction, bool.
        advantage: `measured`, or 1 where forced.
        positive: Whether the advantage is among the best of its task, or forced; bool.
        heads: Value by head of the model.
    """

    value: np.ndarray
    spread: np.ndarray
    value_next: np.ndarray
    measured: np.ndarray
    forced: np.ndarray
    advantage: np.ndarray
    positive: np.ndarray
    heads: dict[str, np.ndarray]


def label_frames(
    model: ValueModel,
    dataset: FrameDataset,
    chunk: int,
    *,
    demonstrations: bool = False,
    positive_fraction: float = 0.3,
    batch: int = 128,
    on_frames: Callable[[int], None] | None = None,
) -> FrameLabels:
    """Value and chunk advantage of every frame of a dataset.

    Args:
        model: Value model.
        dataset: Dataset. Frames whose column `is_intervention` is true count as corrections; names say nothing.
        chunk: Control steps per action chunk, H. The advantage is the mean of V(t + k) over k = 1 .. min(H, rest),
            less V(t).
        demonstrations: Whether all of the dataset are demonstrations of an expert, which are never scored.
        positive_fraction: Part of each task's scored frames that counts as positive.
        batch: Frames read at once.
        on_frames: Called with the number of frames finished.
    """
    require = requirement("labelling")
    require.within("(0, 1)", positive_fraction=positive_fraction)
    require.at_least(1, chunk=chunk)
    count, lengths = dataset.num_frames, np.asarray(dataset.lengths)
    tasks = [str(episode.task) for episode in dataset.episodes]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    parts: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
    for start in range(0, count, batch):
        index = np.arange(start, min(start + batch, count))
        parts.append(read_values(model, dataset, index, [tasks[i] for i in owner[index]], batch))
        if on_frames is not None:
            on_frames(int(index[-1]) + 1)
    heads = {name: np.concatenate([part[name][0] for part in parts]) for name in parts[0]}
    value, spread = heads.pop("output"), np.concatenate([part["output"][1] for part in parts])
    forced = np.full(count, demonstrations)
    if (corrected := optional_column(dataset, "is_intervention")) is not None:
        forced |= corrected.astype(bool)
    measured = chunk_advantages(value, lengths, chunk)
    positive = forced.copy()
    for task in set(tasks):
        rows = np.flatnonzero(~forced & np.array([name == task for name in tasks])[owner])
        if len(rows):
            positive[rows] = measured[rows] > np.quantile(measured[rows], 1 - positive_fraction)
    ahead, advantage = chunk_means(value, lengths, chunk), np.where(forced, np.float32(_OPTIMAL), measured)
    return FrameLabels(value, spread, ahead.astype(np.float32), measured, forced, advantage, positive, heads)


def ranking_problem_of(dataset: Any, values: np.ndarray) -> str | None:
    """`ranking_problem` of the values (N,) of a dataset's frames."""
    return ranking_problem(values, np.asarray(dataset.lengths), [episode.success for episode in dataset.episodes])


def write_labels(dataset: Any, tag: str, labels: FrameLabels, directory: str | Path | None = None) -> list[Path]:
    """Write `returns_{tag}.parquet` and `advantages_{tag}.parquet` into the `meta` of a `Dataset`, or `directory`."""
    from rise_env.data.labels import write_advantages, write_values

    columns: dict[str, Any] = {f"value_{name}": value for name, value in labels.heads.items()}
    paths = write_values(dataset, tag, labels.value, directory=directory, spread=labels.spread, **columns)
    return paths + write_advantages(
        dataset, tag, labels.advantage, positive=labels.positive, value_current=labels.value,
        value_next=labels.value_next, directory=directory, advantage_measured=labels.measured, forced=labels.forced,
        spread=labels.spread,
    )  # fmt: skip


def draw_labels(
    pixels: FrameDataset, labels: FrameLabels, folder: str | Path, episodes: int, columns: int = 10
) -> list[Path]:
    """Draw the first episodes of a dataset of pixels into `folder`, as `episode_000000.png` and so on.

    A picture shows some frames, value and spread below, and ground-truth progress where it is recorded.
    """
    folder, paths = Path(folder), list[Path]()
    for number in range(min(episodes, len(pixels.lengths))):
        rows = slice(int(pixels.starts[number]), int(pixels.starts[number] + pixels.lengths[number]))
        picture = draw_values(
            pixels, number, labels.value[rows], labels.spread[rows], marked=labels.forced[rows], columns=columns
        )
        paths.append(folder / f"episode_{number:06d}.png")
        with atomic_path(paths[-1]) as aside:
            picture.save(aside)
    return paths
