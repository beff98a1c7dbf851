"""Camera frames of a dataset as steps of work on one array; every file is decoded once, from front to back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import Step, fingerprint
from rise_env.data.parquet import to_list
from rise_env.data.placing import Piece
from rise_env.data.rows import read_rows
from rise_env.data.source import DataFile, Source
from rise_env.data.video import DamagedError, decode_image, decode_video
from rise_env.errors import DatasetError
from rise_env.tasks import TaskSpec

__all__ = ["decoding_steps", "frames_fingerprint"]

_VERSION = 2


def frames_fingerprint(source: Source, spec: TaskSpec, *, contents: bool = True) -> str:
    """Fingerprint of the decoded frames; free of the directory's name, so that a renamed dataset keeps its cache.

    Args:
        source: Dataset.
        spec: Its cameras and image size.
        contents: Tell files of the same names from each other, by size and time.
    """
    keys = list(spec.cameras.values())
    files = {segment.path for key in keys for segment in source.videos.get(key, ())}
    if any(key not in source.videos for key in keys):
        files |= {file.path for file in source.data_files}
    stamps: dict[str, Any] = {str(path.relative_to(source.root)): _stamp(path) for path in sorted(files)}
    if any(key not in source.videos for key in keys):
        stamps["images"] = _stamps_below(source.root / "images")
    segments = {k: [[str(s.path.relative_to(source.root)), s.start] for s in source.videos.get(k, ())] for k in keys}
    known = [_VERSION, keys, spec.image_size, source.fps, source.lengths.tolist(), segments]
    return fingerprint([*known, stamps] if contents else known)


def decoding_steps(source: Source, cameras: Sequence[str], size: tuple[int, int]) -> list[Step]:
    """Steps on an array uint8 (N, V, H, W, 3), or what takes its place, that decode cameras, given as feature keys, at
    a height and width, file by file.

    They raise DamagedError where a video or image is missing or damaged.
    """
    starts = np.cumsum(source.lengths) - source.lengths
    whole = source.whole or source
    index = {number: episode for episode, number in enumerate(source.numbers.tolist())}
    steps = []
    for view, key in enumerate(cameras):
        if key not in source.videos:
            steps += [_image_step(source, size, starts, view, key, file) for file in source.data_files]
            continue
        members: dict[Path, list[Piece]] = {}
        # Those that are left out take their place in the file all the same.
        for number, segment in enumerate(whole.videos[key]):
            episode = index.get(number)
            target = -1 if episode is None else int(starts[episode])
            piece = Piece(number, segment, int(whole.lengths[number]), episode, target)
            members.setdefault(segment.path, []).append(piece)
        steps += [
            _video_step(source, size, view, key, path, pieces)
            for path, pieces in members.items() if any(piece.episode is not None for piece in pieces)
        ]  # fmt: skip
    return steps


def _video_step(source: Source, size: tuple[int, int], view: int, key: str, path: Path, pieces: list[Piece]) -> Step:
    def run(array: Any, advance: Any) -> None:
        recorded = source.features[key].image_size
        for row, image in decode_video(path, pieces, source.fps, size, recorded):
            array[row, view] = image
            advance(1)

    return Step(_name(view, source, path), sum(piece.length for piece in pieces if piece.episode is not None), run)


def _image_step(source: Source, size: tuple[int, int], starts: np.ndarray, view: int, key: str, file: DataFile) -> Step:
    """A camera whose images lie in the parquet files, as PNG or JPEG, or are files of their own."""

    def run(array: Any, advance: Any) -> None:
        recorded = source.features[key].image_size
        try:
            table, index = read_rows(source, file, [], optional=[key])
        except DatasetError as error:
            raise DamagedError(dict.fromkeys(file.episodes, str(error))) from error
        column = table[key] if key in table.schema.names else None
        problems: dict[int, list[str]] = {}
        pairs = zip(index["episode_index"].tolist(), index["frame_index"].tolist(), strict=True)
        for row, (episode, frame) in enumerate(pairs):
            number = int(source.numbers[episode])  # in the files, should others be left out
            where = f"{file.path}, episode {number}, frame {frame}, {key}"
            try:
                entry = None if column is None else to_list(column[row : row + 1], where)[0]
                content = _image_bytes(entry, source.root, file.path, key, number, frame, where)
                array[starts[episode] + frame, view] = decode_image(content, size, where, recorded)
            except DatasetError as error:
                problems.setdefault(episode, []).append(str(error))
            advance(1)
        if problems:
            count = {episode: f" ({len(texts)} such pictures in this episode)" for episode, texts in problems.items()}
            raise DamagedError({episode: texts[0] + count[episode] for episode, texts in problems.items()})

    return Step(_name(view, source, file.path), file.rows, run)


def _image_bytes(entry: Any, root: Path, table: Path, key: str, episode: int, frame: int, where: str) -> bytes:
    """A picture: the bytes of its entry in the table, or the file that the entry, or lerobot's custom, names."""
    given = entry.get("bytes") if isinstance(entry, dict) else entry if isinstance(entry, bytes) else None
    if given is not None:
        return bytes(given)
    named = entry.get("path") if isinstance(entry, dict) else entry
    folders = [root / "images" / key / f"episode{dash}{episode:06d}" for dash in "_-"]
    if isinstance(named, str) and named:
        if ".." in Path(named).parts:
            raise DatasetError(f"{where}: the picture {named!r:.200} lies outside the dataset")
        moved = Path(named).is_absolute() and not Path(named).is_relative_to(root)  # as on the machine that recorded it
        places = [*(() if moved else (root / named, table.parent / named)), *(f / Path(named).name for f in folders)]
    else:
        places = [folder / f"frame{dash}{frame:06d}{suffix}" for folder, dash in zip(folders, "_-", strict=True)
                  for suffix in (".png", ".jpg", ".jpeg")]  # fmt: skip
    for path in places:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise DatasetError(f"{where}: {path} cannot be read: {error}") from error
    if named and Path(str(named)).is_absolute():
        raise DatasetError(f"{where}: the picture {named!r:.200} is missing, or lies outside the dataset")
    raise DatasetError(f"{where}: the file holds no image, and {places[0]} is missing")


def _name(view: int, source: Source, path: Path) -> str:
    """Name of a step: another one when the file is replaced."""
    return ":".join([str(view), str(path.relative_to(source.root)), *map(str, _stamp(path))])


def _stamp(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return []  # decoding raises: it is missing
    return [facts.st_size, facts.st_mtime_ns]


def _stamps_below(folder: Path) -> list[int]:
    """Number of files below a folder, their bytes, and the time of the newest."""
    stamps = [_stamp(Path(place, name)) for place, _, names in os.walk(folder) for name in names]
    sizes, times = zip(*filter(None, stamps), strict=True) if any(stamps) else ((), ())
    return [len(stamps), sum(sizes), max(times, default=0)]
