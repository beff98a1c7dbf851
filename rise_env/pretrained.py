"""Checkpoints as directories: `config.json` and, where there are weights, `model.safetensors`. Nothing is unpickled."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_env.errors import CheckpointError
from rise_env.files import atomic_directory, write_json

if TYPE_CHECKING:
    import torch

__all__ = ["CONFIG", "WEIGHTS", "load_class", "local_directory", "read_config", "read_weights", "save_checkpoint"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

type Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]


def save_checkpoint(
    path: str | Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], version: int = 1
) -> None:
    """Write a checkpoint directory in one step.

    Args:
        path: Directory to make or replace.
        kind: What it is, e.g. "rise-value"; loading asks for the same word.
        config: JSON values.
        tensors: Weights by name; may be empty.
        version: Format version.

    Raises:
        FileExistsError: If the directory holds something else.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_directory(path, CONFIG) as aside:
        save_file(plain, aside / WEIGHTS)
        write_json(aside / CONFIG, {"kind": kind, "format_version": version, **config})


def read_config(path: str | Path, kind: str, version: int = 1, upgrades: Upgrades | None = None) -> dict[str, Any]:
    """Configuration of a checkpoint, brought up to the present version.

    Args:
        path: Checkpoint directory.
        kind: What it should be.
        version: Format version that the caller understands.
        upgrades: For each older version, a function from its configuration to the next version's.

    Raises:
        CheckpointError: If it is missing, damaged, of another kind or of a version that nobody can read.
    """
    file = Path(path) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint of kind {kind!r}: there is no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged, it cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{file} is of kind {found!r}, expected {kind!r}")
    current = config.get("format_version")
    while isinstance(current, int) and current < version and current in (upgrades or {}):
        assert upgrades is not None
        config, current = {**upgrades[current](config), "format_version": current + 1}, current + 1
    if current != version:
        cure = "Update rise-robotics." if isinstance(current, int) and current > version else "Make it again."
        raise CheckpointError(f"{file} has format version {current!r}, this program reads {version}. {cure}")
    return config


def read_weights(path: str | Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint, which must fit name by name and shape by shape.

    Args:
        path: Checkpoint directory.
        expected: The model's state dict.

    Raises:
        CheckpointError: If the file is missing, cut short or damaged, or does not fit; all misfits are listed.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path) / WEIGHTS
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {error}. Copy it again.") from error
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        if tensors[name].shape != expected[name].shape:
            problems.append(f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}")
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} is not finite")
    if problems:
        raise CheckpointError(f"{file} does not fit its configuration: {'; '.join(sorted(problems))}")
    return tensors


def load_class(name: str, trusted: Sequence[str] = ("rise_env",)) -> Any:
    """Class named "module:Class" by a checkpoint, from packages that are trusted to run code.

    Args:
        name: What the checkpoint says.
        trusted: Packages that may be imported.

    Raises:
        CheckpointError: If the name is malformed, of another package, or not there.
    """
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        raise CheckpointError(f"{name!r} is not of the form 'module:Class'")
    module, _, attribute = name.partition(":")
    if not any(module == package or module.startswith(f"{package}.") for package in trusted):
        raise CheckpointError(
            f"the checkpoint wants to import {name!r}, which is not in {', '.join(trusted)}. "
            "If you trust that package, name it: trusted=['rise_env', 'the_package']."
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint needs {name!r}, which cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise CheckpointError(f"{name!r} is not a class")
    return found


def local_directory(path: str | Path, what: str, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """A directory on this machine: `path` itself, or a download of the Hugging Face Hub repository of that name.

    Args:
        path: Directory or Hub id ("owner/name").
        what: What is looked for, for the message.
        patterns: Files to download.

    Raises:
        CheckpointError: If there is neither.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) or folder.is_absolute():
        raise CheckpointError(f"no {what} at {path}: there is no such directory, and it is no Hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(path), allow_patterns=list(patterns)))
    except (OSError, ValueError, HFValidationError) as error:
        raise CheckpointError(
            f"no {what} at {path}: there is no such directory, and the Hub gave no such repository ({error})"
        ) from error
