"""LeRobot datasets on disk, v3.0 and v2.1 (v2.0), described in one way: where every frame of every episode lies.

Only metadata is read here: JSON, JSON lines and the small parquet tables below `meta/`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_env.data.parquet import read_parquet, to_list
from rise_env.data.schema import (
    Count,
    EpisodeLine,
    Feature,
    Info,
    Number,
    Seconds,
    TaskLine,
    Text,
    Version,
    check_all,
    parse_json,
    place,
)
from rise_env.errors import DatasetError, requirement

__all__ = ["DataFile", "Source", "VideoSegment", "locate", "read_source"]

INFO_PATH = "meta/info.json"


class VideoSegment(NamedTuple):
    """A video file, the time in it of an episode's first frame (s), and whether it holds that episode alone."""

    path: Path
    start: float
    whole: bool


class DataFile(NamedTuple):
    """A parquet file, the episodes in it, in order, and their frames together."""

    path: Path
    episodes: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Source:
    """A LeRobot dataset as its metadata describe it.

    Attributes:
        root: Directory.
        fps: Frames per second.
        robot_type: As in `info.json`, or "".
        features: Feature key to its entry in `info.json`.
        lengths: int64 (E,), frames per episode.
        episode_success: Outcome per episode where the episode table has one (`episode_success`), else None.
        episode_tasks: Instructions of every episode as in the episode table, else None.
        tasks: Instruction by `task_index`.
        data_files: Parquet files in episode order.
        videos: Feature key of every camera that is a video, to one segment per episode.
        numbers: int64 (E,), number of every episode in the files.
        whole: The dataset of which this is a part; None if it is all of it.
    """

    root: Path
    fps: float
    robot_type: str
    features: dict[str, Feature]
    lengths: np.ndarray
    episode_success: tuple[Any, ...] | None
    episode_tasks: tuple[Any, ...] | None
    tasks: dict[int, str]
    data_files: tuple[DataFile, ...]
    videos: dict[str, tuple[VideoSegment, ...]]
    numbers: np.ndarray
    whole: Source | None = None

    def without(self, episodes: Collection[int]) -> Source:
        """This dataset without some of its episodes, the others numbered through; DatasetError if none is left."""
        if not episodes:
            return self
        kept = [i for i in range(len(self.lengths)) if i not in episodes]
        if not kept:
            raise DatasetError(f"{self.root}: none of its {len(self.lengths)} episodes can be used")
        place = {episode: i for i, episode in enumerate(kept)}
        files = []
        for file in self.data_files:
            members = [episode for episode in file.episodes if episode in place]
            if members:
                rows = int(self.lengths[members].sum())
                files.append(DataFile(file.path, tuple(place[episode] for episode in members), rows))
        success, tasks = (
            None if one is None else tuple(one[i] for i in kept) for one in (self.episode_success, self.episode_tasks)
        )
        return replace(
            self, lengths=self.lengths[kept], episode_success=success, episode_tasks=tasks, data_files=tuple(files),
            videos={key: tuple(segments[i] for i in kept) for key, segments in self.videos.items()},
            numbers=self.numbers[kept], whole=self.whole or self,
        )  # fmt: skip

    @property
    def cameras(self) -> list[str]:
        """Feature keys of all RGB cameras, videos and images, in the dataset's order."""
        return [key for key, feature in self.features.items() if feature.is_camera]

    @property
    def control_rate(self) -> int:
        """Frames per second as a whole number of Hz, at least 1: cameras of 29.97 Hz are controlled at 30."""
        return max(1, round(self.fps))


def locate(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Directory of a dataset: a local one, else a snapshot from the Hugging Face hub, e.g. of "lerobot/pusht".

    Raises:
        DatasetError: If it is neither a directory with a dataset nor a dataset on the hub.
    """
    try:
        path = Path(path_or_repo).expanduser()
        if (path / INFO_PATH).is_file():
            return path.resolve()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # no home, a name too long, a zero in it
        raise DatasetError(f"{str(path_or_repo)!r:.200} is no path: {error}") from None
    if exists:
        raise DatasetError(f"{path} holds no LeRobot dataset: {INFO_PATH} is missing")
    name = str(path_or_repo)
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        expected = f"Give the directory that holds {INFO_PATH}, or a hub id such as 'user/name'."
        raise DatasetError(f"dataset {name!r} does not exist. {expected}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        root = Path(snapshot_download(name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        problem = "is no local directory and cannot be had from the Hugging Face hub"
        reason = str(error).strip().partition("\n")[0]
        raise DatasetError(f"dataset {name!r} {problem}: {reason}") from error
    if not (root / INFO_PATH).is_file():
        raise DatasetError(f"{name!r} on the Hugging Face hub is no LeRobot dataset: {INFO_PATH} is missing")
    return root


def read_source(root: str | Path) -> Source:
    """Read the metadata of the dataset in `root`.

    Raises:
        DatasetError: If metadata are missing, malformed, contradict each other or are of an unknown version; the
            message names file, key, value and what was expected.
    """
    root = Path(root).resolve()
    content = _read(root / INFO_PATH)
    version = parse_json(Version, content, root / INFO_PATH).codebase_version
    if not version.startswith("v3.") and version not in ("v2.1", "v2.0"):
        raise DatasetError(
            f"{root / INFO_PATH}: LeRobot format {version}, expected v3.0, v2.1 or v2.0. "
            "Convert the dataset with lerobot first."
        )
    info = parse_json(Info, content, root / INFO_PATH)
    parts = _read_v3(root, info) if version.startswith("v3.") else _read_v2(root, info)
    numbers = np.arange(len(parts["lengths"]))
    source = Source(root, info.fps, info.robot_type or "", info.features, numbers=numbers, **parts)
    _check(source, info)
    return source


def _read_v3(root: Path, info: Info) -> dict[str, Any]:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{root} has no episode table: meta/episodes/*/*.parquet is missing")
    tables = [read_parquet(path, without="stats/") for path in files]
    shared = [name for name in tables[0].schema.names if all(name in table.schema.names for table in tables)]

    def column(name: str, kind: Any) -> list[Any]:
        if name not in shared:
            lacking = next(path for path, one in zip(files, tables, strict=True) if name not in one.schema.names)
            raise DatasetError(f"{lacking} has no column {name!r}. Its columns: {', '.join(shared)}.")
        values = [one for path, table in zip(files, tables, strict=True)
                  for one in check_all(kind, to_list(table[name], f"{path}, column {name!r}"), path, name)]  # fmt: skip
        return [values[i] for i in order] if order is not None else values

    order: Sequence[int] | None = None
    order = np.argsort(column("episode_index", Count), kind="stable").tolist()
    _check_episode_indices(root, column("episode_index", Count))
    lengths = np.array(column("length", Count), np.int64)

    def paths_of(template: str, key: str, prefix: str, **names: str) -> list[Path]:
        chunks, files = (column(f"{prefix}/{name}", Number) for name in ("chunk_index", "file_index"))
        return [
            place(root, template, key, chunk_index=chunk, file_index=file, episode_index=episode, **names)
            for episode, (chunk, file) in enumerate(zip(chunks, files, strict=True))
        ]

    members: dict[Path, list[int]] = {}
    for episode, path in enumerate(paths_of(info.data_path, "data_path", "data")):
        members.setdefault(path, []).append(episode)
    videos: dict[str, tuple[VideoSegment, ...]] = {}
    for key in _video_keys(info):
        starts = column(f"videos/{key}/from_timestamp", Seconds)
        paths = paths_of(_video_path(root, info), "video_path", f"videos/{key}", video_key=key)
        videos[key] = tuple(VideoSegment(path, start, False) for path, start in zip(paths, starts, strict=True))
    tasks = column("tasks", Any) if "tasks" in shared else None
    success = column("episode_success", Any) if "episode_success" in shared else None
    return {
        "lengths": lengths,
        "episode_success": _optional(success),
        "episode_tasks": _optional(tasks),
        "tasks": _tasks_of(tasks, info, root / "meta/tasks.parquet") or _read_v3_tasks(root),
        "data_files": tuple(DataFile(p, tuple(e), int(lengths[e].sum())) for p, e in members.items()),
        "videos": videos,
    }


def _read_v3_tasks(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.parquet"
    table = read_parquet(path)
    texts = [name for name in table.schema.names if name != "task_index"]  # pandas may have named the index or not
    name = "task" if "task" in texts else texts[0] if len(texts) == 1 else None
    if name is None or "task_index" not in table.schema.names:
        raise DatasetError(f"{path} has the columns {table.schema.names}, expected task_index and task")
    columns = ((Count, "task_index"), (Text, name))
    indices, tasks = (
        check_all(kind, to_list(table[key], f"{path}, column {key!r}"), path, key) for kind, key in columns
    )
    return dict(zip(indices, tasks, strict=True))


def _tasks_of(episode_tasks: list[Any] | None, info: Info, table: Path) -> dict[int, str] | None:
    """Instructions as the episodes have them, where there is no table of them, and frames do not refer to it or all
    episodes have the one same.
    """
    if episode_tasks is None or table.is_file():
        return None
    lists = ([tasks] if isinstance(tasks, str) else tasks for tasks in episode_tasks if isinstance(tasks, str | list))
    texts = dict.fromkeys(str(text) for tasks in lists for text in tasks)
    return None if "task_index" in info.features and len(texts) != 1 else dict(enumerate(texts))


def _read_v2(root: Path, info: Info) -> dict[str, Any]:
    rows = sorted(_read_lines(root / "meta/episodes.jsonl", EpisodeLine), key=lambda row: row.episode_index)
    _check_episode_indices(root, [row.episode_index for row in rows])
    lengths = [row.length for row in rows]

    def path_of(template: str, key: str, episode: int, **names: str) -> Path:
        chunk = episode // info.chunks_size
        numbers = {"episode_chunk": chunk, "chunk_index": chunk, "episode_index": episode, "file_index": episode}
        return place(root, template, key, **numbers, **names)

    def segments(key: str) -> tuple[VideoSegment, ...]:
        paths = (path_of(_video_path(root, info), "video_path", row.episode_index, video_key=key) for row in rows)
        return tuple(VideoSegment(path, 0.0, True) for path in paths)

    tasks = _tasks_of([row.tasks for row in rows], info, root / "meta/tasks.jsonl")
    files = ((path_of(info.data_path, "data_path", i), i, length) for i, length in enumerate(lengths))
    return {
        "lengths": np.asarray(lengths, np.int64),
        "episode_success": _optional([row.episode_success for row in rows]),
        "episode_tasks": _optional([row.tasks for row in rows]),
        "tasks": tasks or {row.task_index: row.task for row in _read_lines(root / "meta/tasks.jsonl", TaskLine)},
        "data_files": tuple(DataFile(path, (i,), length) for path, i, length in files),
        "videos": {key: segments(key) for key in _video_keys(info)},
    }


def _check(source: Source, info: Info) -> None:
    require = requirement(str(source.root), DatasetError)
    require(len(source.lengths), "it has no episodes")
    episode = int(np.argmin(source.lengths))
    shortest = source.lengths[episode]
    require(shortest >= 1, f"episode {episode} has length {shortest}, expected at least 1 frame")
    for key, found in (("total_episodes", len(source.lengths)), ("total_frames", int(source.lengths.sum()))):
        said = getattr(info, key)
        problem = f"info.json says {key} {said}, the episode table has {found}. The metadata are incomplete"
        require(said in (None, found), f"{problem}: copy or download the dataset again.")
    for key in source.cameras:
        try:
            _ = source.features[key].image_size
        except ValueError as error:
            raise DatasetError(f"{source.root / INFO_PATH}: features.{key}: {error}") from None


def _check_episode_indices(root: Path, indices: list[int]) -> None:
    if indices != list(range(len(indices))):
        odd = next(i for i, index in enumerate(indices) if i != index)
        raise DatasetError(f"{root}: row {odd} of the episode table is episode {indices[odd]}, expected {odd}")


def _video_keys(info: Info) -> list[str]:
    return [key for key, one in info.features.items() if one.is_camera and one.dtype == "video"]


def _video_path(root: Path, info: Info) -> str:
    if info.video_path is None:
        raise DatasetError(f"{root / INFO_PATH}: the metadata lack the key 'video_path', although features are videos")
    return info.video_path


def _optional(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None or all(value is None for value in values) else tuple(values)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _read_lines[Line: (EpisodeLine, TaskLine)](path: Path, model: type[Line]) -> list[Line]:
    lines = enumerate(_read(path).splitlines(), 1)
    return [parse_json(model, line, f"{path}, line {number}") for number, line in lines if line.strip()]
