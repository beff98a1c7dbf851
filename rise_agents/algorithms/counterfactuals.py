"""Counterfactual chunks of `worldsample`: what would have come of other motions, as a world model imagines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.algorithms.best_of_n import observed_history
from rise_agents.algorithms.off_policy import Transitions
from rise_env.errors import TrainingError
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec
from rise_env.world_model import CompositionalWorldModel, Imagined

__all__ = ["imagined_transitions"]

_AT_ONCE = 64  # chunks


@torch.no_grad()
def imagined_transitions(
    world_model: CompositionalWorldModel,
    real: Transitions,
    chunks: torch.Tensor,
    features: Callable[[Mapping[str, Any], torch.Tensor], torch.Tensor],
    *,
    lags: tuple[int, ...],
    discount: float,
    threshold: float,
    rng: np.random.Generator,
) -> Transitions:
    """Chunks from states in which others were run, imagined to their ends, as transitions.

    A chunk that is executed in parts in the cell is a transition of several decisions here: its reward, 1 at the first
    frame that counts as a success, is discounted by the decisions before it. "positive" are those whose value rises.

    Args:
        world_model: Imagines and scores.
        real: Transitions with the observed history of the world model, n of them.
        chunks: One for each, (n, chunk, D), rad and m.
        features: What the critic sees of observations and their values.
        lags: Of the observations at their ends.
        discount: Per control step.
        threshold: Value that counts as a success.
        rng: Source of the seeds of their noise.

    Raises:
        TrainingError: If a value is not finite.
    """
    spec, parts = world_model.spec, []
    steps = spec.stride * torch.arange(1, spec.frames_per_chunk + 1)
    before = torch.div(steps - 1, spec.execute, rounding_mode="floor") * spec.execute
    for first in range(0, len(chunks), _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        seen = {key: value[rows] for key, value in real.items()}
        session = world_model.open(observed_history(world_model, seen))
        some = chunks[rows].to(world_model.device)
        seeds = [torch.Generator().manual_seed(int(one)) for one in rng.integers(2**62, size=len(some))]
        imagined = world_model.imagine(session, some, seeds)
        values = imagined.values.float().cpu()
        if not bool(torch.isfinite(values).all()):
            raise TrainingError("the world model gave a value that is not finite; nothing was trained on it")
        reached = values >= threshold
        success, at = reached.any(dim=1), reached.float().argmax(dim=1)
        end = features(_end(imagined, seen, chunks[rows], spec, lags), values[:, -1])
        parts.append({**seen, "chunk": chunks[rows], "next_features": end,
                      "reward": torch.where(success, discount ** before[at].float(), 0.0),
                      "discount": torch.where(success, 0.0, discount**spec.chunk),
                      "positive": values[:, -1] > session.value.float().cpu()})  # fmt: skip
        world_model.close(session)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _end(
    imagined: Imagined, seen: Mapping[str, torch.Tensor], chunks: torch.Tensor, spec: TaskSpec, lags: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """What the policy would see at the end of a chunk: the last frame, and earlier ones at its lags."""
    found, last = dict[str, torch.Tensor](), spec.frames_per_chunk - 1
    for lag in (0, *lags):
        frame = last - lag // spec.stride
        if frame < 0:  # before the chunk: what was really seen
            past = (-1 - frame) * spec.stride
            found |= {lag_key(key, lag): seen[lag_key(key, past)]
                      for key in ("state", *map(image_key, spec.cameras))}  # fmt: skip
            continue
        pixels = imagined.frames([frame])[:, 0].cpu()
        states = chunks[:, (frame + 1) * spec.stride - 1] if imagined.states is None else imagined.states[:, frame]
        found[lag_key("state", lag)] = states.cpu()
        found |= {lag_key(image_key(camera), lag): pixels[:, view] for view, camera in enumerate(spec.cameras)}
    return found
