"""Decoding the camera frames of a dataset, as steps of work on one array (N, V, H, W, 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import Step, fingerprint
from rise_env.data.errors import DatasetError
from rise_env.data.parquet import read_parquet
from rise_env.data.source import DataFile, Source
from rise_env.data.video import Piece, decode_image, decode_video
from rise_env.tasks import TaskSpec

__all__ = ["decoding_steps", "frames_fingerprint"]

_VERSION = 1


def frames_fingerprint(source: Source, spec: TaskSpec) -> str:
    """Fingerprint of the decoded frames; free of the directory's name, so that a renamed dataset keeps its cache."""
    keys = list(spec.cameras.values())
    files = {segment.path for key in keys for segment in source.videos.get(key, ())}
    if any(key not in source.videos for key in keys):
        files |= {file.path for file in source.data_files}
    stamps = {str(path.relative_to(source.root)): _stamp(path) for path in sorted(files)}
    segments = {
        key: [[str(s.path.relative_to(source.root)), s.start] for s in source.videos.get(key, ())] for key in keys
    }
    return fingerprint([_VERSION, keys, spec.image_size, source.fps, source.lengths.tolist(), segments, stamps])


def decoding_steps(source: Source, spec: TaskSpec) -> list[Step]:
    """Steps that decode every camera of a task, file by file.

    Args:
        source: Metadata of the dataset.
        spec: Names the cameras and the size of the pictures.

    Returns:
        Steps on an array uint8 (N, V, H, W, 3). They raise DatasetError where a video or image is missing or damaged.
    """
    starts = np.cumsum(source.lengths) - source.lengths
    steps = []
    for view, key in enumerate(spec.cameras.values()):
        if key not in source.videos:
            steps += [_image_step(source, spec, starts, view, key, file) for file in source.data_files]
            continue
        members: dict[Path, list[Piece]] = {}
        for episode, segment in enumerate(source.videos[key]):
            length, start = int(source.lengths[episode]), int(starts[episode])
            piece = Piece(episode, segment.start, length, segment.whole, start)
            members.setdefault(segment.path, []).append(piece)
        steps += [_video_step(source, spec, view, path, pieces) for path, pieces in members.items()]
    return steps


def _video_step(source: Source, spec: TaskSpec, view: int, path: Path, pieces: list[Piece]) -> Step:
    def run(array: np.ndarray, advance: Any) -> None:
        for row, image in decode_video(path, pieces, source.fps, spec.image_size):
            array[row, view] = image
            advance(1)

    return Step(f"{view}:{path.relative_to(source.root)}", sum(piece.length for piece in pieces), run)


def _image_step(source: Source, spec: TaskSpec, starts: np.ndarray, view: int, key: str, file: DataFile) -> Step:
    """A camera whose images lie in the parquet files, as PNG or JPEG."""

    def run(array: np.ndarray, advance: Any) -> None:
        table = read_parquet(file.path, ["episode_index", "frame_index", key])
        episodes, numbers = table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
        for row, (episode, number) in enumerate(zip(episodes, numbers, strict=True)):
            where = f"{file.path}, episode {episode}, frame {number}, {key}"
            content = (table[key][row].as_py() or {}).get("bytes")
            if content is None:
                raise DatasetError(f"{where}: the file holds no image")
            array[starts[episode] + number, view] = decode_image(content, spec.image_size, where)
            advance(1)

    return Step(f"{view}:{file.path.relative_to(source.root)}", file.rows, run)


def _stamp(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except OSError:
        return []  # decoding raises: it is missing
    return [facts.st_size, facts.st_mtime_ns]
