"""Where a result comes from: code, packages, hardware, configuration and seed. Part of every JSON file we write.

Nothing here imports torch: a GPU is asked about through `nvidia-smi`.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rise_env.files import to_plain

__all__ = ["config_hash", "content_fingerprint", "git_revision", "hardware", "package_versions", "provenance"]

_PACKAGES = ("numpy", "torch", "gymnasium", "stable-baselines3", "mujoco", "lerobot", "diffusers", "transformers")


def provenance(config: Mapping[str, Any] | None = None, seed: int | None = None) -> dict[str, Any]:
    """Everything needed to know where a result comes from, and to repeat it.

    Returns:
        JSON-ready mapping with `time` (UTC, ISO 8601), `command` (absolute paths by their names), `git`,
        `packages` and `hardware` (see the functions of like names), `config_hash` and `seed`; `imagine` where
        `RISE_IMAGINE` or `--imagine` changes how trained dynamics imagine.
    """
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv],
        "git": git_revision(),
        "packages": package_versions(),
        "hardware": hardware(),
        **({"imagine": told} if (told := os.environ.get("RISE_IMAGINE")) else {}),
        "config_hash": None if config is None else config_hash(config),
        "seed": seed,
    }


def config_hash(config: Any) -> str:
    """Sixteen hexadecimal digits that are the same for the same plain values, in any order of the keys."""
    text = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def content_fingerprint(folder: Path) -> str:
    """Hash of all weights and arrays below a folder, wherever it lies and whatever it is called."""
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".npy", ".npz")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout this package is imported from.

    Returns:
        `{"revision": <40 hex digits>, "modified": <bool, tracked files differ from the commit>}`, or None for an
        installed package, a checkout without a commit or a machine without git.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    revision = _output("git", "-C", str(root), "rev-parse", "HEAD")
    if revision is None:
        return None
    changes = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision, "modified": bool(changes)}


def package_versions() -> dict[str, str | None]:
    """Version of Python, of this project and of the packages that results depend on; None for what is missing."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("rise-robotics", *_PACKAGES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def hardware() -> dict[str, Any]:
    """What this process runs on; `cpu_count` is the cores that it may use, `gpus` has `name` and `memory_gib` each."""
    return {
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    if shutil.which("nvidia-smi") is None:
        return []
    listing = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits") or ""
    return [
        {"name": name.strip(), "memory_gib": round(int(memory) / 1024, 1) if memory.strip().isdigit() else None}
        for name, _, memory in (line.rpartition(",") for line in listing.splitlines())
    ]


def _output(*command: str) -> str | None:
    """What a command prints, or None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
