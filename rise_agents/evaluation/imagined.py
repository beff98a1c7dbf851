"""What a policy reaches in imagination: the number that algorithms raise, measured the same way for all of them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rise_env.acting import Actor
from rise_env.data import Dataset, split_episodes
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.world_model import CompositionalWorldModel

__all__ = ["ImaginedReturns"]

_TOGETHER = 32


class ImaginedReturns:
    """Imagines what a policy does at states of held-out episodes, the same ones under the same noise every time.

    Args:
        env_id: Id of an imagination environment.
        dataset: Recorded episodes; those that nothing is trained on are used.
        world_model: Imagines and scores.
        states: Recorded states.
        chunks: Chunks in a row from each of them.
        lags: `observation_lags` of the policies.
        seed: Seed of states and noise.
    """

    def __init__(
        self,
        env_id: str,
        dataset: Dataset,
        world_model: CompositionalWorldModel,
        states: int,
        chunks: int,
        lags: Any,
        seed: int = 0,
    ) -> None:
        held_out = {"heldout": split_episodes(dataset)["heldout"]}
        starts = starts_from_dataset(dataset, world_model.spec, states, seed, splits=held_out)
        self._count, self._chunks, self._seed = len(starts), chunks, seed
        self._env: Any = gymnasium.make_vec(
            env_id, num_envs=min(_TOGETHER, len(starts)), world_model=world_model, starts=starts, split="heldout",
            max_chunks=chunks, observation_lags=sorted(lags), autoreset_mode="disabled",
        ).unwrapped  # fmt: skip

    def __call__(self, actor: Actor) -> np.ndarray:
        """Return of every state, float64 (states,): the sum of the advantages of the chunks from there."""
        env, found = self._env, np.zeros(self._count)
        for first in range(0, self._count, env.num_envs):
            rows = np.minimum(np.arange(first, first + env.num_envs), self._count - 1)
            seeds = (self._seed + rows).tolist()
            observations, _ = env.reset(seed=seeds, options={"start_index": rows.tolist()})
            actor.reset(seeds, np.ones(len(rows), bool))
            over, total = np.zeros(len(rows), bool), np.zeros(len(rows))
            for _ in range(self._chunks):
                chunks = actor.act(observations)
                if over.any():  # the ended ones must not be stepped on: begin anew there, and count it no more
                    env.reset(options={"reset_mask": over})
                observations, rewards, terminated, truncated, _ = env.step(chunks)
                total += np.where(over, 0.0, rewards)
                over |= terminated | truncated
                if over.all():
                    break
            found[rows] = total  # the last rows repeat one state, which gives the same every time
        return found
