"""WorldSample: off-policy learning in the work cell, with counterfactual chunks imagined beside the real ones.

After arXiv 2607.02431, which has no code. A round runs episodes in the cell and trains the dynamics model on them;
perturbed copies of chunks that were run are imagined from the same states, labelled, selected, and mixed into the
learning of the critic and the actor. *Policy-Paced Learning* sets their share: rho_max / (1 + kappa H^power), H the
entropy of the actor on real states. `imagine=False` is the twin without imagination, the baseline.

Ours, because a flow policy has no density that soft actor-critic could use: the critic is that of implicit Q-learning
(arXiv 2110.06169), on features of the base policy and the world model's value of what is seen, and the actor learns
chunks by flow matching, weighted by exp(advantage / temperature).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from rise_agents.algorithms.best_of_n import history_lags
from rise_agents.algorithms.cell_algorithm import CellAlgorithm, CellConfig
from rise_agents.algorithms.cell_episodes import Decision, RecordingActor, observed_rollout
from rise_agents.algorithms.counterfactuals import imagined_transitions
from rise_agents.algorithms.mixing import PacedRatio, split_batch
from rise_agents.algorithms.off_policy import (
    Critic,
    Transitions,
    admitted,
    joined,
    perturbed,
    sample_entropy,
    size,
    transitions,
)
from rise_agents.evaluation.results import Episode
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy, observation_tensors
from rise_agents.policies.data import ChunkSource
from rise_env.errors import TrainingError, requirement
from rise_env.spaces import image_key
from rise_env.training.post_training import PostTraining
from rise_env.world_model import CompositionalWorldModel

__all__ = ["WorldSample", "WorldSampleConfig"]

_VALUE_SCALE = 8.0  # values lie in [0, 1], and are one feature among hundreds


@dataclass(frozen=True)
class WorldSampleConfig(CellConfig):
    """Settings of WorldSample, besides those of `CellConfig`; what is not said to be published is ours.

    Attributes:
        imagine: Imagine counterfactual chunks; False is the twin without imagination.
        demonstrations: Episodes of the expert before the first round; their control steps count.
        demonstration_ratio: Part of the real samples of a batch that is demonstrated (RLPD, HIL-SERL: 0.5).
        updates: Updates of a round.
        critic_updates: Of the critic for each of the actor.
        window: Decisions that are kept besides demonstrations, real and imagined each.
        discount: Per control step.
        expectile: Of the value in implicit Q-learning (published there: 0.7).
        temperature: Advantage over which the weight of a chunk grows by a factor of e.
        max_weight: Largest weight.
        critic_learning_rate: Of critic and value.
        target_rate: Part of the critic that its target takes over in an update.
        hidden: Width of critic and value.
        dropout: Of the value; it decides how different advantages are.
        rho_max: Largest share of imagined samples (published: 0.3).
        kappa: Factor in the share of imagined samples, rho_max / (1 + kappa H^power), of Policy-Paced Learning (not
            published).
        power: Its exponent (not published).
        scale: Largest relative change of a joint's motion in a copy (published: 0.2).
        noise: Deviation of its noise, in deviations of that joint's motion (published: 0.05 of the action range).
        max_gap: Largest distance between the mean Q of both queues and that of real samples (not published).
        noise_samples: Chunks per state from which the entropy is measured.
        post_updates: Updates of the dynamics model in a round, on the rollouts so far; 0 leaves it as it is, which
            dynamics models of other kinds than `LatentDynamics` ask for.
        post_learning_rate: Their peak learning rate.
    """

    imagine: bool = True
    demonstrations: int = 32
    demonstration_ratio: float = 0.5
    updates: int = 64
    critic_updates: int = 1
    discount: float = 0.98
    expectile: float = 0.7
    temperature: float = 0.1
    max_weight: float = 20.0
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.01
    hidden: int = 256
    dropout: float = 0.5
    rho_max: float = 0.3
    kappa: float = 1.0
    power: float = 1.0
    scale: float = 0.2
    noise: float = 0.05
    max_gap: float = 0.2
    noise_samples: int = 8
    post_updates: int = 8
    post_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of worldsample")
        require.at_least(1, self, "demonstrations", "updates", "critic_updates", "hidden")
        require.at_least(2, self, "noise_samples")
        require.at_least(0, self, "kappa", "scale", "noise", "max_gap", "post_updates")
        require.within("[0, 1]", self, "demonstration_ratio", "discount", "rho_max")
        require.within("(0, 1)", self, "expectile")
        require.within("(0, 1]", self, "target_rate")
        require.within("[0, 1)", self, "dropout")
        require.positive(self, "temperature", "max_weight", "critic_learning_rate", "power", "post_learning_rate")


class WorldSample(CellAlgorithm[WorldSampleConfig, None]):
    """Learns in the work cell, and from imagined copies of what was done there.

    Arguments as of `CellAlgorithm`. Where `imagine`, the environment has an attribute `world_model` and the
    `observation_lags` of its history.

    Attributes:
        world_model: What imagines: a copy of the environment's where the dynamics model is trained; None in the twin.
    """

    name: ClassVar[str] = "worldsample"
    Config = WorldSampleConfig

    def __init__(
        self, policy: Policy, env: Any, config: WorldSampleConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        config = self.config
        self.world_model: CompositionalWorldModel | None = self.env.world_model if config.imagine else None
        self._post: PostTraining | None = None
        if self.world_model is not None and config.post_updates:
            self._post = PostTraining(self.world_model, updates=config.post_updates, seed=config.seed,
                                      learning_rate=config.post_learning_rate)  # fmt: skip
            self.world_model = self._post.world_model
        self._reference = copy.deepcopy(policy).eval().requires_grad_(False)  # its features are the critic's input
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            seen, chunk = self._feature_size(), math.prod(policy.noise_shape)
            self._critic = Critic(seen, chunk, config.hidden, config.dropout).eval()
        self._target = copy.deepcopy(self._critic).requires_grad_(False)
        self._optimiser = torch.optim.Adam(self._critic.parameters(), lr=config.critic_learning_rate)
        self._keys = tuple(self.env.observation_space)
        self._ratio = PacedRatio(config.rho_max, config.kappa, config.power)
        self._demonstrated: Transitions = {}
        self._real: Transitions = {}
        self._imagined: Transitions = {}

    def check_fit(self) -> None:
        """Compare policy and environment, and look for expert and world model."""
        super().check_fit()
        require, env = requirement(self.name), self.env
        if not self.config.imagine:
            return
        require(getattr(env, "world_model", None) is not None, "set env.world_model, or imagine=False")
        spec = env.world_model.spec
        wanted = list(history_lags(spec))
        require(set(wanted) <= set(env.lags), f"make the environment with observation_lags={wanted}")
        seen = spec.stride * spec.history
        require(not self.config.post_updates or (spec.execute <= seen and spec.execute % spec.stride == 0),
                f"{spec.execute} control steps are executed, {seen} of them seen: the dynamics model cannot be trained "
                "on that; set post_updates=0")  # fmt: skip

    def _feature_size(self) -> int:
        space = self.env.observation_space
        return self._features({key: np.zeros((1, *box.shape[1:]), box.dtype) for key, box in space.items()}).shape[1]

    @torch.no_grad()
    def _features(self, observations: Mapping[str, Any], values: torch.Tensor | None = None) -> torch.Tensor:
        """What the critic sees, float32 (n, F): the base policy's features, and the world model's value.

        A base that learned from operators who do not look at the colour does not look at it either; the value does.
        """
        policy, model, parts = self._reference, self.world_model, []
        for first in range(0, len(observations["state"]), 128):
            rows = slice(first, first + 128)
            context = policy.context_of({key: value[rows] for key, value in observations.items()})
            best = torch.full((len(context),), policy.codec.best_bin, device=policy.device)
            parts.append(policy.features_of(context, best).float().cpu())
            if model is not None:
                cameras = [torch.as_tensor(observations[image_key(camera)][rows]) for camera in model.spec.cameras]
                frames = torch.stack(cameras, dim=1)[:, None].to(model.device)
                score = model.score_frames(frames, [model.spec.prompt] * len(context)).value[:, 0].float().cpu()
                score = score if values is None else values[rows]
                parts[-1] = torch.cat([parts[-1], _VALUE_SCALE * (score[:, None] - 0.5)], dim=1)
        return torch.cat(parts)

    # ------------------------------------------------------------------ one round

    def step(self) -> None:
        """Run episodes in the cell, imagine copies of what was done, and learn from both."""
        config, used = self.config, self.progress
        rng = np.random.default_rng([config.seed, self.rounds])
        if self.rounds == 0:
            self._demonstrated = self._collected(_Noted(None, self.env), 0, config.demonstrations)
        student = PolicyActor(self.policy, noise_scale=config.noise_scale)
        first = config.demonstrations + self.rounds * config.episodes
        new = self._collected(_Noted(student, self.env), first, config.episodes)
        self._real = joined(self._real, new, config.window)
        entropy = self._entropy(new) if new else 0.0
        share = self._ratio(entropy) if config.imagine else 0.0
        if self._post is not None:
            self.metrics |= {f"dynamics/{name}": value for name, value in self._post.train().items()}
        if self.world_model is not None and new:
            found = self._imagine(new, rng)
            self._imagined = joined(self._imagined, self._admit(found), config.window - config.window % 2)
            self.metrics["rollout/imagined"] = float(len(found["state"]))
            self.num_timesteps += len(found["state"])
        share = share if size(self._imagined) else 0.0
        self._learn(share, rng, used)
        self.metrics |= {"rollout/entropy": entropy, "train/imagined_share": share}

    def _collected(self, actor: _Noted, first: int, count: int) -> Transitions:
        """Transitions of so many training episodes."""
        found = self.run(actor, first, count)
        if self._post is not None:
            self._post.add([observed_rollout(decisions, self.env.task) for _, decisions in found])
        kept = [part for part in (self._transitions(*one) for one in found) if size(part)]
        return {key: torch.cat([part[key] for part in kept]) for key in kept[0]} if kept else {}

    def _transitions(self, episode: Episode, decisions: Sequence[Decision]) -> Transitions:
        spec = self.env.task
        steps = round(episode.seconds * spec.fps)
        found = transitions(episode, len(decisions), steps, spec.execute, self.config.discount)
        count = len(found["reward"])
        keys = decisions[0].observation
        seen = {key: torch.from_numpy(np.stack([one.observation[key] for one in decisions])) for key in keys}
        features = self._features(seen)
        following = torch.cat([features[1:], features[-1:]])  # the last counts only with discount 0
        chunks = torch.from_numpy(np.stack([one.chunk for one in decisions]))
        return {**{key: value[:count] for key, value in seen.items()}, **found, "chunk": chunks[:count],
                "features": features[:count], "next_features": following[:count],
                "positive": torch.full((count,), episode.success)}  # fmt: skip

    # ------------------------------------------------------------------ imagination

    def _imagine(self, real: Transitions, rng: np.random.Generator) -> Transitions:
        """Perturbed copies of chunks from the states in which they were run, as transitions."""
        config, model = self.config, self.world_model
        assert model is not None
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chunks = perturbed(real["chunk"], real["state"], config.scale, config.noise, generator)
        return imagined_transitions(
            model, real, self.policy.within_limits(chunks), self._features, lags=self.policy.lags,
            discount=config.discount, threshold=float(getattr(self.env, "success_threshold", 0.95)), rng=rng,
        )  # fmt: skip

    @torch.no_grad()
    def _admit(self, found: Transitions) -> Transitions:
        """Pairs of a positive and a negative sample, while the critic's mean on both queues stays near the real one."""
        kept = self._q(self._target, self._imagined).min(dim=0).values if size(self._imagined) else torch.zeros(0)
        q = self._q(self._target, found).min(dim=0).values
        real = float(self._q(self._target, self._real).min(dim=0).values.mean())
        rows = admitted(q.numpy(), found["positive"].numpy(), real, self.config.max_gap, kept.numpy())
        chosen = q[torch.from_numpy(rows)]
        self.metrics |= {"rollout/admitted": float(len(rows)), "rollout/positive": float(found["positive"].sum())}
        if len(kept) + len(rows):
            self.metrics["rollout/q_gap"] = float(torch.cat([kept, chosen]).mean()) - real
        return {key: value[torch.from_numpy(rows)] for key, value in found.items()}

    @torch.no_grad()
    def _entropy(self, real: Transitions) -> float:
        """Entropy of the actor on some real states, see `sample_entropy`."""
        policy, count = self.policy, min(len(real["state"]), 32)
        generator = torch.Generator().manual_seed(self.config.seed)
        seen = {key: real[key][:count] for key in self._keys}
        context, samples = policy.context_of(seen), []
        for _ in range(self.config.noise_samples):
            noise = torch.randn((count, *policy.noise_shape), generator=generator)
            samples.append(policy.normalise(policy.propose(context, noise, 1.0).to(policy.device), context.state))
        return sample_entropy(torch.stack(samples).flatten(2).cpu())

    # ------------------------------------------------------------------ learning

    def _q(self, critic: Critic, batch: Transitions) -> torch.Tensor:
        chunks = self._reference.normalise(batch["chunk"], batch["state"]).flatten(1)
        return critic.q(batch["features"], chunks)

    def _draw(self, share: float, rng: np.random.Generator) -> list[tuple[Transitions, torch.Tensor]]:
        """A batch: numbers of some samples of each source."""
        size_, sources = self.config.batch_size, (self._demonstrated, self._real, self._imagined)
        imagined = split_batch(size_, share, rng)
        shown = split_batch(size_ - imagined, self.config.demonstration_ratio if size(self._real) else 1.0, rng)
        counts = (shown, size_ - imagined - shown, imagined)
        return [(source, torch.from_numpy(rng.integers(size(source), size=count)))
                for source, count in zip(sources, counts, strict=True) if count]  # fmt: skip

    def _learn(self, share: float, rng: np.random.Generator, used: float) -> None:
        critic, losses = [], []
        self._critic.train()
        with torch.random.fork_rng(devices=[]):  # of dropout
            torch.manual_seed(int(rng.integers(2**62)))
            for _ in range(self.config.updates * self.config.critic_updates):
                critic.append(self._update_critic(self._draw(share, rng), share))
        self._critic.eval()
        for _ in range(self.config.updates):
            terms = [(rows.numpy(), self._actor_loss(source)) for source, rows in self._draw(share, rng)]
            losses.append(self.learner.update(terms, rng, used))
        loss, norm = np.mean(losses, axis=0)
        rate = self.learner.learning_rate(used)
        self.metrics |= {"train/critic_loss": float(np.mean(critic)), "train/loss": float(loss),
                         "train/grad_norm": float(norm), "train/learning_rate": rate}  # fmt: skip
        if size(self._real) and 0 < int(self._real["positive"].sum()) < size(self._real):
            ahead, good = self._advantage(self._real), self._real["positive"]
            self.metrics["train/advantage_gap"] = float(ahead[good].mean() - ahead[~good].mean())

    @torch.no_grad()
    def _advantage(self, some: Transitions) -> torch.Tensor:
        """What the critic says of chunks, less the value of what was seen, (n,)."""
        return self._q(self._target, some).min(dim=0).values - self._target.v(some["features"])

    def _update_critic(self, batches: Sequence[tuple[Transitions, torch.Tensor]], share: float) -> float:
        """One update of critic and value: L_real + rho L_imagined."""
        total = torch.zeros(())
        for source, rows in batches:
            part = {key: value[rows] for key, value in source.items()}
            weight = share if source is self._imagined else len(rows) / max(1, self._real_count(batches))
            with torch.no_grad():
                goal = part["reward"] + part["discount"] * self._target.v(part["next_features"])
                frozen = self._q(self._target, part).min(dim=0).values
            ahead = frozen - self._critic.v(part["features"])
            lopsided = torch.where(ahead > 0, self.config.expectile, 1 - self.config.expectile)
            td = functional.mse_loss(self._q(self._critic, part), goal.expand(2, -1))
            total = total + weight * (td + (lopsided * ahead.square()).mean())
        if not bool(torch.isfinite(total)):
            raise TrainingError("the critic's loss is not finite; lower critic_learning_rate")
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._optimiser.step()
        with torch.no_grad():
            for mine, theirs in zip(self._target.parameters(), self._critic.parameters(), strict=True):
                mine.lerp_(theirs, self.config.target_rate)
        return float(total.detach())

    def _real_count(self, batches: Sequence[tuple[Transitions, torch.Tensor]]) -> int:
        return sum(len(rows) for source, rows in batches if source is not self._imagined)

    def _actor_loss(self, source: Transitions) -> Any:
        """Flow-matching loss of some chunks, weighted by their advantages."""

        def loss(rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
            actor, config, part = self.learner.actor, self.config, {key: value[rows] for key, value in source.items()}
            weight = (self._advantage(part) / config.temperature).exp().clamp(max=config.max_weight).to(actor.device)
            seen = observation_tensors({key: part[key] for key in self._keys}, actor.device)
            best = torch.full((len(rows),), actor.codec.best_bin, device=actor.device)
            context = actor.context_of(seen, generator)
            return weight * actor.loss(context, best, part["chunk"].to(actor.device), generator)

        return loss

    def training_state(self) -> dict[str, Any]:
        """Learner, critic and all that is kept."""
        return {
            "learner": self.learner.state_dict(), "reference": self._reference.state_dict(),
            "critic": self._critic.state_dict(), "target": self._target.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "demonstrated": self._demonstrated, "real": self._real, "imagined": self._imagined,
            "dynamics": {} if self._post is None else self._post.state_dict(),
        }  # fmt: skip

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.learner.load_state_dict(state["learner"])
        self._reference.load_state_dict(state["reference"])
        self._critic.load_state_dict(state["critic"])
        self._target.load_state_dict(state["target"])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._post is not None:
            self._post.load_state_dict(state["dynamics"])
        self._demonstrated, self._real, self._imagined = (dict(state[name]) for name in
                                                          ("demonstrated", "real", "imagined"))  # fmt: skip


class _Noted(RecordingActor):
    """A policy, or the expert where it is None; what it does is noted."""

    def __init__(self, student: PolicyActor | None, envs: Any) -> None:
        super().__init__([] if student is None else student.lags)
        self._student, self._envs = student, envs

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        super().reset(seeds, mask)
        if self._student is not None:
            self._student.reset(seeds, mask)

    def decide(self, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._student is None:
            run = self._envs.scripted_chunks("expert", self._seeds)
        else:
            run = self._student.act(observations)
        return run, run, np.full(len(run), self._student is None)
