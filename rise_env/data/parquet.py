"""Parquet files as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.errors import DatasetError

__all__ = ["join_rows", "read_parquet", "to_list", "to_numpy"]


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, optional: Sequence[str] = (), without: str | None = None
) -> Any:
    """Read (columns of) a parquet file as a pyarrow table, with those `optional` ones that it has; or all columns but
    those that begin with `without`.

    Raises:
        DatasetError: If the file is missing or damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise DatasetError(f"{path} is missing")
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in columns or () if name not in names]:
                raise DatasetError(f"{path} has no column {missing[0]!r}. Its columns: {', '.join(names)}.")
            if columns is not None:
                columns = [*columns, *(name for name in optional if name in names and name not in columns)]
            if without is not None:
                columns = [name for name in names if not name.startswith(without)]
            return file.read(columns=columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as parquet: {error}") from error


def to_numpy(column: Any, where: str) -> np.ndarray:
    """Rows of a pyarrow.ChunkedArray, lists as further axes; (n, 1) becomes (n,).

    Raises:
        DatasetError: If a value is missing, or rows differ in length.
    """
    import pyarrow as pa

    try:
        return _to_numpy(column, where)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{where}: {column.type} is no type of numbers or texts: {error}") from error


def _to_numpy(column: Any, where: str) -> np.ndarray:
    import pyarrow as pa

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count:
        raise DatasetError(f"{where}: {array.null_count} of {len(array)} values are null")
    shape = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        rows = len(array)
        if not pa.types.is_fixed_size_list(array.type) and rows:
            sizes = np.diff(array.offsets.to_numpy())
            if sizes.min() != sizes.max():
                raise DatasetError(f"{where}: rows have between {sizes.min()} and {sizes.max()} values")
        array = array.flatten()
        shape.append(len(array) // rows if rows else 0)
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype == object and pa.types.is_boolean(array.type):
        values = values.astype(bool)
    values = values.reshape(shape)
    return values[:, 0] if shape[1:] == [1] else values


def to_list(column: Any, where: str) -> list[Any]:
    """Rows of a pyarrow.ChunkedArray as Python values; DatasetError if a text is not UTF-8 or a number has no like."""
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DatasetError(f"{where}: {error}") from error


def join_rows(arrays: Sequence[np.ndarray], name: str, where: Any) -> np.ndarray:
    """Concatenate a column of several files; always a copy.

    Raises:
        DatasetError: If the shapes of their rows differ.
    """
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise DatasetError(f"{where}: column {name!r} has different shapes in its files: {sorted(shapes)}")
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0].copy()
