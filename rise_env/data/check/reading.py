"""Joint values of a dataset as they are on disk, faults included: `open_dataset` refuses what a check has to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_env.data.outcomes import SUCCESS_COLUMNS, parse_outcome, parse_steps, read_outcomes
from rise_env.data.parquet import to_numpy
from rise_env.data.rows import read_rows
from rise_env.data.source import DataFile, Source
from rise_env.errors import DatasetError

__all__ = ["Motion", "Reading", "joint_names", "read_motion"]


@dataclass(frozen=True)
class Motion:
    """Joint values of the episodes that could be read, one after the other.

    Attributes:
        fps: Frames per second, as the dataset says.
        lengths: int64 (E,), frames of every episode.
        numbers: int64 (E,), its number in the dataset.
        state: float32 (N, D); may hold NaN.
        action: float32 (N, A); may hold NaN.
        state_names: Names of the state's dimensions.
        action_names: Names of the action's dimensions.
        times: Time stamps, s, float64 (N,); None where the dataset has none.
    """

    fps: float
    lengths: np.ndarray
    numbers: np.ndarray
    state: np.ndarray
    action: np.ndarray
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    times: np.ndarray | None = None

    @property
    def starts(self) -> np.ndarray:
        """int64 (E,), first row of every episode."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def paired(self) -> bool:
        """Whether state and action have the same joints."""
        return self.state_names == self.action_names

    def rows(self) -> Iterator[slice]:
        """Rows of every episode."""
        for start, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            yield slice(start, start + length)

    def episode_of(self, row: Any) -> Any:
        """Number of the episode that rows belong to."""
        return self.numbers[np.searchsorted(self.starts, row, side="right") - 1]


@dataclass(frozen=True)
class Reading:
    """What `read_motion` found; episodes by their number in the dataset.

    Attributes:
        motion: Joint values; None if no episode can be read.
        damaged: What is wrong with the episodes that cannot be read.
        outcomes: Success or failure, where it is recorded.
        unclear: Why an outcome that is recorded cannot be understood.
    """

    motion: Motion | None
    damaged: dict[int, str]
    outcomes: dict[int, bool]
    unclear: dict[int, str]


def joint_names(source: Source, key: str) -> tuple[str, ...]:
    """Names of a feature's dimensions, `joint_0` and so on where the dataset has none."""
    feature = source.features[key]
    unnamed = tuple(f"joint_{i}" for i in range(feature.count))
    return feature.names if len(feature.names) == feature.count else unnamed


def read_motion(source: Source, keys: Mapping[str, str], advance: Callable[[int], None] = lambda _: None) -> Reading:
    """Read state, action, time stamps and outcomes of all episodes of `source`.

    `keys` has the feature of "state" and of "action"; `advance` is called with the number of frames just read.
    """
    read: dict[int, dict[str, np.ndarray]] = {}
    damaged: dict[int, str] = {}
    for file in source.data_files:
        for episode, found in _episodes(source, file, keys):
            if isinstance(found, str):
                damaged[int(source.numbers[episode])] = found
            else:
                read[episode] = found
        advance(file.rows)
    outcomes, unclear = _outcomes(source, read)
    if not read:
        return Reading(None, damaged, outcomes, unclear)
    kept = sorted(read)
    timed = all("timestamp" in read[episode] for episode in kept)
    joined = {
        key: np.concatenate([read[episode].pop(key) for episode in kept])
        for key in ("state", "action", *(("timestamp",) if timed else ()))
    }
    motion = Motion(
        source.fps,
        source.lengths[kept],
        source.numbers[kept],
        joined["state"],
        joined["action"],
        joint_names(source, keys["state"]),
        joint_names(source, keys["action"]),
        joined.get("timestamp"),
    )
    return Reading(motion, damaged, outcomes, unclear)


def _episodes(
    source: Source, file: DataFile, keys: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, np.ndarray] | str]]:
    """Episodes of a data file with their columns, or with what is wrong."""
    try:
        table, index = read_rows(source, file, list(keys.values()), optional=SUCCESS_COLUMNS)
    except DatasetError as error:
        yield from ((episode, str(error)) for episode in file.episodes)
        return
    names = {**keys, **{name: name for name in ("timestamp", *SUCCESS_COLUMNS) if name in table.schema.names}}
    whole: dict[str, np.ndarray] = {}
    for name, key in names.items():
        try:
            whole[name] = to_numpy(table[key], f"{file.path}, column {key!r}")
        except DatasetError:  # told for each of the episodes that are concerned
            continue
    order = np.lexsort((index["frame_index"], index["episode_index"]))
    first, last = (np.searchsorted(index["episode_index"][order], file.episodes, side) for side in ("left", "right"))
    for episode, begin, end in zip(file.episodes, first.tolist(), last.tolist(), strict=True):
        rows = order[begin:end]
        frames = index["frame_index"][rows]
        where = f"{file.path}, episode {source.numbers[episode]}"
        if not np.array_equal(frames, np.arange(source.lengths[episode])):
            yield episode, f"{where}: frames are missing or repeated; expected 0 to {source.lengths[episode] - 1}"
            continue
        columns: dict[str, np.ndarray] = {}
        try:
            for name, key in names.items():
                some = f"{where}, column {key!r}"
                values = whole[name][rows] if name in whole else to_numpy(table[key].take(rows), some)
                columns[name] = values if name in SUCCESS_COLUMNS else _numbers(values, source, name, key, some)
        except DatasetError as error:
            yield episode, str(error)
            continue
        yield episode, columns


def _numbers(values: np.ndarray, source: Source, name: str, key: str, where: str) -> np.ndarray:
    if values.dtype.kind not in "fiub":
        raise DatasetError(f"{where}: {values.dtype}, expected numbers")
    if name == "timestamp":
        return values.astype(np.float64).reshape(len(values), -1)[:, 0]
    count = source.features[key].count
    if values.size != len(values) * count:
        raise DatasetError(f"{where}: {values.size // max(1, len(values))} values per frame, info.json says {count}")
    with np.errstate(over="ignore"):  # too large for float32: infinite, which is told
        return values.reshape(len(values), count).astype(np.float32)


def _outcomes(source: Source, read: Mapping[int, Mapping[str, np.ndarray]]) -> tuple[dict[int, bool], dict[int, str]]:
    """Outcomes, and what cannot be understood of them, as `RecordedDataset.outcomes`, but of every episode by "
    "itself.
    """
    given: Mapping[int, Any] = {}
    ours, theirs = ({i: some[name] for i, some in read.items() if name in some} for name in SUCCESS_COLUMNS)
    stepwise = False
    if "episode_success" in source.features:
        given = ours
    elif source.episode_success is not None:
        given = dict(enumerate(source.episode_success))
    else:
        try:
            beside = read_outcomes(source.root, len((source.whole or source).lengths))
        except DatasetError as error:
            return {}, {int(source.numbers[0]): str(error)}
        stepwise = beside is None
        given = theirs if beside is None else dict(enumerate(beside[source.numbers]))
    outcomes, unclear = {}, {}
    for episode, values in given.items():
        number = int(source.numbers[episode])
        where = f"{source.root}, episode {number}"
        try:
            if stepwise:
                outcomes[number] = parse_steps(values, where)
                continue
            each = {parse_outcome(value, where) for value in np.unique(np.asarray(values).reshape(-1))}
            if len(each) != 1:
                raise DatasetError(f"{where}: episode_success changes within it; expected one outcome per episode")
            outcomes[number] = each.pop()
        except DatasetError as error:
            unclear[number] = str(error)
    return outcomes, unclear
