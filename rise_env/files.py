"""Writing files so that a reader, or a killed process, never meets half of one."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import glob
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.errors import CheckpointError, ConfigError, RiseError

__all__ = [
    "atomic_directory",
    "atomic_path",
    "exclusive",
    "read_json",
    "refuse_existing",
    "to_json",
    "to_plain",
    "write_json",
    "write_text",
]

#: A disk with less room, in bytes, is full.
_FULL = 2**16


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; on leaving the block, what was written becomes `path` in one step.

    Missing parent directories are made. A symbolic link is followed, so that the link stays one. If the block raises,
    `path` stays as it was and nothing is left behind. What a killed process left of the same `path` is removed first;
    what a living one is writing is not. A directory may be made, too, where `path` is none yet.

    Yields:
        A path on the same file system, with the same name, that does not exist yet.

    Example:
        >>> with atomic_path("weights.safetensors") as aside:  # doctest: +SKIP
        ...     safetensors.torch.save_file(tensors, aside)
    """
    path = Path(path).resolve()
    with _workplace(path) as folder:
        aside = folder / path.name
        yield aside
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)  # the new name, too, survives a power cut


@contextlib.contextmanager
def atomic_directory(path: str | Path, marker: str) -> Iterator[Path]:
    """Give an empty directory to fill; on leaving the block it becomes `path`.

    If the block raises, `path` stays as it was. A directory that is there already is renamed aside, and removed only
    once the new one has its name. What a killed process left half done beside `path` is removed first; if it had
    renamed `path` and no more, `path` gets its name back.

    Args:
        path: Directory to make or replace.
        marker: File that every directory of this kind holds. A directory that has files but not this one is someone
            else's, and is not replaced.

    Raises:
        FileExistsError: If `path` is a file, or a directory that is not empty and has no `marker`.
    """
    path = Path(path).resolve()
    with _workplace(path) as aside:
        occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if occupied and not (path / marker).is_file():
            raise FileExistsError(f"{path} exists and holds no {marker}: it is left alone. Choose another directory.")
        former = aside.with_suffix(".old")
        try:
            yield aside
            for file in aside.rglob("*"):
                _sync(file)
            if path.exists():
                os.replace(path, former)
            os.replace(aside, path)
            _sync(path.parent)
        finally:
            if former.exists() and not path.exists():
                os.replace(former, path)
            shutil.rmtree(former, ignore_errors=True)


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Make a hidden directory beside a path, and remove it in the end.

    It is locked meanwhile. A killed process lets go of the lock, and whoever writes the same path next clears up.
    Parent directories that were made for nothing are removed.
    """
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(path)
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        folder.mkdir()
        descriptor = _lock(folder, wait=True)
        if folder.exists():  # else another writer has taken it for a leftover before it was locked
            break
        _unlock(descriptor)
    try:
        yield folder
    except Exception as error:
        # torch, safetensors and NumPy say it in words of their own; what they wrote still fills the disk.
        if not isinstance(error, RiseError) and shutil.disk_usage(folder.parent).free < _FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(descriptor)
        with contextlib.suppress(OSError):  # up to the first one that is not empty
            for parent in new:
                parent.rmdir()


def _clear_up(path: Path) -> None:
    """Remove what killed processes left beside a path."""
    for suffix in ("old", "tmp"):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 12}.{suffix}"):
            workplace = left.with_suffix(".tmp")
            descriptor = _lock(workplace)
            if descriptor is None and workplace.exists():  # a writer is at work
                continue
            if suffix == "old" and not path.exists():
                os.replace(left, path)
            else:
                shutil.rmtree(left, ignore_errors=True)
            _unlock(descriptor)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """Lock a directory; None if it is gone, another process has it, or the file system knows no locks."""
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        _unlock(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a folder while something is made in it; a killed process lets go of it.

    The folder is made where it is missing, and keeps an empty file `.lock`. If nothing else came to be in it, both are
    removed again, as far as they were not there before.

    Raises:
        ConfigError: If another process is at work in it.
    """
    folder = Path(folder)
    made, lock = not folder.exists(), folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno()))):
                raise BlockingIOError  # another process has just removed it
        except BlockingIOError:
            raise ConfigError(
                f"another process is at work in {folder}: wait for it, end it, or give another folder"
            ) from None
        try:
            yield
        finally:
            if lock not in before and set(folder.iterdir()) == {*before, lock}:
                lock.unlink()
                if made:
                    folder.rmdir()


def refuse_existing(path: str | Path) -> None:
    """Refuse to overwrite a file, or a directory that is not empty, before hours of work are spent on it.

    Raises:
        ConfigError: If it is there.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{path} exists and is not overwritten: give another place (--out), or remove it")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, content: str) -> None:
    """Make or replace a UTF-8 file in one step; what is no regular file (`/dev/stdout`, a pipe) is written to."""
    path = Path(path)
    with contextlib.nullcontext(path) if path.exists() and not path.is_file() else atomic_path(path) as target:
        target.write_text(content, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Make or replace a JSON file in one step; see `to_json` for what may be in it."""
    write_text(path, to_json(content) + "\n")


_MISSING: Any = object()


def read_json[T](path: str | Path, kind: type[T], missing: T = _MISSING, cure: str = "") -> T:
    """Content of a JSON file that a program of ours wrote.

    Args:
        path: File.
        kind: What it holds, such as `dict[str, float]`.
        missing: What to return where there is no such file; an error when omitted.
        cure: What to do about a damaged one; when omitted, to remove its folder.

    Raises:
        CheckpointError: If it is missing, damaged or holds something else.
    """
    import pydantic

    path = Path(path)
    try:
        content = path.read_bytes()
        return pydantic.TypeAdapter(kind).validate_json(content)
    except FileNotFoundError:
        if missing is not _MISSING:
            return missing
        raise CheckpointError(f"{path} is missing. {cure or _again(path)}") from None
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise CheckpointError(f"{path} is damaged ({why}). {cure or _again(path)}") from error


def _again(path: Path) -> str:
    return f"Copy it again, or remove {path.parent} and start anew."


def to_json(content: Any) -> str:
    """Indented JSON text, readable by any parser.

    Besides plain values it takes dataclass instances, paths, NumPy scalars and arrays. NaN and infinities, for which
    JSON has no word, become null.

    Raises:
        TypeError: If a value is of another type; the message names it.
    """
    return json.dumps(to_plain(content), indent=2, ensure_ascii=False, allow_nan=False)


def to_plain(value: Any) -> Any:
    """What `to_json` writes for a value, before it is text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(f"cannot write {type(value).__module__}.{type(value).__qualname__} as JSON: {value!r:.80}")
