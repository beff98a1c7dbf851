"""Batches of window numbers, without end: batch number i depends on the seed and on i alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from rise_env.data.windows import Windows
from rise_env.errors import requirement

__all__ = ["SCENES", "FocusedSampler", "Sampler", "ShuffledSampler", "TaskCentricSampler"]

#: What the samples of one group of a task-centric batch share.
SCENES = ("episode", "dataset")
_SALT = 1  # keeps the draws of the two samplers apart, should they share a seed


class Sampler(ABC):
    """Draws batches of `batch_size` numbers in [0, num_windows) for `Windows.batch`."""

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        require = requirement(type(self).__name__)
        require.at_least(1, num_windows=num_windows, batch_size=batch_size)
        require.at_least(0, seed=seed)
        self.num_windows, self.batch_size, self.seed = num_windows, batch_size, seed

    @abstractmethod
    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`, int64 (batch_size,)."""


class ShuffledSampler(Sampler):
    """Plain shuffle of windows (or their number): each once per epoch; a batch may reach into the next epoch."""

    def __init__(self, windows: Windows | int, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(windows if isinstance(windows, int) else len(windows), batch_size, seed)
        self._epochs: dict[int, np.ndarray] = {}

    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`, int64 (batch_size,)."""
        first = step * self.batch_size
        stop = first + self.batch_size
        parts = []
        while first < stop:
            epoch, position = divmod(first, self.num_windows)
            count = min(stop - first, self.num_windows - position)
            parts.append(self._permutation(epoch)[position : position + count])
            first += count
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            rng = np.random.default_rng([self.seed, epoch])
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            self._epochs[epoch] = rng.permutation(self.num_windows)
        return self._epochs[epoch]


class FocusedSampler(Sampler):
    """Part of every batch from some windows, the rest from all, each shuffled as by `ShuffledSampler`.

    What decides between success and failure is often a small part of a recording, such as the second around a grasp.

    Args:
        windows: Windows to draw from, or their number.
        focus: Numbers of the windows that are drawn more often, int64 (n,).
        share: Part of every batch that is drawn from them, in [0, 1].
        batch_size: Windows per batch.
        seed: Seed.

    Raises:
        ConfigError: If there is none in focus, or a number does not exist.
    """

    def __init__(
        self, windows: Windows | int, focus: np.ndarray, share: float, batch_size: int = 32, seed: int = 0
    ) -> None:
        super().__init__(windows if isinstance(windows, int) else len(windows), batch_size, seed)
        require = requirement(type(self).__name__)
        require(0 <= share <= 1, f"a share of {share:g}: expected a number in [0, 1]")
        require(len(focus) > 0, "no window is in focus")
        outside = (np.asarray(focus) < 0) | (np.asarray(focus) >= self.num_windows)
        require(not outside.any(), f"windows in focus lie outside [0, {self.num_windows})")
        self.focus, near = np.asarray(focus, np.int64), round(share * batch_size)
        self._near = ShuffledSampler(len(focus), near, seed) if near else None
        self._all = ShuffledSampler(self.num_windows, batch_size - near, seed) if near < batch_size else None

    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`, int64 (batch_size,), those in focus first."""
        near = [self.focus[self._near.draw(step)]] if self._near else []
        return np.concatenate([*near, *([self._all.draw(step)] if self._all else [])])


class TaskCentricSampler(Sampler):
    """Few scenes per batch, many samples of each, so that a batch holds many actions of the same scene.

    The pretraining of RISE draws 2 tasks and 16 samples of each, with replacement. Groups are drawn uniformly, without
    replacement while there are enough of them, then samples of each group uniformly and with replacement.

    Args:
        windows: Windows to draw from.
        groups_per_batch: Scenes per batch.
        samples_per_group: Samples of each scene.
        seed: Seed.
        scene: What a scene is: "episode", or "dataset" where several were joined, as in the pretraining of RISE.

    Raises:
        ConfigError: If a setting is out of range, or there are fewer datasets than scenes.
    """

    def __init__(
        self,
        windows: Windows,
        groups_per_batch: int = 2,
        samples_per_group: int = 16,
        seed: int = 0,
        scene: str = "episode",
    ) -> None:
        require = requirement(type(self).__name__)
        require(scene in SCENES, f"scene is {scene!r}, expected one of {SCENES}")
        require.at_least(1, groups_per_batch=groups_per_batch, samples_per_group=samples_per_group)
        super().__init__(len(windows), groups_per_batch * samples_per_group, seed)
        self.groups_per_batch, self.samples_per_group = groups_per_batch, samples_per_group
        labels = windows.dataset.episode_of(windows.index)
        if scene == "dataset":
            ends = np.cumsum([part.num_frames for part in windows.dataset.parts])
            labels = np.searchsorted(ends, windows.index, side="right")
        order = np.argsort(labels, kind="stable")
        self.groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        found = len(self.groups)
        enough = scene == "episode" or found >= groups_per_batch
        require(enough, f"{groups_per_batch} datasets per batch, but there are windows of {found}: give more (--data)")

    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`, its groups side by side."""
        rng = np.random.default_rng([self.seed, step, _SALT])
        count = len(self.groups)
        chosen = rng.choice(count, self.groups_per_batch, replace=count < self.groups_per_batch)
        samples = (self.groups[g][rng.integers(len(self.groups[g]), size=self.samples_per_group)] for g in chosen)
        return np.concatenate(list(samples))
