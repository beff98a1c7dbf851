"""The columns of a dataset's parquet files in global frame order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rise_env.data.errors import DatasetError
from rise_env.data.parquet import join_rows, read_parquet, to_numpy
from rise_env.data.source import Source

__all__ = ["INDEX_COLUMNS", "FrameTable"]

#: Columns that every LeRobot dataset has besides its features.
INDEX_COLUMNS = ("episode_index", "frame_index", "task_index")


class FrameTable:
    """Reads columns and brings their rows into global frame order.

    Args:
        source: Metadata of the dataset.
        usual: Columns that are read together with the first one asked for: opening files costs most.
    """

    def __init__(self, source: Source, usual: Sequence[str]) -> None:
        self._source = source
        self._usual = (*INDEX_COLUMNS, *usual)
        self._order: np.ndarray | None = None
        self._fresh = True

    def read(self, name: str) -> dict[str, np.ndarray]:
        """Read a column, (N, ...); the first time the usual ones come with it.

        Raises:
            DatasetError: If a file is missing or damaged, or its rows are not those that the metadata expect.
        """
        wanted = list(dict.fromkeys([name, *(self._usual if self._fresh else ())]))
        parts: dict[str, list[np.ndarray]] = {key: [] for key in wanted}
        for file in self._source.data_files:
            table = read_parquet(file.path, wanted)
            if table.num_rows != file.rows:
                members = ", ".join(map(str, file.episodes[:8])) + (", ..." if len(file.episodes) > 8 else "")
                raise DatasetError(
                    f"{file.path} (episodes {members}) has {table.num_rows} rows, the episode table says {file.rows}. "
                    "The dataset is damaged or incomplete: copy or download it again."
                )
            for key in wanted:
                parts[key].append(to_numpy(table[key], f"{file.path}, column {key!r}"))
        loaded = {key: join_rows(parts[key], key, self._source.root) for key in wanted}
        if self._fresh:
            self._order = self._frame_order(loaded["episode_index"], loaded["frame_index"])
            self._fresh = False
        return loaded if self._order is None else {key: values[self._order] for key, values in loaded.items()}

    def _frame_order(self, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray | None:
        """Permutation that brings rows into global frame order; None where they are."""
        lengths = self._source.lengths
        expected = np.repeat(np.arange(len(lengths)), lengths)
        numbers = np.arange(len(expected)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        order = None
        if not (np.array_equal(episodes, expected) and np.array_equal(frames, numbers)):
            order = np.lexsort((frames, episodes))
            wrong = np.flatnonzero((episodes[order] != expected) | (frames[order] != numbers))
            if len(wrong):
                row = int(wrong[0])
                raise DatasetError(
                    f"{self._source.root}: the data files have episode {episodes[order][row]}, frame "
                    f"{frames[order][row]}, expected episode {expected[row]}, frame {numbers[row]}; frames are missing "
                    "or repeated"
                )
        return order
