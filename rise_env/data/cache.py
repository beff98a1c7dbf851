"""Arrays on disk that are made once and mapped into memory ever after: decoded frames, latents.

`<cache>/frames/<key>.npy` holds one array; the key is a fingerprint of what it is made from. One process makes it under
a lock, in a `.partial` file that is renamed at the end; a later one goes on after the last step that was finished.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.errors import DatasetError
from rise_env.files import to_json, write_json

__all__ = ["Progress", "Step", "cache_root", "cached_array", "fingerprint"]

#: Called with the items done so far and the items in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Step:
    """A part of the work on an array: its name, stable between runs, and the number of items that `run` makes.

    `run` writes into the array and calls its second argument with the number of items it has just finished.
    """

    name: str
    size: int
    run: Callable[[np.ndarray, Callable[[int], None]], None]


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
    path: Path, shape: tuple[int, ...], dtype: Any, steps: Sequence[Step], progress: Progress | None = None
) -> np.ndarray:
    """Open the array at `path`, making it first if it is not there.

    Args:
        path: File with the suffix ".npy".
        shape: Shape of the array.
        dtype: Its type.
        steps: The work that makes it; done in order, each once, even if processes are killed in between.
        progress: Called while the array is made, never while it is only opened.

    Returns:
        A read-only memory map.

    Raises:
        DatasetError: If there is no room for it, the directory cannot be written to, or a step raises it.
    """
    found = _open(path, shape, dtype)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _open(path, shape, dtype)  # another process may have made it while we waited
            if found is None:
                _make(path, shape, dtype, steps, progress)
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
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):  # absent, or not what we wrote: made again
        return None
    return array if array.shape == shape and array.dtype == np.dtype(dtype) else None


def _make(path: Path, shape: tuple[int, ...], dtype: Any, steps: Sequence[Step], progress: Progress | None) -> None:
    partial, record = path.with_suffix(".partial"), path.with_suffix(".partial.json")
    names = [step.name for step in steps]
    finished: list[str] = []
    if _open(partial, shape, dtype) is not None:
        with contextlib.suppress(OSError, ValueError):
            finished = list(json.loads(record.read_text(encoding="utf-8")))
    if finished != names[: len(finished)]:
        finished = []
    if not finished:
        record.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        with open(partial, "r+b") as file:
            # Writing into the holes of a sparse file kills the process when the disk is full; this raises instead.
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    array = np.load(partial, mmap_mode="r+", allow_pickle=False)
    total = sum(step.size for step in steps)
    done = sum(step.size for step in steps[: len(finished)])

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    try:
        for step in steps[len(finished) :]:
            step.run(array, advance)
            finished.append(step.name)
            if len(finished) < len(steps):
                write_json(record, finished)
        array.flush()
    except DatasetError:  # what it is made from is wrong, and will have another key once repaired
        del array
        partial.unlink(missing_ok=True)
        record.unlink(missing_ok=True)
        raise
    os.replace(partial, path)
    record.unlink(missing_ok=True)
