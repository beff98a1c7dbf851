"""Arrays on disk that are made once and mapped into memory ever after: decoded frames, latents.

`<cache>/frames/<key>.npy` holds one array; the key is a fingerprint of what it is made from. One process makes it under
a lock, in a `.partial` file that is renamed at the end; a later one goes on with the steps that are not finished. A
checksum of the content, behind it in the file, is compared when the array is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tokenize
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.errors import DatasetError
from rise_env.files import to_json, write_json

__all__ = ["IncompleteError", "Progress", "Step", "cache_root", "cached_array", "fingerprint"]

_SEAL = b"rise crc32 "
_BLOCK = 1 << 26  # bytes

#: Called with the items done so far and the items in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """A part of the work on an array: its name, stable between runs, and the number of items that `run` makes.

    `run` writes into the array and calls its second argument with the number of items it has just finished.
    """

    name: str
    size: int
    run: Callable[[Any, Callable[[int], None]], None]


class IncompleteError(DatasetError):
    """Some steps failed; `problems` says why. What the others made is kept for the next try."""

    def __init__(self, problems: Sequence[DatasetError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


def cache_root(directory: str | Path | None = None) -> Path:
    """Directory of the cache: the argument, else `$XDG_CACHE_HOME/rise`, else `~/.cache/rise`."""
    if directory is not None:
        return Path(directory).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "rise"


def fingerprint(content: Any) -> str:
    """Short hash of plain content (see `rise_env.files.to_json`)."""
    return hashlib.sha256(to_json(content).encode()).hexdigest()[:24]


def cached_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    steps: Sequence[Step],
    progress: Progress | None = None,
    *,
    partial: Path | None = None,
) -> np.ndarray:
    """Open the array at `path`, making it first if it is not there, or no longer holds what was written.

    Args:
        path: File with the suffix ".npy".
        shape: Shape of the array.
        dtype: Its type.
        steps: The work that makes it; each is done once, even if processes are killed, or other steps fail, in between.
        progress: Called while the array is made, never while it is only opened.
        partial: File of the unfinished array; beside `path` when omitted. Steps of the same name are taken from it.

    Returns:
        A read-only memory map.

    Raises:
        IncompleteError: If steps raise DatasetError; all others are done first, and kept.
        DatasetError: If there is no room for it, or the directory cannot be written to.
    """  # fmt: skip
    partial = partial or path.with_suffix(".partial")
    found = _open(path, shape, dtype)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _open(path, shape, dtype)  # another process may have made it while we waited
            if found is None:
                _make(path, partial, shape, dtype, steps, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            problem = f"no room for {size / 1e9:.2f} GB in the cache {path.parent}: use a smaller image_size, or"
        elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            problem = f"the cache {path.parent} cannot be written to ({error.strerror});"
        else:
            raise
        raise DatasetError(f"{problem} give another directory: cache_dir=..., or XDG_CACHE_HOME.") from error
    found = _open(path, shape, dtype)
    if found is None:
        raise DatasetError(f"the cache file {path} vanished while it was opened. Run again.")
    return found


def _open(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    # Absent, not what we wrote, or changed since: made again.
    return _map(path, shape, dtype) if _sealed(path) else None


def _map(path: Path, shape: tuple[int, ...], dtype: Any, mode: Any = "r") -> np.ndarray | None:
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError, SyntaxError, tokenize.TokenError):
        return None
    return array if array.shape == shape and array.dtype == np.dtype(dtype) else None


def _checksum(path: Path, length: int) -> bytes:
    value = 0
    with open(path, "rb") as file:
        while length > 0 and (block := file.read(min(_BLOCK, length))):
            value, length = zlib.crc32(block, value), length - len(block)
    return _SEAL + f"{value:08x}".encode()


def _sealed(path: Path) -> bool:
    try:
        size = path.stat().st_size - len(_SEAL) - 8
    except FileNotFoundError:
        return False
    with open(path, "rb") as file:
        file.seek(max(size, 0))
        return file.read() == _checksum(path, size)


def _make(
    path: Path, partial: Path, shape: tuple[int, ...], dtype: Any, steps: Sequence[Step], progress: Progress | None
) -> None:
    record = partial.with_suffix(".partial.json")
    finished: set[str] = set()
    array: Any = _map(partial, shape, dtype, "r+")
    if array is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            finished = set(json.loads(record.read_text(encoding="utf-8"))) & {step.name for step in steps}
    if array is None or not finished:
        record.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        with open(partial, "r+b") as file:
            # Writing into the holes of a sparse file kills the process when the disk is full; this raises instead.
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        array = np.load(partial, mmap_mode="r+", allow_pickle=False)
    total = sum(step.size for step in steps)
    done = sum(step.size for step in steps if step.name in finished)
    problems: list[DatasetError] = []

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for step in steps:
        if step.name in finished:
            continue
        try:
            step.run(array, advance)
        except DatasetError as error:  # what it is made from is wrong; all such places are told at once
            problems.append(error)
            continue
        finished.add(step.name)
        array.flush()  # before it is called finished
        write_json(record, sorted(finished))
    if problems:
        raise IncompleteError(problems)
    del array
    seal = _checksum(partial, partial.stat().st_size)
    with open(partial, "ab") as end:
        end.write(seal)
    os.replace(partial, path)
    record.unlink(missing_ok=True)
