"""Ground truth for imagination: the same chunks from the same saved states, run in the work cell.

Each state is reached by a scripted policy in an episode of its own seed and stopped at a random step. From its snapshot
several chunks are run: the expert's, those of imperfect operators, the expert's with smooth perturbations, and random
ones (a smooth walk of the joints).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from rise_env.errors import ConfigError
from rise_env.files import atomic_path
from rise_env.tasks import TaskSpec
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import CellConfig
from rise_robot.cell.render import CellRenderer

__all__ = ["KINDS", "TruthSet", "collect_truth"]

#: Kinds of chunks run from every state, in order.
KINDS = ("expert", "operator", "operator", "operator", "perturbed", "perturbed", "random", "random")
#: Policies that lead to the states, taken in turn.
_BEHAVIOUR_POLICIES = ("operator", "corrected", "operator", "expert", "operator-distracted")
_LATEST_START = 36


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


def collect_truth(
    spec: TaskSpec, config: CellConfig, states: int, seed: int, on_state: Callable[[], object] = lambda: None
) -> TruthSet:
    """Run all chunks of `states` states; choose a first seed that no model was trained on."""
    cell = WorkCell(spec, config)
    renderer = CellRenderer(cell.model, cell.data, config.supersample)
    rows = []
    for index in range(states):
        rows.append(_one_state(cell, renderer, seed + index, _BEHAVIOUR_POLICIES[index % len(_BEHAVIOUR_POLICIES)]))
        on_state()
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    history_frames, history_states, actions, frames, joints, start, progress = columns
    return TruthSet(
        history_frames, history_states, actions, np.array(KINDS), frames, joints,
        start.astype(np.float32), progress.astype(np.float32), np.arange(seed, seed + states),
    )  # fmt: skip


def _one_state(cell: WorkCell, renderer: CellRenderer, seed: int, behaviour_policy: str) -> tuple[np.ndarray, ...]:
    spec = cell.spec
    rng = np.random.default_rng([seed, 1])
    policy = cell.task.scripted(behaviour_policy, seed)
    start = int(rng.integers(_LATEST_START))
    while True:  # an episode that ends before the drawn step: stop earlier
        cell.reset(episode_rng(seed))
        policy.reset()
        pictures, joints = [_look(cell, renderer)], [cell.state()]
        while cell.steps < start and not cell.status.finished:
            cell.step(policy.plan(1)[0])
            pictures.append(_look(cell, renderer))
            joints.append(cell.state())
        if not cell.status.finished:
            break
        start = int(rng.integers(cell.steps))
    back = [max(0, start - spec.stride * lag) for lag in range(spec.history - 1, -1, -1)]
    snapshot, before = cell.save(), cell.status.progress
    chunks = _chunks(cell, rng)
    frames, states, progress = [], [], []
    for chunk in chunks:
        cell.restore(snapshot)
        seen = []
        for step, target in enumerate(chunk, start=1):
            cell.step(target)
            if step % spec.stride == 0:
                seen.append((_look(cell, renderer), cell.state(), cell.status.progress))
        for found, column in zip((frames, states, progress), zip(*seen, strict=True), strict=True):
            found.append(np.stack(column))
    history = np.stack([pictures[i] for i in back]), np.stack([joints[i] for i in back])
    outcomes = np.stack(frames), np.stack(states), np.array(before), np.stack(progress)
    return (*history, np.stack(chunks).astype(np.float32), *outcomes)


def _look(cell: WorkCell, renderer: CellRenderer) -> np.ndarray:
    return renderer.render(list(cell.spec.cameras), cell.spec.image_size)


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
