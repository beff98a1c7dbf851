"""LeRobot datasets on disk, v3.0 and v2.1 (v2.0), described in one way: where every frame of every episode lies.

Only metadata is read here: JSON, JSON lines and the small parquet tables below `meta/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_env.data.parquet import read_parquet
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
        tasks: Instruction by `task_index`.
        data_files: Parquet files in episode order.
        videos: Feature key of every camera that is a video, to one segment per episode.
    """

    root: Path
    fps: int
    robot_type: str
    features: dict[str, dict[str, Any]]
    lengths: np.ndarray
    episode_success: tuple[Any, ...] | None
    tasks: dict[int, str]
    data_files: tuple[DataFile, ...]
    videos: dict[str, tuple[VideoSegment, ...]]

    @property
    def cameras(self) -> list[str]:
        """Feature keys of all RGB cameras, videos and images, in the dataset's order."""
        return [key for key, feature in self.features.items() if _is_camera(feature)]


def locate(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Directory of a dataset: a local one, else a snapshot from the Hugging Face hub, e.g. of "lerobot/pusht".

    Raises:
        DatasetError: If it is neither a directory with a dataset nor a dataset on the hub.
    """
    path = Path(path_or_repo).expanduser()
    if (path / INFO_PATH).is_file():
        return path.resolve()
    if path.exists():
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
        DatasetError: If metadata are missing, malformed, contradict each other or are of an unknown version.
    """
    root = Path(root).resolve()
    info = _mapping(_read_text(root / INFO_PATH), root / INFO_PATH)
    version = str(info.get("codebase_version", "(none)"))
    try:
        if version.startswith("v3."):
            parts = _read_v3(root, info)
        elif version in ("v2.1", "v2.0"):
            parts = _read_v2(root, info)
        else:
            raise DatasetError(
                f"{root / INFO_PATH}: LeRobot format {version}, expected v3.0, v2.1 or v2.0. "
                "Convert the dataset with lerobot first."
            )
        if not isinstance(fps := info["fps"], int | float) or fps < 1 or fps != int(fps):
            raise DatasetError(f"{root / INFO_PATH}: fps is {fps!r}, expected a whole number of at least 1")
        source = Source(root, int(fps), str(info.get("robot_type") or ""), dict(info["features"]), **parts)
    except KeyError as error:
        raise DatasetError(f"the metadata of {root} ({version}) lack the key {error}") from error
    _check(source, info)
    return source


def _read_v3(root: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{root} has no episode table: meta/episodes/*/*.parquet is missing")
    tables = [read_parquet(path, without="stats/") for path in files]
    episodes = pa.concat_tables(tables, promote_options="default").sort_by("episode_index")
    table = {name: episodes[name].to_pylist() for name in episodes.schema.names}
    _check_episode_indices(root, table["episode_index"])
    lengths = np.asarray(table["length"], np.int64)

    def path_of(template: str, chunk: int, file: int, **names: str) -> Path:
        return root / template.format(chunk_index=chunk, file_index=file, **names)

    members: dict[Path, list[int]] = {}
    for episode, place in enumerate(zip(table["data/chunk_index"], table["data/file_index"], strict=True)):
        members.setdefault(path_of(info["data_path"], *place), []).append(episode)
    videos: dict[str, tuple[VideoSegment, ...]] = {}
    for key in _video_keys(info):
        columns = (table[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp"))
        videos[key] = tuple(
            VideoSegment(path_of(info["video_path"], chunk, file, video_key=key), float(start), False)
            for chunk, file, start in zip(*columns, strict=True)
        )
    return {
        "lengths": lengths,
        "episode_success": _optional(table.get("episode_success")),
        "tasks": _read_v3_tasks(root),
        "data_files": tuple(DataFile(p, tuple(e), int(lengths[e].sum())) for p, e in members.items()),
        "videos": videos,
    }


def _read_v3_tasks(root: Path) -> dict[int, str]:
    table = read_parquet(root / "meta/tasks.parquet")
    texts = [name for name in table.schema.names if name != "task_index"]  # pandas may have named the index or not
    name = "task" if "task" in texts else texts[0] if len(texts) == 1 else None
    if name is None or "task_index" not in table.schema.names:
        problem = f"has the columns {table.schema.names}, expected task_index and task"
        raise DatasetError(f"{root / 'meta/tasks.parquet'} {problem}")
    return {int(i): str(t) for i, t in zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True)}


def _read_v2(root: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    rows = sorted(_read_json_lines(root / "meta/episodes.jsonl"), key=lambda row: row["episode_index"])
    _check_episode_indices(root, [row["episode_index"] for row in rows])
    size = int(info.get("chunks_size", 1000))

    def path_of(template: str, episode: int, **names: str) -> Path:
        return root / template.format(episode_chunk=episode // size, episode_index=episode, **names)

    count, lengths = len(rows), [int(row["length"]) for row in rows]
    return {
        "lengths": np.asarray(lengths, np.int64),
        "episode_success": _optional([row.get("episode_success") for row in rows]),
        "tasks": {int(r["task_index"]): str(r["task"]) for r in _read_json_lines(root / "meta/tasks.jsonl")},
        "data_files": tuple(DataFile(path_of(info["data_path"], i), (i,), lengths[i]) for i in range(count)),
        "videos": {
            key: tuple(VideoSegment(path_of(info["video_path"], i, video_key=key), 0.0, True) for i in range(count))
            for key in _video_keys(info)
        },
    }


def _check(source: Source, info: Mapping[str, Any]) -> None:
    require = requirement(str(source.root), DatasetError)
    require(len(source.lengths), "it has no episodes")
    episode = int(np.argmin(source.lengths))
    shortest = source.lengths[episode]
    require(shortest >= 1, f"episode {episode} has length {shortest}, expected at least 1 frame")
    for key, found in (("total_episodes", len(source.lengths)), ("total_frames", int(source.lengths.sum()))):
        problem = f"info.json says {key} {info.get(key)}, the episode table has {found}. The metadata are incomplete"
        require(info.get(key, found) == found, f"{problem}: copy or download the dataset again.")


def _check_episode_indices(root: Path, indices: list[int]) -> None:
    if indices != list(range(len(indices))):
        odd = next(i for i, index in enumerate(indices) if i != index)
        raise DatasetError(f"{root}: row {odd} of the episode table is episode {indices[odd]}, expected {odd}")


def _is_camera(feature: Mapping[str, Any]) -> bool:
    if feature.get("dtype") not in ("video", "image"):
        return False
    details = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    return not (details.get("is_depth_map") or details.get("video.is_depth_map"))


def _video_keys(info: Mapping[str, Any]) -> list[str]:
    return [key for key, one in info["features"].items() if _is_camera(one) and one["dtype"] == "video"]


def _optional(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None or all(value is None for value in values) else tuple(values)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _mapping(text: str, where: Any) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{where}: expected a mapping, got {type(content).__name__}")
    return content


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    lines = enumerate(_read_text(path).splitlines(), 1)
    return [_mapping(line, f"{path}, line {number}") for number, line in lines if line.strip()]
