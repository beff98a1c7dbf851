"""Ground truth for imagination: the same chunks from the same saved states, run in the work cell.

From the snapshot of every state (`truth_states.py`) several chunks are run: the expert's, those of imperfect operators,
the expert's with smooth perturbations, and random ones (a smooth walk of the joints).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from benchmarks.truth_states import FreshStates
from rise_env.errors import ConfigError
from rise_env.files import atomic_path
from rise_robot.cell.cell import WorkCell

__all__ = ["KINDS", "TruthSet", "collect_truth"]

#: Kinds of chunks run from every state, in order.
KINDS = ("expert", "operator", "operator", "operator", "perturbed", "perturbed", "random", "random")


@dataclass(frozen=True)
class TruthSet:
    """States S, chunks C per state, history T, imagined frames K, views V, joints D.

    Attributes:
        history_frames: uint8 (S, T, V, H, W, 3), oldest first.
        history_states: float32 (S, T, D), rad and m.
        actions: float32 (S, C, chunk, D).
        kinds: str (C,).
        frames: uint8 (S, C, K, V, H, W, 3), what the cameras truly saw.
        states: float32 (S, C, K, D), measured joints.
        start_progress: float32 (S,), ground-truth progress of the state.
        progress: float32 (S, C, K), ground-truth progress.
        seeds: int64 (S,), seed of each state's episode.
    """

    history_frames: np.ndarray
    history_states: np.ndarray
    actions: np.ndarray
    kinds: np.ndarray
    frames: np.ndarray
    states: np.ndarray
    start_progress: np.ndarray
    progress: np.ndarray
    seeds: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write to an uncompressed `.npz` in one step."""
        with atomic_path(path) as aside:
            np.savez(aside, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> TruthSet:
        """Read what `save` wrote.

        Raises:
            ConfigError: If entries are missing.
        """
        with np.load(path, allow_pickle=False) as file:
            missing = [field.name for field in fields(cls) if field.name not in file]
            if missing:
                raise ConfigError(f"{path} is no truth set: it lacks {', '.join(missing)}")
            return cls(**{field.name: file[field.name] for field in fields(cls)})


def collect_truth(fresh: FreshStates, on_state: Callable[[], object] = lambda: None) -> TruthSet:
    """Run all chunks of all states; `on_state` is called after each."""
    spec, rows = fresh.spec, []
    looks = range(spec.stride, spec.chunk + 1, spec.stride)
    for state in fresh.states:
        fresh.cell.restore(state.snapshot)
        chunks = _chunks(fresh.cell, state.rng)
        ran = [fresh.run(state.snapshot, chunk, looks) for chunk in chunks]
        outcomes = (
            np.stack(column) for column in zip(*((one.frames, one.joints, one.progress) for one in ran), strict=True)
        )
        rows.append((state.frames, state.joints, np.stack(chunks).astype(np.float32), *outcomes))
        on_state()
    history_frames, history_states, actions, frames, joints, progress = (
        np.stack(column) for column in zip(*rows, strict=True)
    )
    return TruthSet(
        history_frames, history_states, actions, np.array(KINDS), frames, joints,
        fresh.progress.astype(np.float32), progress, np.array(fresh.seeds),
    )  # fmt: skip


def _chunks(cell: WorkCell, rng: np.random.Generator) -> list[np.ndarray]:
    spec = cell.spec
    expert = cell.task.scripted("expert", 0).plan(spec.chunk)
    chunks = []
    for kind in KINDS:
        if kind == "expert":
            chunk = expert
        elif kind == "operator":
            operator = cell.task.scripted("operator", int(rng.integers(2**31)))
            operator.reset()
            chunk = operator.plan(spec.chunk)
        elif kind == "perturbed":
            chunk = expert + _walk(cell, rng, 0.12)
        else:
            chunk = cell.command + _walk(cell, rng, 0.35)
        chunks.append(np.clip(chunk, spec.layout.low, spec.layout.high))
    return chunks


def _walk(cell: WorkCell, rng: np.random.Generator, size: float) -> np.ndarray:
    """A smooth walk of all dimensions that starts at zero: `size` rad (and 0.2 m per rad for lengths) at the end."""
    spec = cell.spec
    unit = np.where([u == "rad" for u in spec.layout.units], 1.0, 0.2)
    steps = rng.normal(0, 1, (spec.chunk, spec.layout.dim))
    drift = rng.normal(0, 1, spec.layout.dim)
    walk = np.cumsum(0.5 * steps / np.sqrt(spec.chunk) + drift / spec.chunk, axis=0)
    return walk * size * unit
