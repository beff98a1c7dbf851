"""JoinedDataset: several datasets of one task, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from rise_env.data.cache import IncompleteError, Progress, fingerprint
from rise_env.data.dataset import Dataset, read_only
from rise_env.data.parquet import join_rows
from rise_env.errors import DatasetError

__all__ = ["JoinedDataset"]


class JoinedDataset(Dataset):
    """Several datasets of one task, episodes numbered through; decoded frames stay in the cache of each.

    Args:
        parts: The datasets, opened for one spec.
        progress: Called with (camera frames done, in all) while videos are decoded.

    Raises:
        DatasetError: If they were opened for different tasks.
    """

    def __init__(self, parts: Sequence[Dataset], progress: Progress | None = None) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.spec != first.spec:
                raise DatasetError(f"{part.root} was opened for another task than {first.root}; give both one spec")
        super().__init__(first.spec, np.concatenate([part.lengths for part in parts]), first.cache, progress)
        self._parts, self.root = tuple(parts), first.root
        self._columns: dict[str, np.ndarray] = {}
        self.columns = [name for name in first.columns if all(name in part.columns for part in parts)]
        self.tasks = dict(enumerate(dict.fromkeys(text for part in parts for text in part.tasks.values())))
        self._offsets = np.cumsum([0, *(part.num_frames for part in parts)])

    @property
    def parts(self) -> Sequence[Dataset]:
        """The datasets, in order."""
        return self._parts

    @cached_property
    def outcomes(self) -> np.ndarray | None:
        """Bool (E,), explicit outcome of every episode; None where one of the parts has none."""
        outcomes = [part.outcomes for part in self.parts]
        known = [one for one in outcomes if one is not None]
        return read_only(np.concatenate(known)) if len(known) == len(outcomes) else None

    @cached_property
    def state(self) -> np.ndarray:
        """float32 (N, D), joint state in the units of the layout."""
        return read_only(np.concatenate([part.state for part in self.parts]))

    @cached_property
    def action(self) -> np.ndarray:
        """float32 (N, D), joint targets in the units of the layout."""
        return read_only(np.concatenate([part.action for part in self.parts]))

    @property
    def frames_key(self) -> str:
        """Fingerprint of the decoded frames of all parts."""
        return fingerprint([part.frames_key for part in self.parts])

    def column(self, name: str) -> np.ndarray:
        """A column that all parts have; see `Dataset.column`."""
        if name not in self._columns:
            if name == "task_index":
                numbers, columns = {text: i for i, text in self.tasks.items()}, []
                for part in self.parts:
                    known, place = np.unique(part.task_index, return_inverse=True)
                    columns.append(np.array([numbers[part.tasks[i]] for i in known.tolist()], np.int64)[place])
            elif name == "episode_index":
                columns = [np.repeat(np.arange(self.num_episodes), self.lengths)]
            else:
                columns = [part.column(name) for part in self.parts]
            self._columns[name] = read_only(join_rows(columns, name, self.name))
        return self._columns[name]

    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames; see `Dataset.frames`."""
        index = self.check_index(index)
        flat = index.reshape(-1)
        result = np.empty((len(flat), *self.frame_shape), np.uint8)
        owner = np.searchsorted(self._offsets, flat, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            try:
                result[mine] = self.parts[number].frames(flat[mine] - self._offsets[number])
            except IncompleteError:
                self.prepare()  # tells of all parts at once
                raise
        return result.reshape(*index.shape, *self.frame_shape)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames of all parts now, unless their caches exist; see `Dataset.prepare`.

        Raises:
            IncompleteError: If files cannot be used; what is wrong in all parts is told at once.
        """
        report = progress or self._progress
        total = self.num_frames * len(self.spec.cameras)
        problems: list[DatasetError] = []
        for part, offset in zip(self.parts, self._offsets, strict=False):
            before = int(offset) * len(self.spec.cameras)
            try:
                part.prepare(None if report is None else partial(_report, report, before, total))
            except IncompleteError as error:
                problems += error.problems
        if problems:
            raise IncompleteError(problems)

    def __getstate__(self) -> dict[str, Any]:
        """Without the progress function, which need not be picklable."""
        return {**self.__dict__, "_progress": None}


def _report(report: Progress, before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)
