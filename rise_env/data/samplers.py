"""Batches of window numbers, without end, the same after a restart.

Batch number i depends on the seed and on i alone, so the whole state of a sampler is a counter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rise_env.data.windows import Windows
from rise_env.errors import ConfigError, requirement

__all__ = ["Sampler", "ShuffledSampler", "TaskCentricSampler"]

_SALT = 1  # keeps the draws of the two samplers apart, should they share a seed


class Sampler(ABC):
    """An endless iterator over batches: int64 (batch_size,), numbers for `Windows.batch`.

    Attributes:
        num_windows: Number of windows n; batches hold numbers in [0, n).
        batch_size: Windows per batch.
        seed: Seed; the same seed gives the same batches.
        step: Number of the next batch.
    """

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        require = requirement(type(self).__name__)
        for name, value, least in (("num_windows", num_windows, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
            require(value >= least, f"{name} is {value}, expected at least {least}")
        self.num_windows, self.batch_size, self.seed, self.step = num_windows, batch_size, seed, 0

    @abstractmethod
    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        batch = self.draw(self.step)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands, as plain JSON values."""
        return {"sampler": type(self).__name__, **self._identity(), "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a sampler of the same kind over the same windows stood.

        Raises:
            ConfigError: If the state belongs to other windows, another seed or another batch shape.
        """
        expected = {**self.state_dict(), "step": state.get("step")}
        differing = [key for key in expected if state.get(key) != expected[key]]
        if differing or not isinstance(state.get("step"), int):
            lines = [f"{key}: saved {state.get(key)!r}, now {expected[key]!r}" for key in differing or ["step"]]
            raise ConfigError(
                f"the state of the {type(self).__name__} belongs to another run: {'; '.join(lines)}. "
                "Resume with the dataset and settings of the run, or start a new one."
            )
        self.step = int(state["step"])

    def _identity(self) -> dict[str, Any]:
        return {"num_windows": self.num_windows, "batch_size": self.batch_size, "seed": self.seed}


class ShuffledSampler(Sampler):
    """Plain shuffle: every window once per epoch; a batch may reach from one epoch into the next.

    Args:
        windows: Windows, or their number.
        batch_size: Windows per batch.
        seed: Seed.
    """

    def __init__(self, windows: Windows | int, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(windows if isinstance(windows, int) else len(windows), batch_size, seed)
        self._epochs: dict[int, np.ndarray] = {}

    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`."""
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


class TaskCentricSampler(Sampler):
    """Few scenes per batch, many samples of each, so that a batch holds many actions of the same scene.

    The pretraining of RISE draws 2 tasks and 16 samples of each, with replacement. Groups are drawn uniformly, without
    replacement while there are enough of them, then samples of each group uniformly and with replacement.

    Args:
        windows: Windows to draw from.
        groups_per_batch: Scenes per batch.
        samples_per_group: Samples of each scene.
        seed: Seed.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(self, windows: Windows, groups_per_batch: int = 2, samples_per_group: int = 16, seed: int = 0) -> None:
        for name, value in (("groups_per_batch", groups_per_batch), ("samples_per_group", samples_per_group)):
            requirement("TaskCentricSampler")(value >= 1, f"{name} is {value}, expected at least 1")
        super().__init__(len(windows), groups_per_batch * samples_per_group, seed)
        self.groups_per_batch, self.samples_per_group = groups_per_batch, samples_per_group
        labels = windows.dataset.episode_of(windows.index)
        order = np.argsort(labels, kind="stable")
        self.groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)

    def draw(self, step: int) -> np.ndarray:
        """Batch number `step`, its groups side by side."""
        rng = np.random.default_rng([self.seed, step, _SALT])
        count = len(self.groups)
        chosen = rng.choice(count, self.groups_per_batch, replace=count < self.groups_per_batch)
        samples = (self.groups[g][rng.integers(len(self.groups[g]), size=self.samples_per_group)] for g in chosen)
        return np.concatenate(list(samples))

    def _identity(self) -> dict[str, Any]:
        return {
            **super()._identity(),
            "groups_per_batch": self.groups_per_batch,
            "samples_per_group": self.samples_per_group,
            "num_groups": len(self.groups),
        }
