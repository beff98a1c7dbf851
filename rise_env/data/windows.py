"""Windows: history, action chunk and future frames around a current frame, as training reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.errors import DatasetError
from rise_env.tasks import TaskSpec

__all__ = ["WindowBatch", "Windows"]


@dataclass(frozen=True)
class WindowBatch:
    """Some windows. n windows, T history frames, K = H // stride future frames, chunk H, D joints.

    Attributes:
        index: int64 (n,), global index of the current frame c.
        episode: int64 (n,), its episode.
        frame: int64 (n,), its number within the episode.
        history_index: int64 (n, T), global indices, oldest first, c last.
        future_index: int64 (n, K), global indices c + stride, ..., c + H.
        actions: float32 (n, H, D), commanded at c, ..., c + H - 1; rad and m.
        states: float32 (n, T, D), at the history frames.
        future_states: float32 (n, K, D), at the future frames.
        prompts: Instruction of every current frame.
    """

    index: np.ndarray
    episode: np.ndarray
    frame: np.ndarray
    history_index: np.ndarray
    future_index: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    future_states: np.ndarray
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.index)


class Windows:
    """All windows of a dataset whose whole future lies within their episode.

    A window belongs to a current frame c: history c - (T-1) stride, ..., c - stride, c; actions c, ..., c + H - 1;
    future frames c + stride, ..., c + H. No index leaves the episode of c: where the history
    reaches back beyond its first frame, that frame is repeated, as an environment does after a reset.

    Args:
        dataset: Where they lie.
        spec: Gives chunk H, stride and history T; the dataset's when omitted.
        episodes: Indices of the episodes to use, e.g. `split_episodes(dataset)["train"]`; all when omitted.

    Attributes:
        index: int64 (n,), global index of the current frame of every window, rising.
        frame: int64 (n,), number of that frame within its episode.

    Raises:
        DatasetError: If an episode does not exist, or no episode is long enough for a window.
    """

    def __init__(self, dataset: Dataset, spec: TaskSpec | None = None, episodes: Any = None) -> None:
        self.dataset = dataset
        self.spec = dataset.spec if spec is None else spec
        chunk, stride, history = self.spec.chunk, self.spec.stride, self.spec.history
        count = dataset.num_episodes
        self.episodes = np.arange(count) if episodes is None else np.unique(np.asarray(episodes, np.int64))
        for odd in self.episodes[(self.episodes < 0) | (self.episodes >= count)]:
            raise DatasetError(f"episode {odd} is outside [0, {count}) of {dataset.name}")
        starts, lengths = dataset.starts[self.episodes], dataset.lengths[self.episodes]
        parts = [np.arange(s, s + n - chunk) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
        self.index = np.concatenate([np.empty(0, np.int64), *parts])
        if not len(self.index):
            longest = int(lengths.max()) if len(lengths) else 0
            raise DatasetError(
                f"{dataset.name}: no window fits: a chunk of {chunk} needs episodes of at least {chunk + 1} "
                f"frames, the longest of {len(self.episodes)} has {longest}. Use a shorter chunk (task.chunk=...)."
            )
        self.frame = self.index - dataset.starts[dataset.episode_of(self.index)]
        self.index.flags.writeable = self.frame.flags.writeable = False
        self._history = np.arange(-(history - 1), 1) * stride
        self._future = np.arange(1, self.spec.frames_per_chunk + 1) * stride
        self._chunk = np.arange(chunk)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, which: Any) -> WindowBatch:
        """Windows by number, int (n,) positions in `index`; no video is decoded.

        Raises:
            DatasetError: If a number is outside [0, len(self)).
        """
        which = np.asarray(which)
        if which.ndim != 1 or (which.size and which.dtype.kind not in "iu"):
            raise DatasetError(f"window numbers must be integers (n,), got {which.dtype} {which.shape}")
        which = which.astype(np.int64)
        for wrong in which[(which < 0) | (which >= len(self))]:
            raise DatasetError(f"window {wrong} is outside [0, {len(self)})")
        return self.at(self.index[which])

    def at(self, index: Any) -> WindowBatch:
        """Windows by the global index of their current frame, int (n,); any frame with a whole future.

        Raises:
            DatasetError: If a window would leave its episode.
        """
        dataset = self.dataset
        index = dataset.check_index(index).astype(np.int64)
        episode = dataset.episode_of(index)
        start = dataset.starts[episode]
        future_index = index[:, None] + self._future
        late = np.flatnonzero(index + self.spec.chunk >= start + dataset.lengths[episode])
        if len(late):
            c = int(index[late[0]] - start[late[0]])
            raise DatasetError(
                f"the chunk of {self.spec.chunk} after frame {c} of episode {episode[late[0]]} leaves the episode, "
                f"which has {dataset.lengths[episode[late[0]]]} frames"
            )
        history_index = np.maximum(index[:, None] + self._history, start[:, None])
        actions = dataset.action[index[:, None] + self._chunk]
        states, future_states = dataset.state[history_index], dataset.state[future_index]
        return WindowBatch(
            index, episode, index - start, history_index, future_index, actions, states, future_states,
            dataset.prompts(index),
        )  # fmt: skip
