"""RISE as published: self-improvement of an advantage-conditioned policy in imagination (arXiv 2602.11075, section 3).

Each round starts from recorded states. The rollout policy, an average of the actor's past weights, is asked for its
best chunk; the world model imagines it and the chunk's advantage is measured; from the imagined end a second chunk is
imagined. The actor is then trained by flow matching on the chunks that were *proposed*, under the advantages that were
*measured*, mixed sample by sample with recorded chunks under their labelled advantages.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from rise_agents.algorithms.base import Algorithm
from rise_agents.algorithms.learner import Learner, LearnerConfig, OfflineBatches, joined_contexts, split
from rise_agents.policies.base import Context, Policy, observation_tensors
from rise_agents.policies.data import ChunkSource
from rise_env.errors import TrainingError, requirement

__all__ = ["RISE", "RISEConfig", "Rollouts"]


@dataclass(frozen=True)
class RISEConfig(LearnerConfig):
    """Settings of RISE; the defaults are the paper's where two CPU cores allow it.

    Attributes:
        horizon: Chunks imagined in a row from a recorded state (paper: 2).
        guidance: Classifier-free guidance of the proposals, 1 for none, as released. What is proposed with guidance and
            learned is guided once more in the next round: 31,000 chunks with guidance 2 took a policy from 47 to 0 %
            success (lab notebook). Acting, the policy keeps its own.
        noise_scale: Deviation of the noise that proposals start from.
        buffer_rounds: Rounds whose chunks are kept for training.
        shuffle_advantages: Give every imagined chunk the advantage of another one of its round: a control, in which
            nothing can be learned from advantages.
    """

    horizon: int = 2
    guidance: float = 1.0
    noise_scale: float = 1.0
    buffer_rounds: int = 1
    shuffle_advantages: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of rise")
        for name in ("horizon", "buffer_rounds"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        require(0 <= self.noise_scale <= 1, f"noise_scale is {self.noise_scale}, expected in [0, 1]")


_COLUMNS = ("chunks", "advantages", "bins", "position", "valid")


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
        seen = {key: torch.cat([part.observations[key] for part in parts]) for key in parts[0].observations}
        contexts = [part.context for part in parts if part.context is not None]
        return cls(
            seen,
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS},
            context=joined_contexts(contexts) if contexts else None,
        )


class RISE(Algorithm[RISEConfig]):
    """Self-improvement in imagination, as published.

    Args:
        policy: Base policy, trained on recorded data with advantages.
        env: Imagination in autoreset mode "disabled" with the policy's `observation_lags`.
        config: Settings.
        offline: Recorded chunks to mix in; None only with `offline_ratio` 0.
    """

    name: ClassVar[str] = "rise"
    Config = RISEConfig

    def __init__(
        self, policy: Policy, env: Any, config: RISEConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        self.check_fit()
        require = requirement(self.name)
        wanted, most = self.config.horizon, self.env.max_chunks
        require(most >= wanted, f"the environment ends after {most} chunks: make it with max_chunks={wanted}")
        require(offline is not None or not self.config.offline_ratio, "recorded chunks are needed, or offline_ratio=0")
        self.learner = Learner(policy, self.config)
        self.policy = self.learner.policy
        self._offline = OfflineBatches(self.learner, offline) if offline is not None else None
        self._buffer: list[Rollouts] = []

    def step(self) -> None:
        """Imagine what the rollout policy proposes at recorded states, and train the actor on it."""
        progress = self.progress
        found = self.imagine()
        self._buffer = [*self._buffer, found][-self.config.buffer_rounds :]
        self._train(progress)
        first = (found.position == 0) & found.valid
        later = (found.position > 0) & found.valid
        best = self.policy.codec.best_bin
        self.metrics |= {
            "rollout/advantage": float(found.advantages[first].mean()),
            "rollout/best_bin_share": float((found.bins[first] == best).float().mean()),
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
            seen = observation_tensors(observations)
            noise = torch.randn((env.num_envs, *policy.noise_shape), generator=generator).to(policy.device)
            context = self._encode(seen)
            best = torch.full((env.num_envs,), policy.codec.best_bin, device=policy.device)
            chunks = policy.sample(context, best, config.noise_scale * noise, guidance=config.guidance)
            chunks = policy.within_limits(chunks).cpu()
            if over.any():  # the ended ones must not be stepped on: begin anew there, and leave the result out
                env.reset(options={"reset_mask": over})
            observations, rewards, terminated, truncated, _ = env.step(chunks.numpy())
            measured = self._rollouts(seen, chunks, np.asarray(rewards, np.float64), position, ~over)
            parts.append(replace(measured, context=context if self.learner.encoders_frozen else None))
            self.num_timesteps += int((~over).sum())
            over = over | terminated | truncated
            if over.all():
                break
        return Rollouts.joined(parts)

    def _rollouts(
        self,
        seen: dict[str, torch.Tensor],
        chunks: torch.Tensor,
        advantages: np.ndarray,
        position: int,
        kept: np.ndarray,
    ) -> Rollouts:
        """The chunks of one step, with their bins; those of the environments `kept`, bool (N,), are valid."""
        if not np.isfinite(advantages[kept]).all():
            raise TrainingError("the world model gave an advantage that is not finite; nothing was trained on it")
        believed = np.where(kept, advantages, 0.0)
        if self.config.shuffle_advantages:
            rng = np.random.default_rng([self.config.seed, self.rounds, 2 + position])
            believed[kept] = rng.permutation(believed[kept])
        return Rollouts(
            seen,
            chunks,
            torch.from_numpy(advantages).float(),
            torch.from_numpy(self.policy.codec.encode(believed)),
            torch.full((len(chunks),), position),
            torch.from_numpy(kept.copy()),
        )

    def _train(self, progress: float) -> None:
        """Update the actor on the chunks in the buffer, mixed with recorded ones."""
        config, imagined = self.config, Rollouts.joined(self._buffer)
        rng = np.random.default_rng([config.seed, self.rounds, 1])
        online = max(1, round(config.batch_size * (1 - config.offline_ratio)))
        updates = max(1, round(config.epochs * len(self._buffer[-1].rows) / online))
        valid = imagined.rows
        passes = -(-updates * config.batch_size // len(valid))
        order = np.concatenate([rng.permutation(valid) for _ in range(passes)])
        losses, norms, used = [], [], 0
        for _ in range(updates):
            offline = int((rng.random(config.batch_size) < config.offline_ratio).sum()) if self._offline else 0
            which = order[used : used + config.batch_size - offline]
            used += len(which)
            loss, norm = self.learner.update(self._shards(imagined, which, offline, rng), progress)
            losses.append(loss)
            norms.append(norm)
        self.metrics |= {
            "train/loss": float(np.mean(losses)),
            "train/grad_norm": float(np.mean(norms)),
            "train/learning_rate": self.learner.learning_rate(progress),
            "train/ema_distance": self.learner.distance(),
        }

    def _shards(self, imagined: Rollouts, which: np.ndarray, offline: int, rng: np.random.Generator) -> list[Any]:
        """A batch of imagined chunks and recorded ones in parts."""
        recorded = rng.integers(len(self._offline), size=offline) if self._offline else np.zeros(0, np.int64)
        if self._offline is not None:
            self._offline.prepare(recorded)
        actor = self.learner.actor

        def shard(rows: np.ndarray, recorded: np.ndarray, seed: int) -> tuple[torch.Tensor, float]:
            generator = torch.Generator().manual_seed(seed)
            total = torch.zeros((), device=actor.device)
            if len(rows):
                if imagined.context is not None:
                    context = imagined.context[torch.from_numpy(rows).to(actor.device)]
                else:
                    seen = {key: value[rows].to(actor.device) for key, value in imagined.observations.items()}
                    context = actor.context(seen, [actor.spec.prompt] * len(rows), generator)
                # The policy was asked for the best: unconditionally it goes on meaning "as recorded".
                bins, chunks = imagined.bins[rows].to(actor.device), imagined.chunks[rows].to(actor.device)
                total = total + actor.loss(context, bins, chunks, generator, condition_dropout=0.0).sum()
            if len(recorded):
                assert self._offline is not None
                total = total + self._offline.loss(recorded, generator).sum()
            return total, float(len(rows) + len(recorded))

        count = self.config.num_shards
        parts = zip(split(which, count), split(recorded, count), strict=True)
        seeded = [(*part, int(rng.integers(2**62))) for part in parts]
        return [functools.partial(shard, *part) for part in seeded]

    # ------------------------------------------------------------------ state

    def training_state(self) -> dict[str, Any]:
        """Learner and buffer."""
        kept = self._buffer[1 - self.config.buffer_rounds :] if self.config.buffer_rounds > 1 else []
        columns = [{name: getattr(part, name) for name in _COLUMNS} for part in kept]
        seen = [part.observations for part in kept]
        return {"learner": self.learner.state_dict(), "columns": columns, "observations": seen}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`; observations are encoded in the same batches as before."""
        self.learner.load_state_dict(state["learner"])
        self._buffer = []
        for seen, columns in zip(state["observations"], state["columns"], strict=True):
            context = None
            if self.learner.encoders_frozen:
                count = self.env.num_envs
                batches = [slice(first, first + count) for first in range(0, len(columns["chunks"]), count)]
                context = joined_contexts(
                    [self._encode({key: value[rows] for key, value in seen.items()}) for rows in batches]
                )
            self._buffer.append(Rollouts(seen, **columns, context=context))

    @torch.no_grad()
    def _encode(self, seen: dict[str, torch.Tensor]) -> Context:
        prompts = [self.policy.spec.prompt] * len(seen["state"])
        return self.policy.context(observation_tensors(seen, self.policy.device), prompts)
