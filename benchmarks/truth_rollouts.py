"""Policies that act from the same states in the work cell and in imagination, chunk after chunk.

Whole chunks are run on both sides, as imagination does; `rise evaluate` runs the first half of each and asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.truth_states import FreshStates
from rise_env.acting import Actor
from rise_env.envs.advantage import chunk_advantage
from rise_env.envs.batch import observation_of
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Course", "Proposals", "act_in_cell", "imagine_course", "propose", "repeat_in_cell", "script_in_cell"]

#: Imaginations at once.
_TOGETHER = 32


class Course(NamedTuple):
    """What came of every state. States S, chunks n, frames of a chunk K, views V, joints D.

    Attributes:
        actions: float32 (S, n, chunk, D), rad and m.
        level: float64 (S, n + 1): true progress, or imagined value, at the start and after every chunk; where
            imagination takes the task for done it stays, as an environment ends there.
        success: bool (S,).
        ends: uint8 (S, n, V, H, W, 3), pictures after every chunk; None where nobody looked.
    """

    actions: np.ndarray
    level: np.ndarray
    success: np.ndarray
    ends: np.ndarray | None


class Proposals(NamedTuple):
    """Several chunks of one policy from every state, G each.

    Attributes:
        actions: float32 (S, G, chunk, D).
        imagined: float64 (S, G), imagined advantage.
        true: float64 (S, G), true one: mean progress over the chunk less that before it.
    """

    actions: np.ndarray
    imagined: np.ndarray
    true: np.ndarray


def act_in_cell(
    fresh: FreshStates, actor: Actor, chunks: int, on_chunk: Callable[[int], object] = lambda count: None
) -> Course:
    """An actor looks and acts in the cell."""
    spec, lags = fresh.spec, (0, *actor.lags)
    frames, joints = _first(fresh.history(torch.device("cpu")), lags, spec.stride)
    snapshots = [state.snapshot for state in fresh.states]
    actor.reset(fresh.seeds, np.ones(len(fresh), bool))
    actions: list[np.ndarray] = []
    level: list[np.ndarray] = [fresh.progress]
    success: np.ndarray = np.zeros(len(fresh), bool)
    for _ in range(chunks):
        actions.append(actor.act(observation_of(frames, joints, list(spec.cameras), lags, tensors=False)))
        ran = [
            fresh.run(snapshot, chunk, [spec.chunk - lag for lag in lags])
            for snapshot, chunk in zip(snapshots, actions[-1], strict=True)
        ]
        snapshots = [one.snapshot for one in ran]
        # Looks come in the order of time, observations with the present first.
        frames = torch.from_numpy(np.stack([one.frames[::-1] for one in ran]))
        joints = torch.from_numpy(np.stack([one.joints[::-1] for one in ran]))
        level.append(np.array([one.progress[-1] for one in ran], np.float64))
        success = np.array([one.success for one in ran])
        on_chunk(len(ran))
    return Course(np.stack(actions, axis=1), np.stack(level, axis=1), success, None)


def script_in_cell(
    fresh: FreshStates, name: str, chunks: int, on_chunk: Callable[[int], object] = lambda count: None
) -> Course:
    """A scripted policy, which sees the ground truth, acts in the cell."""
    courses = []
    for state in fresh.states:
        policy = fresh.cell.task.scripted(name, state.seed)
        policy.reset()
        fresh.cell.restore(state.snapshot)
        snapshot, actions, level = state.snapshot, [], [state.progress]
        for _ in range(chunks):
            actions.append(np.asarray(policy.plan(fresh.spec.chunk), np.float32))
            ran = fresh.run(snapshot, actions[-1], ())
            snapshot = ran.snapshot
            level.append(float(ran.progress[-1]))
            on_chunk(1)
        courses.append((np.stack(actions), np.array(level), ran.success))
    columns = [np.stack(column) for column in zip(*courses, strict=True)]
    return Course(columns[0], columns[1], columns[2], None)


def repeat_in_cell(fresh: FreshStates, actions: np.ndarray, rows: Sequence[int], every_frame: bool) -> Course:
    """Run given actions (n of `rows`, n, chunk, D) in the cell, and look after each chunk, or at every frame.

    With `every_frame`, `ends` has all frames of the chunks, (S, n K, V, H, W, 3).
    """
    spec = fresh.spec
    looks = range(spec.stride, spec.chunk + 1, spec.stride) if every_frame else (spec.chunk,)
    levels, ends, success = [], [], []
    for row, chunks in zip(rows, actions, strict=True):
        state = fresh.states[row]
        snapshot, level, seen = state.snapshot, [state.progress], []
        for chunk in chunks:
            ran = fresh.run(snapshot, chunk, looks)
            snapshot = ran.snapshot
            level.append(float(ran.progress[-1]))
            seen.append(ran.frames)
        levels.append(np.array(level))
        ends.append(np.concatenate(seen))
        success.append(ran.success)
    return Course(actions, np.stack(levels), np.array(success), np.stack(ends))


@torch.no_grad()
def imagine_course(
    model: CompositionalWorldModel,
    history: Callable[[Sequence[int]], History],
    acting: Actor | np.ndarray,
    seeds: Sequence[int],
    chunks: int,
    threshold: float,
    *,
    looks: bool = False,
    on_chunk: Callable[[int], object] = lambda count: None,
) -> Course:
    """An actor acts in imagination, or given actions are imagined.

    Args:
        model: Imagines.
        history: Gives the history of some rows.
        acting: Actor, or actions (S, n, chunk, D).
        seeds: One per state, of the actor's noise and of imagination's.
        chunks: Number of chunks n.
        threshold: Value that counts as success.
        looks: Keep the pictures after every chunk; they are made for an actor in any case.
        on_chunk: Called with the number of chunks imagined since the last call.
    """
    spec, parts = model.spec, []
    lags = (0, *acting.lags) if isinstance(acting, Actor) else (0,)
    places = [-1 - lag // spec.stride for lag in lags]
    for first in range(0, len(seeds), _TOGETHER):
        rows = range(first, min(first + _TOGETHER, len(seeds)))
        start = history(rows)
        session = model.open(start)
        frames, joints = _first(start, lags, spec.stride)
        chosen = [seeds[row] for row in rows]
        generators = [torch.Generator().manual_seed(seed) for seed in chosen]
        if isinstance(acting, Actor):
            acting.reset(chosen, np.ones(len(rows), bool))
        actions, level, ends = [], [session.value.double().cpu().numpy()], []
        over = np.zeros(len(rows), bool)
        for number in range(chunks):
            if isinstance(acting, Actor):
                actions.append(acting.act(observation_of(frames, joints, list(spec.cameras), lags, tensors=False)))
            else:
                actions.append(acting[list(rows), number])
            chunk = torch.from_numpy(actions[-1]).to(model.device)
            imagined = model.imagine(session, chunk, generators)
            if looks or isinstance(acting, Actor):
                frames = imagined.frames(places)
                ends.append(frames[:, 0].cpu().numpy())
            states = imagined.states
            joints = chunk[:, [-1 - lag for lag in lags]] if states is None else states[:, places]
            level.append(np.where(over, level[-1], imagined.values[:, -1].double().cpu().numpy()))
            over |= level[-1] >= threshold
            model.close(session)
            session = imagined.session
            on_chunk(len(rows))
        model.close(session)
        parts.append(Course(np.stack(actions, 1), np.stack(level, 1), over, np.stack(ends, 1) if ends else None))
    seen = [part.ends for part in parts if part.ends is not None]
    return Course(
        np.concatenate([part.actions for part in parts]), np.concatenate([part.level for part in parts]),
        np.concatenate([part.success for part in parts]), np.concatenate(seen) if seen else None,
    )  # fmt: skip


@torch.no_grad()
def propose(
    model: CompositionalWorldModel,
    fresh: FreshStates,
    actor: Actor,
    count: int,
    on_chunk: Callable[[int], object] = lambda count: None,
) -> Proposals:
    """Let an actor propose several chunks from every state, and see what becomes of each in both worlds.

    Args:
        model: Imagines.
        fresh: States, and the cell.
        actor: Proposes; it must draw noise, so that its proposals from one state differ.
        count: Proposals per state G.
        on_chunk: Called with the number of chunks since the last call.
    """
    spec, lags = fresh.spec, (0, *actor.lags)
    actions, imagined, true = [], [], []
    each = max(1, _TOGETHER // count)
    for first in range(0, len(fresh), each):
        states = range(first, min(first + each, len(fresh)))
        rows = [row for row in states for _ in range(count)]
        start = fresh.history(model.device, rows)
        frames, joints = _first(start, lags, spec.stride)
        actor.reset(
            [fresh.states[row].seed * count + i % count for i, row in enumerate(rows)], np.ones(len(rows), bool)
        )
        chunks = actor.act(observation_of(frames, joints, list(spec.cameras), lags, tensors=False))
        session = model.open(start)
        # Under the same noise: proposals are to differ by what they do.
        generators = [torch.Generator().manual_seed(fresh.states[row].seed) for row in rows]
        found = model.imagine(session, torch.from_numpy(chunks).to(model.device), generators)
        imagined.append(chunk_advantage(found.values, session.value).double().cpu().numpy().reshape(-1, count))
        model.close(found.session)
        for row, chunk in zip(rows, chunks, strict=True):
            state = fresh.states[row]
            true.append(float(fresh.run(state.snapshot, chunk, ()).progress.mean()) - state.progress)
        actions.append(chunks.reshape(len(states), count, *chunks.shape[1:]))
        on_chunk(len(rows))
    return Proposals(np.concatenate(actions), np.concatenate(imagined), np.array(true).reshape(-1, count))


def _first(history: History, lags: Sequence[int], stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and joints at the start, by lags."""
    places = [-1 - lag // stride for lag in lags]
    return history.frames[:, places], history.states[:, places]
