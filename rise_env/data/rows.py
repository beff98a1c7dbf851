"""Which episode, frame and instruction a row of a data file belongs to; derived where the dataset does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rise_env.data.parquet import read_parquet, to_numpy
from rise_env.data.source import DataFile, Source
from rise_env.errors import DatasetError

__all__ = ["INDEX_COLUMNS", "frame_order", "read_rows"]

#: Columns that every dataset of ours has besides its features.
INDEX_COLUMNS = ("episode_index", "frame_index", "task_index")


def read_rows(
    source: Source, file: DataFile, columns: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Any, dict[str, np.ndarray]]:
    """Read columns of a data file, with those `optional` ones that it has.

    Returns:
        The pyarrow table, and the index columns, int64 (rows,). Where the file lacks one, rows are taken to be in
        order: of their time stamps, or else as they lie in the file.

    Raises:
        DatasetError: If the file is damaged, has another number of rows than the episode table says, or lacks a column
            that cannot be derived.
    """
    if source.whole is not None:
        file = next(one for one in source.whole.data_files if one.path == file.path)
        table, index = read_rows(source.whole, file, columns, optional)
        keep = np.isin(index["episode_index"], source.numbers)
        index = {name: values[keep] for name, values in index.items()}
        index["episode_index"] = np.searchsorted(source.numbers, index["episode_index"])
        return table.filter(keep), index
    wanted = [name for name in columns if name not in INDEX_COLUMNS]
    table = read_parquet(file.path, wanted, optional=[*INDEX_COLUMNS, "timestamp", *optional])
    if table.num_rows != file.rows:
        members = ", ".join(map(str, file.episodes[:8])) + (", ..." if len(file.episodes) > 8 else "")
        raise DatasetError(
            f"{file.path} (episodes {members}) has {table.num_rows} rows, the episode table says {file.rows}. "
            "The dataset is damaged or incomplete: copy or download it again."
        )
    index = {}
    for name in INDEX_COLUMNS:
        if name not in table.schema.names:
            index[name] = _derived(name, source, file, table, index)
            continue
        where = f"{file.path}, column {name!r}"
        values = to_numpy(table[name], where)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise DatasetError(f"{where} is {values.dtype} {values.shape[1:]} per row, expected a whole number")
        index[name] = values.astype(np.int64)
    return table, index


def _derived(name: str, source: Source, file: DataFile, table: Any, index: dict[str, np.ndarray]) -> np.ndarray:
    if name == "episode_index":
        return np.repeat(np.array(file.episodes, np.int64), source.lengths[list(file.episodes)])
    episodes = index["episode_index"]
    if name == "frame_index":
        times = np.arange(file.rows)
        if "timestamp" in table.schema.names:
            times = to_numpy(table["timestamp"], f"{file.path}, column 'timestamp'")
        order = np.lexsort((times, episodes))
        counts = np.unique(episodes, return_counts=True)[1]
        frames = np.empty(file.rows, np.int64)
        frames[order] = np.concatenate([np.arange(count) for count in counts])
        return frames
    numbers = {text: number for number, text in source.tasks.items()}
    found = np.zeros(file.rows, np.int64)
    for episode in np.unique(episodes).tolist():
        known = 0 <= episode < len(source.lengths) and source.episode_tasks is not None
        texts = source.episode_tasks[episode] if known and source.episode_tasks else None
        texts = list(numbers) if texts is None and len(numbers) == 1 else [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or len(texts) != 1 or texts[0] not in numbers:
            raise DatasetError(
                f"{file.path} has no column 'task_index', and episode {episode} has not one instruction but "
                f"{texts!r:.200}; known instructions: {list(numbers)!r:.200}"
            )
        found[episodes == episode] = numbers[texts[0]]
    return found


def frame_order(source: Source, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray | None:
    """Permutation that brings rows into global frame order; None where they are.

    Raises:
        DatasetError: If frames are missing or repeated.
    """
    lengths = source.lengths
    expected = np.repeat(np.arange(len(lengths)), lengths)
    numbers = np.arange(len(expected)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if np.array_equal(episodes, expected) and np.array_equal(frames, numbers):
        return None
    order = np.lexsort((frames, episodes))
    for row in np.flatnonzero((episodes[order] != expected) | (frames[order] != numbers)):
        raise DatasetError(
            f"{source.root}: the data files have episode {episodes[order][row]}, frame {frames[order][row]}, "
            f"expected episode {expected[row]}, frame {numbers[row]}; frames are missing or repeated"
        )
    return order
