"""Training of a policy's weights by flow matching on what a round brought, mixed with recorded chunks.

An *actor* is trained; the policy that proposes, acts and is saved is an exponential average of its weights. A batch is
computed in a fixed number of shards side by side, each on one thread: results do not depend on the number of cores, and
a busy core delays an update at most once instead of at every operation.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator

from rise_agents.algorithms.base import Algorithm, AlgorithmConfig
from rise_agents.algorithms.features import FeatureCache, Seen
from rise_agents.algorithms.mixing import ConstantRatio, Ratio, Selector, split_batch
from rise_agents.policies.base import Context, Policy
from rise_agents.policies.data import ChunkSource
from rise_env.errors import TrainingError, requirement

__all__ = ["FlowMatchingAlgorithm", "FlowMatchingConfig", "Gradients", "Learner", "OfflineBatches",
           "Proposer", "Sharing", "Summed", "Term", "add_up"]  # fmt: skip

#: A part of every batch: numbers of samples, and a function that gives the loss of each, (n,).
type Term = tuple[np.ndarray, Callable[[np.ndarray, Generator], torch.Tensor]]
#: Given a policy, N observations, noise (N * G, ...) and guidance, chunks as of `Policy.propose`.
type Proposer = Callable[[Policy, Mapping[str, Any], torch.Tensor, float], torch.Tensor]
#: Part in the mean loss of a batch, and in its gradient; None where a parameter has none.
type Summed = tuple[float, list[torch.Tensor | None]]
#: Given numbers of shards, the part of these.
type Gradients = Callable[[Sequence[int]], Summed]
#: Given `Gradients`, the number of shards and the parameters, the sum over all shards, whoever computes them.
type Sharing = Callable[[Gradients, int, Sequence[torch.Tensor]], Summed]


@dataclass(frozen=True)
class FlowMatchingConfig(AlgorithmConfig):
    """Settings of a `FlowMatchingAlgorithm`.

    Attributes:
        epochs: Passes over the chunks of a round (release of RISE: 4).
        batch_size: Chunks per update, recorded ones included (release: 128).
        learning_rate: Peak learning rate of Adam.
        warmup_steps: Updates over which it rises.
        lr_decay_fraction: Last part of the budget, with the chunks that scored start states, over which it falls to
            zero, linearly.
        max_grad_norm: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights (paper: 0.995).
        trainable: "action_expert", as in the release, with images encoded once; or "all".
        offline_ratio: Part of every batch that is recorded, drawn sample by sample (paper: 0.6).
        num_shards: Parts of a batch that are computed side by side, each on one thread. It decides the order of sums,
            so another number gives other last digits.
        buffer_rounds: Rounds whose chunks are kept for training.
        noise_samples: Most noises and times that are drawn per chunk and update, where the policy's own settings have
            more: many updates on a chunk need fewer of them each than behaviour cloning does.
        guidance: Classifier-free guidance of the proposals, 1 for none, as released. What is proposed with guidance and
            learned is guided once more in the next round: 31,000 chunks with guidance 2 took a policy from 47 to 0 %
            success (lab notebook). Acting, the policy keeps its own.
        noise_scale: Deviation of the noise that proposals start from.
        shuffle_advantages: Shuffle the advantages of every round over its chunks: a control, in which nothing can be
            learned from them.
    """

    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 3e-4
    warmup_steps: int = 50
    lr_decay_fraction: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.995
    trainable: str = "action_expert"
    offline_ratio: float = 0.6
    num_shards: int = 2
    buffer_rounds: int = 1
    noise_samples: int | None = None
    guidance: float = 1.0
    noise_scale: float = 1.0
    shuffle_advantages: bool = False

    def __post_init__(self) -> None:
        require = requirement("algorithm settings")
        require.at_least(1, self, "epochs", "batch_size", "num_shards", "buffer_rounds", "noise_samples")
        require.within("[0, 1]", self, "offline_ratio", "lr_decay_fraction", "noise_scale")
        require.within("[0, 1)", self, "ema_decay")
        require.positive(self, "learning_rate", "max_grad_norm")
        require.one_of(("action_expert", "all"), self, "trainable")


class Learner:
    """An actor, its optimiser, and the average of its weights.

    Args:
        policy: Where both start; copied.
        config: Settings.

    Attributes:
        actor: What is trained. In evaluation mode: dropout would draw from a generator that all shards share, and a
            distillation loss would compare noise.
        policy: The averaged weights.
        num_updates: Updates so far.
        sharing: Who else computes shards of an update, if a runner sets it.
    """

    sharing: Sharing | None = None

    def __init__(self, policy: Policy, config: FlowMatchingConfig) -> None:
        self.config = config
        self.actor = copy.deepcopy(policy).eval()
        drawn = getattr(self.actor.config, "noise_samples", 1)
        if config.noise_samples is not None and config.noise_samples < drawn:
            self.actor.config = dataclasses.replace(self.actor.config, noise_samples=config.noise_samples)
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self.parameters = self.actor.action_parameters()
        if config.trainable == "all":
            self.parameters = [p for p in self.actor.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
        self.num_updates = 0
        # Looked up once: walking the modules for every update costs as much as a small update. What is not trained is
        # the same in both: it needs no averaging, and need not be sent to whoever proposes elsewhere.
        both = zip(self.policy.parameters(), self.actor.parameters(), strict=True)
        self._pairs, trained = [(p.detach(), a.detach()) for p, a in both], set(map(id, self.parameters))
        moving = [place for place, one in enumerate(self.actor.parameters()) if id(one) in trained]
        self._averaged, self._trained = ([self._pairs[place][side] for place in moving] for side in (0, 1))

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.config.num_shards, thread_name_prefix="shard")

    def close(self) -> None:
        """End the threads; the next update starts new ones."""
        if threads := vars(self).pop("_threads", None):
            threads.shutdown()

    @property
    def encoders_frozen(self) -> bool:
        """Whether what is seen is encoded the same throughout."""
        return self.config.trainable == "action_expert"

    def learning_rate(self, progress: float) -> float:
        """Learning rate of the next update, where a part `progress` of the budget is used up."""
        config = self.config
        rising = (self.num_updates + 1) / max(config.warmup_steps, 1)
        falling = (1.0 - progress) / config.lr_decay_fraction if config.lr_decay_fraction else 1.0
        return config.learning_rate * min(1.0, rising, falling)

    def update(self, batch: Sequence[Term], rng: np.random.Generator, progress: float) -> tuple[float, float]:
        """One update of actor and averaged weights.

        Args:
            batch: What it consists of; every sample weighs the same.
            rng: Source of the seeds of the shards.
            progress: Part of the budget that is used up.

        Returns:
            Mean loss of a sample, and the norm of the gradient.

        Raises:
            TrainingError: If the loss is not finite; the weights are left as they were.
        """
        split = [np.array_split(rows, self.config.num_shards) for rows, _ in batch]
        losses = [loss for _, loss in batch]
        count = sum(len(rows) for rows, _ in batch)
        shards = [(list(zip(rows, losses, strict=True)), count, int(rng.integers(2**62)))
                  for rows in zip(*split, strict=True)]  # fmt: skip

        def gradients(some: Sequence[int]) -> Summed:
            return add_up(list(self._threads.map(self._gradients, [shards[number] for number in some])))

        every = range(len(shards))
        loss, found = self.sharing(gradients, len(every), self.parameters) if self.sharing else gradients(every)
        if not np.isfinite(loss):
            raise TrainingError(f"update {self.num_updates}: the loss is {loss}; lower the learning rate")
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            self.optimiser.zero_grad(set_to_none=True)
            raise TrainingError(f"update {self.num_updates}: the gradient is not finite; lower the learning rate")
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(progress)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.num_updates += 1
        self._average()
        return loss, norm

    def _gradients(self, shard: tuple[Sequence[Term], int, int]) -> Summed:
        """Part of a shard in the mean loss of a batch of so many samples, and in its gradients."""
        torch.set_num_threads(1)  # of this thread
        terms, count, seed = shard
        generator = Generator().manual_seed(seed)
        total = torch.zeros((), device=self.actor.device)
        for rows, loss in terms:
            if len(rows):
                total = total + loss(rows, generator).sum() / count
        if not total.requires_grad:  # a shard without samples
            return 0.0, [None] * len(self.parameters)
        return float(total.detach()), list(torch.autograd.grad(total, self.parameters, allow_unused=True))

    @torch.no_grad()
    def _average(self) -> None:
        torch._foreach_lerp_(self._averaged, self._trained, 1.0 - self.config.ema_decay)
        for mine, theirs in zip(self.policy.buffers(), self.actor.buffers(), strict=True):
            mine.copy_(theirs)

    def distance(self) -> float:
        """Relative distance between averaged and trained weights."""
        apart = sum(float((p - a).square().sum()) for p, a in self._pairs)
        return (apart / max(sum(float(p.square().sum()) for p, _ in self._pairs), 1e-12)) ** 0.5

    def state_dict(self) -> dict[str, Any]:
        """Full state but for the averaged weights, which `Algorithm.save` keeps."""
        models = {"actor": self.actor.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**models, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.num_updates = int(state["num_updates"])


def add_up(parts: Sequence[Summed]) -> Summed:
    """Losses and gradients of several parts of a batch, in their order."""
    losses, gradients = zip(*parts, strict=True)
    columns = ([one for one in column if one is not None] for column in zip(*gradients, strict=True))
    return sum(losses), [functools.reduce(torch.add, column) if column else None for column in columns]


class OfflineBatches:
    """Recorded chunks as a part of batches.

    Args:
        learner: Whose actor is trained on them.
        data: Recorded chunks.
        condition_dropout: Part of them that is learned without an advantage; the policy's own when None.
        selector: Which of them are drawn; all evenly when None.
        feature_noise: As `noise` of `FeatureCache`.
    """

    def __init__(
        self,
        learner: Learner,
        data: ChunkSource,
        condition_dropout: float | None = None,
        selector: Selector | None = None,
        feature_noise: float = 0.0,
    ) -> None:
        self._learner, self._data, self._dropout = learner, data, condition_dropout
        self._selector = selector or Selector(len(data))
        frozen = learner.actor if learner.encoders_frozen else None
        self._features = FeatureCache(len(data), self._encoded, frozen, feature_noise)

    def draw(self, count: int, rng: np.random.Generator) -> Term:
        """So many of them."""
        rows = self._selector.draw(count, rng)
        self._features.prepare(rows)
        return rows, self._loss

    def _encoded(self, policy: Policy, rows: np.ndarray, generator: Generator | None) -> Seen:
        batch = self._data.batch(rows, policy.device)
        return policy.context(batch.observations, batch.prompts, generator), (batch.advantage_bins, batch.chunks)

    def _loss(self, rows: np.ndarray, generator: Generator) -> torch.Tensor:
        """Flow-matching loss of each chunk under its labelled advantage, (n,)."""
        context, (bins, chunks) = self._features(self._learner.actor, rows, generator)
        return self._learner.actor.loss(context, bins, chunks, generator, self._dropout)


class FlowMatchingAlgorithm[C: FlowMatchingConfig, R](Algorithm[C]):
    """An algorithm that keeps the chunks of its last rounds and learns them by flow matching.

    Args:
        policy: Base policy, trained on recorded data with advantages.
        env: Imagination (or the oracle) in autoreset mode "disabled" with the policy's `observation_lags`.
        config: Settings.
        offline: Recorded chunks to mix in; None only with `offline_ratio` 0.

    Attributes:
        learner: Actor and averaged weights.
        proposer: Who proposes chunks in place of this process, if a runner sets it.
    """

    proposer: Proposer | None = None

    def __init__(
        self, policy: Policy, env: Any, config: C | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        self.check_fit()
        require = requirement(self.name)
        require(bool(offline) or not self.config.offline_ratio, "recorded chunks are needed, or offline_ratio=0")
        self.learner = Learner(policy, self.config)
        self.policy = self.learner.policy
        self._offline = OfflineBatches(self.learner, offline) if offline else None
        self._ratio: Ratio = ConstantRatio(self.config.offline_ratio)
        self._buffer: list[R] = []

    @property
    def has_learned(self) -> bool:
        """Whether there was an update."""
        return self.learner.num_updates > 0

    def close(self) -> None:
        """End the threads of the learner."""
        self.learner.close()

    def propose(
        self, policy: Policy, observations: Mapping[str, Any], noise: torch.Tensor, guidance: float
    ) -> tuple[torch.Tensor, Context | None]:
        """Chunks as of `Policy.propose`, and the encoded observations where what encodes them is frozen."""
        frozen, context = self.learner.encoders_frozen, None
        if frozen or self.proposer is None:
            context = policy.context_of(observations)
        if self.proposer is not None:
            return self.proposer(policy, observations, noise, guidance), context
        assert context is not None
        return policy.propose(context, noise, guidance), context if frozen else None

    def keep(self, found: R) -> None:
        """Put what a round brought into the buffer."""
        self._buffer = [*self._buffer, found][-self.config.buffer_rounds :]

    def regularisation(self, rng: np.random.Generator) -> list[Term]:
        """What else every batch consists of, besides imagined and recorded chunks."""
        del rng
        return []

    def train_on(
        self, rows: np.ndarray, num_new: int, loss: Callable[[np.ndarray, Generator], torch.Tensor], used: float
    ) -> None:
        """Update the actor on chunks of the buffer, mixed with recorded ones.

        Args:
            rows: Numbers of the chunks, int64 (n,); none where all that is learned is recorded: that makes one update.
            num_new: How many of them this round brought: they decide the number of updates.
            loss: Loss of each of some of them, (n,).
            used: Part of the budget that is used up.
        """
        config, rng = self.config, np.random.default_rng([self.config.seed, self.rounds, 1])
        updates = max(1, round(config.epochs * num_new / max(1, round(config.batch_size * (1 - config.offline_ratio)))))
        passes = -(-updates * config.batch_size // max(len(rows), 1))
        order = np.concatenate([rng.permutation(rows) for _ in range(passes)])
        found = []
        for _ in range(updates):
            batch: list[Term] = []
            if self._offline is not None:
                recorded = split_batch(config.batch_size, self._ratio(), rng)
                batch.append(self._offline.draw(recorded, rng))
            count = config.batch_size - sum(len(some) for some, _ in batch)
            batch = [(order[:count], loss), *batch, *self.regularisation(rng)]
            order = order[count:]
            found.append(self.learner.update(batch, rng, used))
        losses, norms = zip(*found, strict=True)
        self.metrics |= {
            "train/loss": float(np.mean(losses)),
            "train/grad_norm": float(np.mean(norms)),
            "train/learning_rate": self.learner.learning_rate(used),
            "train/ema_distance": self.learner.distance(),
        }
