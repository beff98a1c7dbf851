"""The state of a training on disk, and the run that it belongs to."""

from __future__ import annotations

import difflib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rise_env.errors import CheckpointError
from rise_env.files import exclusive, to_json, to_plain, write_json
from rise_env.provenance import provenance

__all__ = ["ANEW", "check_identity", "read_state", "start_run"]

ANEW = "Delete it to start this phase anew."


def read_state(path: Path, mmap: bool = False) -> dict[str, Any]:
    """What a file holds, without unpickling; its tensors are read when they are used, with `mmap`.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(state["identity"], str):
            raise TypeError("it does not say what run it is of")
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is cut short or damaged: {error}. {ANEW}") from error
    return state


def check_identity(path: Path, saved: str, wanted: str) -> None:
    """Compare what a state belongs to with what it is wanted for, as JSON.

    Raises:
        CheckpointError: If they differ; the message shows where.
    """
    if saved != wanted:
        raise CheckpointError(
            f"{path} belongs to a run with other data or settings:\n{_difference(saved, wanted)}\n"
            "Run with the settings of that run to resume it, or give another folder (--out)."
        )


def _difference(saved: str, current: str) -> str:
    lines = difflib.unified_diff(saved.splitlines(), current.splitlines(), "saved", "now", n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def start_run(
    folder: Path, content: Any, seed: int, identities: Mapping[str, Mapping[str, Any]], tensorboard: bool = True
) -> Any:
    """Write what a run is to `<folder>/config.json`, with its provenance.

    Args:
        folder: Run folder.
        content: What the run is.
        seed: Its seed.
        identities: Of its loops, by phase: as far as known what must be the same where a run is resumed.
        tensorboard: Whether TensorBoard files are wanted.

    Returns:
        A writer of TensorBoard files to `<folder>/tensorboard`, or None if they are not wanted.

    Raises:
        CheckpointError: If the folder holds another run, which is then as it was, or a damaged one.
        ConfigError: If another process trains in the same folder.
    """
    described = to_plain(content)
    with exclusive(folder):
        for phase, identity in identities.items():
            if (path := folder / f"{phase}_state.pt").exists():
                saved = json.loads(read_state(path, mmap=True)["identity"])
                known = {name: value for name, value in saved.items() if name in identity}
                check_identity(path, to_json(known), to_json({**dict.fromkeys(known), **identity}))
        write_json(folder / "config.json", {**described, **provenance(described, seed)})
    if not tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
