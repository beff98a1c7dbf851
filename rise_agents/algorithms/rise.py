"""RISE as published: self-improvement of an advantage-conditioned policy in imagination (arXiv 2602.11075, section 3).

Each round starts from recorded states. The rollout policy, an average of the actor's past weights, is asked for its
best chunk; the world model imagines it and the chunk's advantage is measured; from the imagined end a second chunk is
imagined. The actor is then trained by flow matching on the chunks that were *proposed*, under the advantages that were
*measured*, mixed sample by sample with recorded chunks under their labelled advantages.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig
from rise_agents.policies.base import Context, observation_tensors
from rise_env.errors import TrainingError, requirement

__all__ = ["RISE", "RISEConfig", "Rollouts"]


@dataclass(frozen=True)
class RISEConfig(FlowMatchingConfig):
    """Settings of RISE; the defaults are the paper's where two CPU cores allow it.

    Attributes:
        horizon: Chunks imagined in a row from a recorded state (paper: 2).
    """

    horizon: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        requirement("settings of rise").at_least(1, self, "horizon")


@dataclass(frozen=True)
class Rollouts:
    """What one round imagined: n chunks.

    Attributes:
        observations: What the policy saw, tensors with a leading axis n.
        chunks: float32 (n, chunk, D), rad and m.
        advantages: Raw, float32 (n,).
        bins: int64 (n,), what the actor is trained under.
        position: 0 for chunks from recorded states, 1 for those that follow them, ...; int64 (n,).
        valid: bool (n,), False for environments whose episode had ended before: they are not learned from.
        context: The observations as the frozen encoders see them; None where the encoders are trained.
    """

    observations: dict[str, torch.Tensor]
    chunks: torch.Tensor
    advantages: torch.Tensor
    bins: torch.Tensor
    position: torch.Tensor
    valid: torch.Tensor
    context: Context | None = None

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the valid ones."""
        return np.flatnonzero(self.valid.numpy())

    @classmethod
    def joined(cls, parts: list[Rollouts]) -> Rollouts:
        """Several as one."""
        return cls(**{field.name: _joined([getattr(part, field.name) for part in parts]) for field in fields(cls)})


def _joined(parts: list[Any]) -> Any:
    """Tensors, dictionaries or contexts of them as one; None stays None."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: torch.cat([part[key] for part in parts]) for key in first}
    if isinstance(first, Context):
        return type(first)(**_joined([vars(part) for part in parts]))
    return None if first is None else torch.cat(parts)


class RISE(FlowMatchingAlgorithm[RISEConfig, Rollouts]):
    """Self-improvement in imagination, as published; arguments as of `FlowMatchingAlgorithm`."""

    name: ClassVar[str] = "rise"
    Config = RISEConfig

    def check_fit(self) -> None:
        """Compare policy and environment, and the lengths of their episodes."""
        super().check_fit()
        wanted, most = self.config.horizon, self.env.max_chunks
        message = f"the environment ends after {most} chunks: make it with max_chunks={wanted}"
        requirement(self.name)(most >= wanted, message)

    def step(self) -> None:
        """Imagine what the rollout policy proposes at recorded states, and train the actor on it."""
        used = self.progress
        found = self.imagine()
        self.keep(found)
        imagined = Rollouts.joined(self._buffer)
        self.train_on(imagined.rows, len(found.rows), functools.partial(self._loss, imagined), used)
        first, later = (found.position == 0) & found.valid, (found.position > 0) & found.valid
        self.metrics |= {
            "rollout/advantage": float(found.advantages[first].mean()),
            "rollout/best_bin_share": float((found.bins[first] == self.policy.codec.best_bin).float().mean()),
            "rollout/advantages": found.advantages[found.valid],
        }
        if bool(later.any()):
            self.metrics["rollout/advantage_next"] = float(found.advantages[later].mean())

    @torch.no_grad()
    def imagine(self) -> Rollouts:
        """Let the rollout policy propose chunks at recorded states, imagine them and measure their advantages."""
        config, env, policy = self.config, self.env, self.policy
        rng = np.random.default_rng([config.seed, self.rounds])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        observations, _ = env.reset(seed=[int(seed) for seed in rng.integers(2**31, size=env.num_envs)], options={})
        over, parts = np.zeros(env.num_envs, bool), []
        for position in range(config.horizon):
            seen, valid = observation_tensors(observations), ~over
            noise = config.noise_scale * torch.randn((env.num_envs, *policy.noise_shape), generator=generator)
            chunks, context = self.propose(policy, seen, noise, config.guidance)
            if over.any():  # the ended ones must not be stepped on: begin anew there, and leave the result out
                env.reset(options={"reset_mask": over})
            observations, rewards, terminated, truncated, _ = env.step(chunks.numpy())
            advantages = np.asarray(rewards, np.float64)
            if not np.isfinite(advantages[valid]).all():
                raise TrainingError("the world model gave an advantage that is not finite; nothing was trained on it")
            believed = np.where(valid, advantages, 0.0)
            if config.shuffle_advantages:
                order = np.random.default_rng([config.seed, self.rounds, 2 + position])
                believed[valid] = order.permutation(believed[valid])
            parts.append(Rollouts(
                observations=seen,
                chunks=chunks,
                advantages=torch.from_numpy(advantages).float(),
                bins=torch.from_numpy(policy.codec.encode(believed)),
                position=torch.full((len(chunks),), position),
                valid=torch.from_numpy(valid),
                context=context,
            ))  # fmt: skip
            self.num_timesteps += int(valid.sum())
            over = over | terminated | truncated
            if over.all():
                break
        return Rollouts.joined(parts)

    def _loss(self, imagined: Rollouts, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """Loss of some chunks under the advantage that was measured, (n,)."""
        actor, context = self.learner.actor, imagined.context
        if context is not None:
            context = context[torch.from_numpy(rows).to(actor.device)]
        else:
            context = actor.context_of({key: value[rows] for key, value in imagined.observations.items()}, generator)
        bins, chunks = imagined.bins[rows].to(actor.device), imagined.chunks[rows].to(actor.device)
        # The policy was asked for the best: unconditionally it goes on meaning "as recorded".
        return actor.loss(context, bins, chunks, generator, condition_dropout=0.0)

    def training_state(self) -> dict[str, Any]:
        """Learner, and of the buffer what the next round does not push out."""
        buffer = [{**vars(part), "context": None} for part in self._buffer[1 - self.config.buffer_rounds :]]
        return {"learner": self.learner.state_dict(), "buffer": buffer if self.config.buffer_rounds > 1 else []}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`; observations are encoded in the same batches as before."""
        self.learner.load_state_dict(state["learner"])
        self._buffer = [Rollouts(**{**part, "context": self._encoded(part)}) for part in state["buffer"]]

    @torch.no_grad()
    def _encoded(self, part: Mapping[str, Any]) -> Context | None:
        if not self.learner.encoders_frozen:
            return None
        count, seen = self.env.num_envs, part["observations"]
        starts = range(0, len(part["chunks"]), count)
        batches = [{key: value[first : first + count] for key, value in seen.items()} for first in starts]
        found: Context = _joined([self.policy.context_of(batch) for batch in batches])
        return found
