"""WorldSample: off-policy learning in the work cell, with counterfactual chunks imagined beside the real ones.

After arXiv 2607.02431, which has no code. A round runs episodes in the cell; perturbed copies of chunks that were run
are imagined from the same states, labelled, selected, and mixed into the learning of the critic and the actor.
*Policy-Paced Learning* sets their share: rho_max / (1 + kappa H^power), H the entropy of the actor on real states.
`imagine=False` is the twin without imagination, the baseline.

Ours, because a flow policy has no density that soft actor-critic could use: the critic is that of implicit Q-learning
(arXiv 2110.06169), on features of the base policy, and the actor learns chunks by flow matching, weighted by
exp(advantage / temperature). Not done: the dynamics model is not trained on the rollouts; it stays that of the bundle.
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

from rise_agents.algorithms.best_of_n import history_lags, observed_history
from rise_agents.algorithms.cell_episodes import Decision, RecordingActor, run_and_record, training_seed
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig
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
from rise_env.spaces import image_key, lag_key

__all__ = ["WorldSample", "WorldSampleConfig"]

_MOST_IMAGINED = 64  # chunks imagined at once


@dataclass(frozen=True)
class WorldSampleConfig(FlowMatchingConfig):
    """Settings of WorldSample; what is not said to be published is ours.

    Attributes:
        imagine: Imagine counterfactual chunks; False is the twin without imagination.
        episodes: Episodes of a round.
        demonstrations: Episodes of the expert before the first round; their control steps count.
        demonstration_ratio: Part of the real samples of a batch that is demonstrated (RLPD, HIL-SERL: 0.5).
        updates: Updates of a round.
        window: Decisions that are kept besides demonstrations, real and imagined each.
        discount: Per control step.
        expectile: Of the value in implicit Q-learning (published there: 0.7).
        temperature: Advantage over which the weight of a chunk grows by a factor of e.
        max_weight: Largest weight.
        critic_learning_rate: Of critic and value.
        target_rate: Part of the critic that its target takes over in an update.
        hidden: Width of critic and value.
        rho_max: Largest share of imagined samples (published: 0.3).
        kappa, power: Of Policy-Paced Learning (not published).
        scale: Largest relative change of a joint's motion in a copy (published: 0.2).
        noise: Deviation of its noise, in deviations of that joint's motion (published: 0.05 of the action range).
        max_gap: Largest |E+ Q + E- Q - E_real Q| of what is admitted (not published).
        noise_samples: Chunks per state from which the entropy is measured.
    """

    imagine: bool = True
    episodes: int = 16
    demonstrations: int = 32
    demonstration_ratio: float = 0.5
    updates: int = 64
    window: int = 4000
    discount: float = 0.98
    expectile: float = 0.7
    temperature: float = 0.1
    max_weight: float = 20.0
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.01
    hidden: int = 256
    rho_max: float = 0.3
    kappa: float = 1.0
    power: float = 1.0
    scale: float = 0.2
    noise: float = 0.05
    max_gap: float = 0.5
    noise_samples: int = 8
    batch_size: int = 96
    learning_rate: float = 3e-4
    ema_decay: float = 0.98
    offline_ratio: float = 0.0
    trainable: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of worldsample")
        require.at_least(1, self, "episodes", "demonstrations", "updates", "window", "hidden")
        require.at_least(2, self, "noise_samples")
        require.at_least(0, self, "kappa", "scale", "noise", "max_gap")
        require.within("[0, 1]", self, "demonstration_ratio", "discount", "rho_max")
        require.within("(0, 1)", self, "expectile")
        require.within("(0, 1]", self, "target_rate")
        require.positive(self, "temperature", "max_weight", "critic_learning_rate", "power")


class WorldSample(FlowMatchingAlgorithm[WorldSampleConfig, None]):
    """Learns in the work cell, and from imagined copies of what was done there.

    Arguments as of `FlowMatchingAlgorithm`. The environment is the cell, with an expert (`scripted_chunks`) and, where
    `imagine`, an attribute `world_model` and the `observation_lags` of its history.
    """

    name: ClassVar[str] = "worldsample"
    Config = WorldSampleConfig
    needs_cell: ClassVar[bool] = True

    def __init__(
        self, policy: Policy, env: Any, config: WorldSampleConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        config = self.config
        self._reference = copy.deepcopy(policy).eval().requires_grad_(False)  # its features are the critic's input
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._critic = Critic(self._feature_size(), math.prod(policy.noise_shape), config.hidden)
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
        require(hasattr(env, "scripted_chunks"), "the environment has no expert, as RISE-<Title>-Cell-v0 has")
        if self.config.imagine:
            require(getattr(env, "world_model", None) is not None, "set env.world_model, or imagine=False")
            wanted = list(history_lags(env.world_model.spec))
            require(set(wanted) <= set(env.lags), f"make the environment with observation_lags={wanted}")

    def _feature_size(self) -> int:
        space = self.env.observation_space
        seen = {key: np.zeros((1, *box.shape[1:]), box.dtype) for key, box in space.items()}
        return self._features(seen).shape[1]

    @torch.no_grad()
    def _features(self, observations: Mapping[str, Any]) -> torch.Tensor:
        """What the base policy makes of observations, float32 (n, F)."""
        policy, parts = self._reference, []
        count = len(observations["state"])
        for first in range(0, count, 128):
            context = policy.context_of({key: value[first : first + 128] for key, value in observations.items()})
            best = torch.full((len(context),), policy.codec.best_bin, device=policy.device)
            parts.append(policy.features_of(context, best).float().cpu())
        return torch.cat(parts)

    # ------------------------------------------------------------------ one round

    def step(self) -> None:
        """Run episodes in the cell, imagine copies of what was done, and learn from both."""
        config, used = self.config, self.progress
        rng = np.random.default_rng([config.seed, self.rounds])
        if self.rounds == 0:
            expert = _Noted(None, self.env)
            self._demonstrated, _ = self._collected(expert, config.demonstrations, training_seed(config.seed, 0))
        first = training_seed(config.seed, config.demonstrations + self.rounds * config.episodes)
        student = PolicyActor(self.policy, noise_scale=config.noise_scale)
        new, episodes = self._collected(_Noted(student, self.env), config.episodes, first)
        self._real = joined(self._real, new, config.window)
        entropy = self._entropy(new) if new else 0.0
        share = self._ratio(entropy) if config.imagine else 0.0
        if config.imagine and new:
            found = self._imagine(new, rng)
            self._imagined = joined(self._imagined, self._admit(found), config.window)
            self.metrics["rollout/imagined"] = float(len(found["state"]))
        share = share if size(self._imagined) else 0.0
        self._learn(share, rng, used)
        self.metrics |= {
            "rollout/success": float(np.mean([one.success for one in episodes])),
            "rollout/score": float(np.mean([one.score for one in episodes])),
            "rollout/entropy": entropy,
            "train/imagined_share": share,
        }

    def _collected(self, actor: _Noted, episodes: int, seed: int) -> tuple[Transitions, list[Episode]]:
        found = run_and_record(self.env, actor, episodes, seed)
        self.num_real_steps += sum(round(episode.seconds * self.env.task.fps) for episode, _ in found)
        parts = [self._transitions(episode, decisions) for episode, decisions in found]
        kept = [part for part in parts if size(part)]
        joined = {key: torch.cat([part[key] for part in kept]) for key in kept[0]} if kept else {}
        return joined, [episode for episode, _ in found]

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
                "features": features[:count], "next_features": following[:count]}  # fmt: skip

    # ------------------------------------------------------------------ imagination

    @torch.no_grad()
    def _imagine(self, real: Transitions, rng: np.random.Generator) -> Transitions:
        """Perturbed copies of chunks from the states in which they were run, as transitions."""
        config, spec, model = self.config, self.env.task, self.env.world_model
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chunks = self.policy.within_limits(
            perturbed(real["chunk"], real["state"], config.scale, config.noise, generator)
        )
        last, parts = spec.execute // spec.stride - 1, []
        for first in range(0, len(chunks), _MOST_IMAGINED):
            rows = slice(first, first + _MOST_IMAGINED)
            seen = {key: value[rows] for key, value in real.items() if key in self._keys}
            session = model.open(observed_history(model, seen))
            some = chunks[rows].to(model.device)
            seeds = [torch.Generator().manual_seed(int(one)) for one in rng.integers(2**62, size=len(some))]
            imagined = model.imagine(session, some, seeds)
            end = self._imagined_observation(imagined, seen, chunks[rows], last)
            values = imagined.values[:, last].cpu()
            success = values >= _threshold(self.env)
            if not bool(torch.isfinite(values).all()):
                raise TrainingError("the world model gave a value that is not finite; nothing was trained on it")
            model.close(session)
            parts.append({**seen, "chunk": chunks[rows], "features": real["features"][rows],
                          "next_features": self._features(end), "reward": success.float(),
                          "discount": torch.where(success, 0.0, config.discount**spec.execute),
                          "positive": values > session.value.cpu()})  # fmt: skip
            self.num_timesteps += len(some)
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _imagined_observation(
        self, imagined: Any, seen: Mapping[str, torch.Tensor], chunks: torch.Tensor, last: int
    ) -> dict[str, torch.Tensor]:
        """What the policy would see after the executed part of a chunk: frame `last`, and earlier ones at its lags."""
        spec, found = self.env.task, dict[str, torch.Tensor]()
        for lag in (0, *self.policy.lags):
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

    @torch.no_grad()
    def _admit(self, found: Transitions) -> Transitions:
        """Pairs of a positive and a negative sample, while the critic's mean on them stays near that on real ones."""
        q = self._q(self._target, found).min(dim=0).values
        real = self._q(self._target, self._real).min(dim=0).values.mean()
        rows = admitted(q.numpy(), found["positive"].numpy(), float(real), self.config.max_gap)
        self.metrics["rollout/admitted"] = float(len(rows))
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

    def _learn(self, share: float, rng: np.random.Generator, used: float) -> None:
        config, losses = self.config, []
        for _ in range(config.updates):
            imagined = split_batch(config.batch_size, share, rng)
            shown = split_batch(
                config.batch_size - imagined, config.demonstration_ratio if size(self._real) else 1.0, rng
            )
            counts = (shown, config.batch_size - imagined - shown, imagined)
            sources = (self._demonstrated, self._real, self._imagined)
            batches = [(source, torch.from_numpy(rng.integers(size(source), size=count)))
                       for source, count in zip(sources, counts, strict=True) if count]  # fmt: skip
            critic_loss = self._update_critic(batches, share)
            terms = [(rows.numpy(), self._actor_loss(source)) for source, rows in batches]
            losses.append((critic_loss, *self.learner.update(terms, rng, used)))
        critic, loss, norm = np.mean(losses, axis=0)
        self.metrics |= {"train/critic_loss": float(critic), "train/loss": float(loss), "train/grad_norm": float(norm),
                         "train/learning_rate": self.learner.learning_rate(used)}  # fmt: skip

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
            with torch.no_grad():
                ahead = self._q(self._target, part).min(dim=0).values - self._critic.v(part["features"])
                weight = (ahead / config.temperature).exp().clamp(max=config.max_weight).to(actor.device)
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
        }  # fmt: skip

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.learner.load_state_dict(state["learner"])
        self._reference.load_state_dict(state["reference"])
        self._critic.load_state_dict(state["critic"])
        self._target.load_state_dict(state["target"])
        self._optimiser.load_state_dict(state["optimiser"])
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


def _threshold(env: Any) -> float:
    """Value from which an imagined frame counts as a success."""
    return float(getattr(env, "success_threshold", 0.95))
