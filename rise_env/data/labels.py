"""Labels of frames: values and advantages in tagged parquet files beside a dataset, which itself is never rewritten.

`meta/returns_{tag}.parquet` has the columns episode_index, frame_index, return, reward, prompt;
`meta/advantages_{tag}.parquet` has episode_index, frame_index, advantage (bool), advantage_continuous, value_current,
value_next, reward_sum, as RLinf writes them. Both may have more columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.data.opening import open_dataset
from rise_env.data.parquet import read_parquet, to_numpy
from rise_env.data.recorded import RecordedDataset
from rise_env.errors import DatasetError
from rise_env.files import atomic_path

__all__ = ["interventions", "label_tags", "read_advantages", "read_values", "write_advantages", "write_values"]

_VERSION = b"1"
_KEYS = ("episode_index", "frame_index")
_REQUIRED = {
    "returns": {"return": "float32", "reward": "float32", "prompt": "str"},
    "advantages": {
        "advantage": "bool",
        **dict.fromkeys(("advantage_continuous", "value_current", "value_next", "reward_sum"), "float32"),
    },
}


def write_values(
    root: Dataset | str | Path,
    tag: str,
    values: Any,
    *,
    rewards: Any = None,
    prompts: Sequence[str] | None = None,
    directory: str | Path | None = None,
    **columns: Any,
) -> list[Path]:
    """Write `meta/returns_{tag}.parquet`, in one step.

    Args:
        root: Dataset, or its directory.
        tag: Name of this labelling: letters, digits, "_", "-" and ".".
        values: float (N,), column `return`, in global frame order.
        rewards: float (N,); zeros when omitted.
        prompts: Instruction per frame; the dataset's own when omitted.
        directory: Where to write instead of `<root>/meta`, e.g. if the dataset is read-only.
        **columns: More columns, bool or float (N,), e.g. `spread`.

    Returns:
        The files written, one per joined dataset.

    Raises:
        DatasetError: If a column has the wrong length or is not finite, or the file cannot be written.
    """
    dataset = _opened(root)
    if rewards is None:
        rewards = np.zeros(dataset.num_frames, np.float32)
    if prompts is None:
        prompts = dataset.prompts(np.arange(dataset.num_frames))
    given = {"return": values, "reward": rewards, "prompt": prompts, **columns}
    return _write(dataset, "returns", tag, given, directory)


def read_values(root: Dataset | str | Path, tag: str, directory: str | Path | None = None) -> dict[str, np.ndarray]:
    """Columns (N,) of `meta/returns_{tag}.parquet`, or of that file in `directory`, in global frame order.

    Raises:
        DatasetError: If the file is missing, lacks a column, or does not hold every frame of the dataset once.
    """
    return _read(_opened(root), "returns", tag, directory)


def write_advantages(
    root: Dataset | str | Path,
    tag: str,
    advantage: Any,
    *,
    positive: Any,
    value_current: Any,
    value_next: Any,
    reward_sum: Any = None,
    directory: str | Path | None = None,
    **columns: Any,
) -> list[Path]:
    """Write `meta/advantages_{tag}.parquet`, in one step; what is not listed is as for `write_values`.

    Args:
        root: Dataset, or its directory.
        tag: Name of this labelling.
        advantage: float (N,), column `advantage_continuous`, in global frame order.
        positive: bool (N,), column `advantage`; True for all frames of demonstrations.
        value_current: float (N,), value of the frame.
        value_next: float (N,), value at the end of its chunk, or the mean over it.
        reward_sum: float (N,), rewards in between; zeros when omitted.
        directory: Where to write instead of `<root>/meta`.
        **columns: More columns, bool or float (N,).
    """
    dataset = _opened(root)
    if reward_sum is None:
        reward_sum = np.zeros(dataset.num_frames, np.float32)
    given = {
        "advantage": positive, "advantage_continuous": advantage,
        "value_current": value_current, "value_next": value_next, "reward_sum": reward_sum, **columns,
    }  # fmt: skip
    return _write(dataset, "advantages", tag, given, directory)


def read_advantages(root: Dataset | str | Path, tag: str, directory: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read `meta/advantages_{tag}.parquet`; arguments and errors as for `read_values`."""
    return _read(_opened(root), "advantages", tag, directory)


def label_tags(root: Dataset | str | Path, kind: str = "advantages") -> list[str]:
    """Tags of the sidecars of a dataset, kind "advantages" or "returns"."""
    where = root.root if isinstance(root, Dataset) else Path(root)
    prefix = f"{kind}_"
    return sorted(path.stem.removeprefix(prefix) for path in (where / "meta").glob(f"{prefix}*.parquet"))


def interventions(dataset: Dataset) -> np.ndarray:
    """Frames that a human or expert corrected, bool (N,): `is_intervention`, with or without `complementary_info.`.

    Raises:
        DatasetError: If the dataset has no such column.
    """
    for name in ("is_intervention", "complementary_info.is_intervention"):
        if name in dataset.columns:
            return dataset.column(name).astype(bool)
    return dataset.column("is_intervention")


def _opened(root: Dataset | str | Path) -> Dataset:
    return root if isinstance(root, Dataset) else open_dataset(root)


def _path(root: Path, kind: str, tag: str, directory: str | Path | None) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", tag):
        raise DatasetError(f"tag {tag!r} must consist of letters, digits, '_', '-' and '.'")
    return (root / "meta" if directory is None else Path(directory)) / f"{kind}_{tag}.parquet"


def _write(dataset: Dataset, kind: str, tag: str, given: Mapping[str, Any], directory: str | Path | None) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [_path(part.root, kind, tag, directory) for part in dataset.parts]
    if len(set(paths)) < len(paths):
        raise DatasetError("labels of joined datasets cannot share one directory; write them one by one")
    columns = {name: _checked(name, values, _REQUIRED[kind].get(name), dataset) for name, values in given.items()}
    first = 0
    for path, part in zip(paths, dataset.parts, strict=True):
        rows = slice(first, first + part.num_frames)
        first += part.num_frames
        episode = part.episode_of(np.arange(part.num_frames))
        frame = np.arange(part.num_frames) - part.starts[episode]
        data = {name: values[rows] for name, values in columns.items()}
        table = pa.table(
            {"episode_index": _numbers(part)[episode], "frame_index": frame, **data}
        ).replace_schema_metadata({"rise": kind, "rise_version": _VERSION, "tag": tag})
        try:
            with atomic_path(path) as aside:
                pq.write_table(table, aside)
        except OSError as error:
            reason = error.strerror or error
            raise DatasetError(
                f"{path} cannot be written: {reason}. Give another directory: --directory (directory=...)"
            ) from error
    return paths


def _read(dataset: Dataset, kind: str, tag: str, directory: str | Path | None) -> dict[str, np.ndarray]:
    tables = [_read_one(part, kind, tag, directory) for part in dataset.parts]
    if len(tables) == 1:
        return tables[0]
    shared = [name for name in tables[0] if all(name in table for table in tables)]
    joined = {name: np.concatenate([table[name] for table in tables]) for name in shared}
    return {**joined, "episode_index": dataset.column("episode_index")}


def _read_one(dataset: Dataset, kind: str, tag: str, directory: str | Path | None) -> dict[str, np.ndarray]:
    path = _path(dataset.root, kind, tag, directory)
    if not path.is_file():
        known = ", ".join(label_tags(dataset, kind)) or "(none)"
        raise DatasetError(f"{path} is missing: {dataset.root} has no {kind} with the tag {tag!r}. Its tags: {known}. "
                           f"Make them with `rise label {dataset.root} --value MODEL --tag {tag}`.")  # fmt: skip
    table = read_parquet(path)
    if absent := [name for name in (*_KEYS, *_REQUIRED[kind]) if name not in table.schema.names]:
        raise DatasetError(f"{path} lacks the column {absent[0]!r}; it has {', '.join(table.schema.names)}")
    columns = {name: to_numpy(table[name], f"{path}, column {name!r}") for name in table.schema.names}
    numbers = _numbers(dataset)
    if not np.array_equal(numbers, np.arange(len(numbers))):  # some episodes are left out
        kept = np.isin(columns["episode_index"], numbers)
        columns = {name: values[kept] for name, values in columns.items()}
        columns["episode_index"] = np.searchsorted(numbers, columns["episode_index"])
    episodes, frames = (columns[name] for name in _KEYS)
    outside = (episodes < 0) | (episodes >= dataset.num_episodes) | (frames < 0)
    outside |= frames >= dataset.lengths[np.where(outside, 0, episodes)]
    if outside.any():
        row = int(np.argmax(outside))
        raise DatasetError(
            f"{path}: row {row} labels episode {episodes[row]}, frame {frames[row]}, which {dataset.root} "
            "does not have. The dataset has changed since; label it again."
        )
    index = dataset.starts[episodes] + frames
    counts = np.bincount(index, minlength=dataset.num_frames)
    if (counts != 1).any():
        episode, frame = dataset.locate(int(np.argmax(counts != 1)))
        raise DatasetError(
            f"{path}: episode {episode}, frame {frame} is labelled {counts[dataset.starts[episode] + frame]} times, "
            f"expected once ({int((counts != 1).sum())} such frames). The dataset has changed since; label it again."
        )
    order = np.argsort(index)
    columns = {name: values[order] for name, values in columns.items()}
    for name, expected in _REQUIRED[kind].items():
        columns[name] = _checked(name, columns[name], expected, dataset, f"{path}, ")
    return columns


def _numbers(part: Dataset) -> np.ndarray:
    """Number of every episode in the files of a dataset."""
    return part.source.numbers if isinstance(part, RecordedDataset) else np.arange(part.num_episodes)


def _checked(name: str, values: Any, expected: str | None, dataset: Dataset, where: str = "") -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (dataset.num_frames,):
        raise DatasetError(
            f"{where}column {name!r} has shape {array.shape}, expected one value per frame of {dataset.name}: "
            f"({dataset.num_frames},)"
        )
    if expected == "str":
        return array.astype(object)
    kinds = {"bool": "b", "float32": "fiu", None: "bfiu"}[expected]
    if array.dtype.kind not in kinds:
        raise DatasetError(f"{where}column {name!r} is {array.dtype}, expected {expected or 'bool or a number'}")
    if expected == "float32" or array.dtype.kind == "f":
        array = array.astype(np.float32)
        for row in np.flatnonzero(~np.isfinite(array)):
            place = "episode {}, frame {}".format(*dataset.locate(row))
            raise DatasetError(f"{where}column {name!r} is {array[row]} at {place}; expected finite numbers")
    return array
