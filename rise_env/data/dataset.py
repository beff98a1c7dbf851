"""Dataset: the interface of recorded episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import Progress, Step, cached_array, fingerprint
from rise_env.errors import DatasetError
from rise_env.tasks import TaskSpec

__all__ = ["Dataset", "EpisodeInfo", "read_only"]


@dataclass(frozen=True)
class EpisodeInfo:
    """One recorded episode.

    Attributes:
        episode_index: Its index in the dataset.
        length: Number of frames.
        task: Its instruction (of the first frame, should it change on the way).
        success: Its explicit outcome (`episode_success`), None where it is not recorded.
    """

    episode_index: int
    length: int
    task: str
    success: bool | None


class Dataset(ABC):
    """Recorded episodes in one global frame order, made by `open_dataset`; its arrays are shared and read-only.

    Args:
        spec: Task the dataset is opened for.
        lengths: int (E,), frames per episode.
        cache: Directory of arrays that are made from the frames.
        progress: Called with (camera frames done, in all) while videos are decoded.

    Attributes:
        root: Directory of the first part.
        columns: Names that `column` takes.
        tasks: Instruction by `task_index`.
        num_episodes: Number of episodes E.
        num_frames: Number of frames N of all episodes.
        starts: int64 (E,), global index of each episode's first frame.
    """

    root: Path
    columns: list[str]
    tasks: dict[int, str]

    def __init__(self, spec: TaskSpec, lengths: np.ndarray, cache: Path, progress: Progress | None = None) -> None:
        self.spec, self.cache = spec, cache
        self.lengths = read_only(lengths.astype(np.int64))
        self.num_episodes, self.num_frames = len(lengths), int(lengths.sum())
        self.starts = read_only(np.cumsum(self.lengths) - self.lengths)
        self._progress = progress

    @property
    @abstractmethod
    def parts(self) -> Sequence[Dataset]:
        """The datasets on disk that this one consists of, in order."""

    @property
    @abstractmethod
    def outcomes(self) -> np.ndarray | None:
        """Bool (E,), explicit outcome of every episode; None where it is not recorded."""

    @property
    @abstractmethod
    def state(self) -> np.ndarray:
        """float32 (N, D), joint state in the units of the layout."""

    @property
    @abstractmethod
    def action(self) -> np.ndarray:
        """float32 (N, D), joint targets in the units of the layout."""

    @property
    @abstractmethod
    def frames_key(self) -> str:
        """Fingerprint of the decoded frames, part of the names of files in the cache."""

    @abstractmethod
    def column(self, name: str) -> np.ndarray:
        """A column of the dataset, whatever its type.

        Args:
            name: Feature key, e.g. "progress", "is_intervention" or "observation.state".

        Returns:
            (N, ...) in frame order; (N,) for scalars, object for texts.

        Raises:
            DatasetError: If the dataset has no such column or its files are damaged.
        """

    @abstractmethod
    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames at `spec.image_size`; the first call decodes the dataset unless its cache exists.

        Args:
            index: Global frame indices, any shape, e.g. (n,) or (n, T).

        Returns:
            uint8 (*index.shape, V, H, W, 3), RGB, views in the order of `spec.cameras`; a copy.

        Raises:
            DatasetError: If an index is outside [0, N), or a video is missing, damaged or of the wrong length.
        """

    @abstractmethod
    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames now, unless their cache exists; `progress` stands in for that of `open_dataset`."""

    @property
    def name(self) -> str:
        """Names of the directories, for people."""
        return " + ".join(part.root.name for part in self.parts)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape (V, H, W, 3) of the pictures of one frame."""
        return (len(self.spec.cameras), *self.spec.image_size, 3)

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Facts about every episode."""
        outcomes: list[bool | None] = []
        for part in self.parts:
            outcomes += [None] * part.num_episodes if part.outcomes is None else part.outcomes.tolist()
        facts = enumerate(zip(self.lengths.tolist(), self.starts.tolist(), outcomes, strict=True))
        return [EpisodeInfo(i, n, self.tasks[self.task_index[start]], success) for i, (n, start, success) in facts]

    @cached_property
    def task_index(self) -> np.ndarray:
        """int64 (N,), index of every frame's instruction in `tasks`."""
        index = self.column("task_index")
        unknown = np.setdiff1d(index, list(self.tasks))
        if len(unknown):
            raise DatasetError(f"{self.root}: task_index {unknown[0]} has no text; known: {sorted(self.tasks)}")
        return index

    def prompts(self, index: Any) -> list[str]:
        """Instruction of each of the frames `index` (n,), as recorded: two tasks stay two texts."""
        return [self.tasks[i] for i in self.task_index[self.check_index(index)].tolist()]

    @property
    def success(self) -> np.ndarray:
        """Bool (E,), explicit outcome of every episode.

        Raises:
            DatasetError: If it is not recorded; it is never guessed.
        """
        for part in self.parts:
            if part.outcomes is None:
                part.column("episode_success")  # raises and names what is missing
        assert self.outcomes is not None
        return self.outcomes

    def locate(self, index: int) -> tuple[int, int]:
        """Episode and frame within it of the global frame `index`."""
        episode = int(self.episode_of(index))
        return episode, int(index) - int(self.starts[episode])

    def episode_of(self, index: Any) -> np.ndarray:
        """int64, episode of each of the global frames `index`, same shape."""
        return np.searchsorted(self.starts, self.check_index(index), side="right") - 1

    def check_index(self, index: Any) -> np.ndarray:
        """Global frame indices as an integer array.

        Raises:
            DatasetError: If they are not integers, or one is outside [0, N).
        """
        array = np.asarray(index)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise DatasetError(f"frame indices must be integers, got {array.dtype}")
        for wrong in array[(array < 0) | (array >= self.num_frames)]:
            raise DatasetError(f"frame index {wrong} is outside [0, {self.num_frames}) of {self.name}")
        return array

    def cached(
        self, tag: str, shape: Sequence[int], dtype: Any, make: Any, batch: int = 256, progress: Progress | None = None
    ) -> np.ndarray:
        """An array with one entry per frame that is made from the frames once, e.g. latents.

        Args:
            tag: What it is and what made it (include a fingerprint of the weights): another tag, another array.
            shape: Shape of one entry.
            dtype: Type, e.g. `np.float16`.
            make: Called with global indices (n,), n at most `batch`; returns (n, *shape).
            batch: Frames per call.
            progress: Called with (frames done, in all).

        Returns:
            Read-only (N, *shape), mapped from disk.
        """
        key = fingerprint([self.frames_key, tag, list(shape), str(np.dtype(dtype))])

        def step(first: int) -> Step:
            stop = min(first + 16 * batch, self.num_frames)

            def run(array: np.ndarray, advance: Any) -> None:
                for start in range(first, stop, batch):
                    index = np.arange(start, min(start + batch, stop))
                    array[index] = make(index)
                    advance(len(index))

            return Step(str(first), stop - first, run)

        steps = [step(first) for first in range(0, self.num_frames, 16 * batch)]
        return cached_array(self.cache / f"{key}.npy", (self.num_frames, *shape), dtype, steps, progress)

    def __len__(self) -> int:
        return self.num_frames

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.num_episodes} episodes, {self.num_frames} frames, "
            f"cameras {list(self.spec.cameras)}, {self.spec.layout.dim} joints)"
        )


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array, no longer writeable."""
    array.flags.writeable = False
    return array
