"""Candidate evaluation: advantages of several action chunks from the same state."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_env.envs.advantage import chunk_advantage
from rise_env.envs.arguments import checked_actions
from rise_env.envs.batch import ImaginationBatch
from rise_env.envs.observations import require_finite
from rise_env.errors import ActionError

__all__ = ["CandidateScores", "evaluate_candidates"]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, "candidates", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True)
class CandidateScores:
    """Predicted results of several chunks from the same state; N environments, G chunks each.

    Attributes:
        advantage: float32 (N, G), raw.
        uncertainty: float32 (N, G).
    """

    advantage: np.ndarray
    uncertainty: np.ndarray


def evaluate_candidates(batch: ImaginationBatch, actions: Any, mode: str) -> CandidateScores:
    """Imagine several chunks from every environment's present state and continue from none of them.

    Args:
        batch: Imaginations that have been started; not changed.
        actions: (N, G, chunk, D), an array or a tensor.
        mode: One of `rise_env.envs.advantage.ADVANTAGE_MODES`.

    Raises:
        ActionError: If the actions have the wrong shape or are not finite.
        RiseError: If the world model gives values that are not finite.
    """
    task, session, rows = batch.world_model.spec, batch.session, np.arange(batch.num_envs)
    if len(actions) != batch.num_envs or len(actions.shape) != 4 or not actions.shape[1]:
        expected = (batch.num_envs, "G", task.chunk, task.layout.dim)
        raise ActionError(f"candidate chunks have shape {tuple(actions.shape)}, expected {expected}")
    everyone = np.ones(batch.num_envs, bool)

    def scored(candidate: int) -> torch.Tensor:
        chunks, _ = checked_actions(actions[:, candidate], everyone, task.chunk, task.layout, batch.device)
        copies = [torch.Generator().set_state(generator.get_state()) for generator in batch.noise]
        imagined = batch.world_model.imagine(session, chunks, copies)
        advantage = chunk_advantage(imagined.values, session.value, mode)
        return torch.stack([advantage, imagined.uncertainty]).float()

    # Where torch has one thread, candidates are imagined side by side; each gives the same as it does alone.
    side_by_side = torch.get_num_threads() == 1 and batch.device.type == "cpu" and batch.world_model.thread_safe
    found = (_threads().map if side_by_side else map)(scored, range(actions.shape[1]))
    table = torch.stack(list(found), dim=-1).cpu().numpy()  # 2, N, G
    require_finite(table.sum((0, 2)), rows)
    return CandidateScores(table[0], table[1])
