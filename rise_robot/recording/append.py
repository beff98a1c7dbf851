"""Append finished datasets to a dataset by writing *new* files only; the files that are there stay as they are.

LeRobot's own `aggregate_datasets` copies everything, rewrites the growing target once per source, does not shift the
index statistics and cannot be interrupted; here the cost is that of the appended part, and everything is staged in a
directory of its own that the caller puts into place.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rise_robot.recording.records import RecordingError, read_episode_records, write_episode_records

__all__ = [
    "INFO_PATH",
    "describe_features",
    "quiet_libav",
    "read_episodes",
    "read_tasks",
    "stage_append",
    "video_frames",
]

INFO_PATH = Path("meta/info.json")
_MIB = 1024**2
_SHIFTED_STATS = ("min", "max", "mean", "q01", "q10", "q50", "q90", "q99")

type FileIndex = tuple[int, int]


def read_episodes(root: Path) -> pa.Table:
    """Read `meta/episodes` of a LeRobot v3.0 dataset, all files in order."""
    tables = [pq.read_table(path) for path in sorted((root / "meta/episodes").glob("*/*.parquet"))]
    if not tables:
        raise RecordingError(f"{root}/meta/episodes holds no episodes")
    return pa.concat_tables([table.select(tables[0].column_names) for table in tables])


def read_tasks(root: Path) -> list[str]:
    """Read the task texts of a dataset in the order of their task index."""
    from lerobot.datasets.io_utils import load_tasks

    tasks = load_tasks(root)
    return [str(text) for text in tasks.sort_values("task_index").index]


def describe_features(info: Any) -> dict[str, str]:
    """One line per property that all parts of a dataset must share, from a lerobot `DatasetInfo`."""
    lines = {"format": info.codebase_version, "fps": str(info.fps), "robot_type": str(info.robot_type)}
    for key, feature in info.features.items():
        names = feature["names"] if feature["dtype"] != "video" else None
        lines[key] = f"{feature['dtype']} {tuple(feature['shape'])}" + (f" [{', '.join(names)}]" if names else "")
    return lines


def quiet_libav() -> None:
    """Stop libav from printing every encoder's settings: lerobot routes its messages past Python's logging."""
    av.logging.set_libav_level(av.logging.ERROR)


def video_frames(path: Path) -> int:
    """Number of frames of an mp4 file, as its header states it."""
    with av.open(str(path)) as container:
        return container.streams.video[0].frames


def stage_append(root: Path, sources: Sequence[Path], staging: Path) -> None:
    """Write into `staging` the files that turn the dataset at `root` into itself plus `sources`; RecordingError if a
    source does not match the others, or a video came out with the wrong number of frames.

    New data, video and episode files get the next free numbers; `info.json`, `stats.json`, `tasks.parquet` and the
    sidecar are the complete new versions. `root` is only read.

    Args:
        root: Complete dataset, or a directory without one.
        sources: Complete datasets with at least one episode each, in the order in which they are appended.
        staging: Empty directory.
    """
    from lerobot.datasets.compute_stats import aggregate_stats
    from lerobot.datasets.io_utils import load_info, load_stats, write_info, write_stats, write_tasks

    parts = [load_info(source) for source in sources]
    fresh = not (root / INFO_PATH).is_file()
    info = dataclasses.replace(parts[0], total_episodes=0, total_frames=0) if fresh else load_info(root)
    expected = describe_features(info)
    for source, part in zip(sources, parts, strict=True):
        if (other := describe_features(part)) != expected:
            raise RecordingError(f"{source} does not match {sources[0] if fresh else root}:\n{other}\nand\n{expected}")
    tasks = [] if fresh else read_tasks(root)
    records = [] if fresh else read_episode_records(root)
    stats = [] if fresh else [load_stats(root)]

    cameras = [key for key, feature in info.features.items() if feature["dtype"] == "video"]
    videos = {key: _stage_videos(key, root, sources, parts, staging) for key in cameras}
    data = _DataStage(root, staging, info)
    meta_chunk, meta_file = _next_file(root / "meta/episodes", info.chunks_size)
    tables: list[pa.Table] = []
    for number, (source, part) in enumerate(zip(sources, parts, strict=True)):
        texts = read_tasks(source)
        tasks += [text for text in texts if text not in tasks]
        task_map = np.array([tasks.index(text) for text in texts])
        first_episode, first_frame = info.total_episodes, info.total_frames
        files = data.append(source, first_episode, first_frame, task_map)

        table = read_episodes(source)
        count = table.num_rows
        columns = {
            "episode_index": table["episode_index"].to_numpy() + first_episode,
            "dataset_from_index": table["dataset_from_index"].to_numpy() + first_frame,
            "dataset_to_index": table["dataset_to_index"].to_numpy() + first_frame,
            "meta/episodes/chunk_index": np.full(count, meta_chunk),
            "meta/episodes/file_index": np.full(count, meta_file),
        }
        placed = [files[index] for index in _file_indices(table, "data")]
        columns["data/chunk_index"], columns["data/file_index"] = np.array(placed).T
        for key, places in videos.items():
            found = [places[number, index] for index in _file_indices(table, f"videos/{key}")]
            chunks, numbers, offset = (np.array(values) for values in zip(*found, strict=True))
            columns[f"videos/{key}/chunk_index"], columns[f"videos/{key}/file_index"] = chunks, numbers
            for end in ("from_timestamp", "to_timestamp"):
                columns[f"videos/{key}/{end}"] = table[f"videos/{key}/{end}"].to_numpy() + offset
        for name, shift in (("episode_index", first_episode), ("index", first_frame)):
            for stat in _SHIFTED_STATS:
                key = f"stats/{name}/{stat}"
                columns[key] = [[value + shift for value in row] for row in table[key].to_pylist()]
        for stat in _SHIFTED_STATS:
            indices = [[float(tasks.index(text)) for text in row[:1]] for row in table["tasks"].to_pylist()]
            columns[f"stats/task_index/{stat}"] = indices
        table = _with(table, columns)
        tables.append(table if not tables else table.select(tables[0].column_names).cast(tables[0].schema))
        stats += _episode_stats(table)
        for record in read_episode_records(source):
            records.append(dataclasses.replace(record, episode_index=record.episode_index + first_episode))
        info.total_episodes += part.total_episodes
        info.total_frames += part.total_frames
    data.close()

    episodes_path = staging / f"meta/episodes/chunk-{meta_chunk:03d}/file-{meta_file:03d}.parquet"
    episodes_path.parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), episodes_path)
    for key in videos:
        settings = [info.features[key]["info"], *(part.features[key]["info"] for part in parts)]
        agree = {name: all(other.get(name) == value for other in settings) for name, value in settings[0].items()}
        info.features[key]["info"] = {name: value if agree[name] else None for name, value in settings[0].items()}
    info.total_tasks = len(tasks)
    info.splits = {"train": f"0:{info.total_episodes}"}
    write_tasks(pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task")), staging)
    write_stats(aggregate_stats(stats), staging)
    write_episode_records(staging, records)
    write_info(info, staging)


def _with(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """The table with new values in some of its columns."""
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        table = table.set_column(position, field, pa.array(values, field.type))
    return table


class _DataStage:
    """Writes renumbered frame tables, one row group per episode as lerobot does, into as few files as allowed."""

    def __init__(self, root: Path, staging: Path, info: Any) -> None:
        self._staging = staging
        self._info = info
        self._place = _next_file(root / "data", info.chunks_size)
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def append(self, source: Path, episode: int, frame: int, task_map: np.ndarray) -> dict[FileIndex, FileIndex]:
        """Append all frames of `source`; returns where each of its data files went."""
        places = {}
        for path in sorted((source / "data").glob("*/*.parquet")):
            size = path.stat().st_size
            if self._writer is not None and self._bytes + size > self._info.data_files_size_in_mb * _MIB:
                self.close()
                self._place = _after(self._place, self._info.chunks_size)
            places[_parse(path)] = self._place
            self._bytes += size
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    columns = {"episode_index": table["episode_index"].to_numpy() + episode}
                    columns |= {"index": table["index"].to_numpy() + frame}
                    table = _with(table, columns | {"task_index": task_map[table["task_index"].to_numpy()]})
                    if self._writer is None:
                        target = self._staging / "data/chunk-{:03d}/file-{:03d}.parquet".format(*self._place)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        self._writer = pq.ParquetWriter(target, table.schema)
                    self._writer.write_table(table.select(self._writer.schema.names).cast(self._writer.schema))
        return places

    def close(self) -> None:
        """Finish the current file."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._bytes = None, 0


def _stage_videos(
    key: str, root: Path, sources: Sequence[Path], parts: Sequence[Any], staging: Path
) -> dict[tuple[int, FileIndex], tuple[int, int, float]]:
    """Join the video files of one camera; returns (source number, file) -> (chunk, file, offset in seconds)."""
    from lerobot.datasets.video_utils import concatenate_video_files

    fps, limit = parts[0].fps, parts[0].video_files_size_in_mb * _MIB
    place = _next_file(root / "videos" / key, parts[0].chunks_size)
    places: dict[tuple[int, FileIndex], tuple[int, int, float]] = {}
    group: list[Path] = []
    frames = size = 0
    settings: Any = None

    def finish() -> None:
        nonlocal group, frames, size, place
        if not group:
            return
        target = staging / "videos" / key / "chunk-{:03d}/file-{:03d}.mp4".format(*place)
        target.parent.mkdir(parents=True, exist_ok=True)
        if len(group) == 1:
            shutil.copyfile(group[0], target)
        else:
            concatenate_video_files(list(group), target)
            target.chmod(group[0].stat().st_mode)  # lerobot leaves the mode of a private temporary file
        if (found := video_frames(target)) != frames:
            raise RecordingError(
                f"joining {len(group)} videos of {key} gave {found} frames instead of {frames} (first: {group[0]}). "
                "The recorded episodes are untouched; check the disk space, also that of the temporary directory."
            )
        group, frames, size = [], 0, 0
        place = _after(place, parts[0].chunks_size)

    for number, (source, part) in enumerate(zip(sources, parts, strict=True)):
        table = read_episodes(source)
        lengths: dict[FileIndex, int] = {}
        for index, length in zip(_file_indices(table, f"videos/{key}"), table["length"].to_pylist(), strict=True):
            lengths[index] = lengths.get(index, 0) + length
        # Streams are copied, not encoded again: only files from one and the same encoder setting fit into one file.
        part_settings = part.features[key]["info"]
        mixed = None in part_settings.values()
        for index, length in sorted(lengths.items()):
            path = source / "videos" / key / "chunk-{:03d}/file-{:03d}.mp4".format(*index)
            file_size = path.stat().st_size
            if group and (mixed or part_settings != settings or size + file_size > limit):
                finish()
            settings = part_settings
            places[number, index] = (*place, frames / fps)
            group.append(path)
            frames, size = frames + length, size + file_size
    finish()
    return places


def _episode_stats(table: pa.Table) -> list[dict[str, dict[str, np.ndarray]]]:
    stats: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in range(table.num_rows)]
    for name in table.column_names:
        if name.startswith("stats/"):
            feature, stat = name.removeprefix("stats/").rsplit("/", 1)
            for row, value in zip(stats, table[name].to_pylist(), strict=True):
                row.setdefault(feature, {})[stat] = np.array(value)
    return stats


def _file_indices(table: pa.Table, prefix: str) -> list[FileIndex]:
    chunks, files = (table[f"{prefix}/{name}_index"].to_pylist() for name in ("chunk", "file"))
    return list(zip(chunks, files, strict=True))


def _parse(path: Path) -> FileIndex:
    return int(path.parent.name.removeprefix("chunk-")), int(path.stem.removeprefix("file-"))


def _after(index: FileIndex, chunks_size: int) -> FileIndex:
    chunk, file = index
    return (chunk, file + 1) if file + 1 < chunks_size else (chunk + 1, 0)


def _next_file(folder: Path, chunks_size: int) -> FileIndex:
    taken = [_parse(path) for path in folder.glob("chunk-*/file-*")]
    return _after(max(taken), chunks_size) if taken else (0, 0)
