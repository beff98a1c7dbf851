"""What every worker on Ray needs: files that are sent, one thread, results."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayTaskError

from rise_env.threads import limit_cores

__all__ = ["Files", "files_of", "is_gone", "on_one_core", "result_of", "unpacked"]

#: Content of files by path below a folder.
type Files = dict[str, np.ndarray]


def is_gone() -> bool:
    """Whether the cluster that Ray remembers on this machine is gone: it would wait for one that was killed."""
    note = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    if os.environ.get("RAY_ADDRESS") or not note.is_file():
        return False
    host, _, port = note.read_text(encoding="utf-8").strip().rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return True
    return False


def on_one_core(device: str) -> None:
    """A place without a GPU is one core; one thread an operation in any case, as everywhere."""
    torch.set_num_threads(1)
    if device == "cpu":
        limit_cores(1)


def files_of(folder: Path) -> Files:
    """All files below a folder."""
    return {str(path.relative_to(folder)): np.frombuffer(path.read_bytes(), np.uint8)
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def unpacked(files: Files, folder: Path) -> Path:
    """The folder, with these files in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.tobytes())
    return folder


def result_of(reference: Any) -> Any:
    """What a worker gave; an exception of ours as a value, as it was raised there."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
