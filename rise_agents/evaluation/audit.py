"""How far imagination agrees with the truth about a policy's own chunks.

The figures of `truth.py` are about chunks that differ a lot (an expert's, random ones). What improves a policy is the
order of *its own* proposals from one state, which differ little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rise_agents.algorithms.best_of_n import BestOfN
from rise_env.metrics import rank_correlation, within_group_correlation

__all__ = ["audit"]

_LEAST_SPREAD = 0.02


@torch.no_grad()
def audit(chooser: BestOfN, envs: Any, rounds: int, group: int, seed: int = 0) -> dict[str, Any]:
    """Run a policy's proposals in the cell and in imagination.

    Args:
        chooser: Policy and world model; `chooser.count` is not used.
        envs: The cell, with `observation_lags=chooser.lags`.
        rounds: Batches of `envs.num_envs` chunks.
        group: Proposals per state.
        seed: Seed of states and noise.

    Returns:
        Rank correlation of imagined advantage and true progress, overall and within a state; how much true advantage is
        gained by taking the proposal that is imagined best, and by taking the truly best one, over a random one.
    """
    imagined, true = [], []
    policy = chooser.policy
    for number in range(rounds):
        seeds = [seed + number * envs.num_envs + i for i in range(envs.num_envs)]
        observations, _ = envs.reset(seed=seeds, options={"group_size": group})
        generators = [torch.Generator().manual_seed(one) for one in seeds]
        context = policy.context({key: torch.from_numpy(value) for key, value in observations.items()},
                                 [policy.spec.prompt] * envs.num_envs)  # fmt: skip
        levels = torch.full((envs.num_envs,), chooser.level)
        chunks = policy.sample(context, levels, policy.draw_noise(generators), guidance=chooser.guidance)
        chunks = policy.within_limits(chunks)
        imagined.append(chooser.score(observations, chunks, torch.arange(envs.num_envs)).numpy())
        true.append(envs.step(chunks.numpy())[1])
    guess, truth = np.concatenate(imagined).reshape(-1, group), np.concatenate(true).reshape(-1, group)
    owner = np.repeat(np.arange(len(truth)), group)
    within, ordered = within_group_correlation(guess.ravel(), truth.ravel(), owner, _LEAST_SPREAD)
    chosen = truth[np.arange(len(truth)), guess.argmax(axis=1)]
    return {
        "states": len(truth),
        "group": group,
        "overall": rank_correlation(guess.ravel(), truth.ravel()),
        "within_state": within,
        "states_with_an_order": ordered,
        "advantage_mean": float(truth.mean()),
        "gain_of_imagined_best": float((chosen - truth.mean(axis=1)).mean()),
        "gain_of_true_best": float((truth.max(axis=1) - truth.mean(axis=1)).mean()),
        "bias": float((guess - truth).mean()),
    }
