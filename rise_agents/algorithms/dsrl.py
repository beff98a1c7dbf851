"""DSRL: reinforcement learning of the initial noise of a frozen policy (arXiv 2506.15799).

What is learned is a `SteeredPolicy`: the base policy from noise that Stable-Baselines3's SAC actor chooses. The form
"sac" is SAC with the noise as action. In the form "na" (noise aliasing) a critic of real chunks is trained by temporal
differences, so that chunks of anybody can be learned from; a critic of noise is distilled from it, and the actor
maximises that. Everything reads the base policy's own features, encoded once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional

from rise_agents.algorithms.base import Algorithm, AlgorithmConfig
from rise_agents.policies.base import Context, Policy
from rise_agents.policies.data import ChunkSource
from rise_agents.policies.steered import SteeredPolicy, SteeringConfig
from rise_env.errors import ConfigError, TrainingError, requirement

__all__ = ["DSRL", "DSRLConfig"]

FORMS, REDUCTIONS = ("sac", "na"), ("min", "mean")
#: States that features are scaled by, and at which repeated noise is tried, four chunks each.
_FITTED, _TRIED, _TRIES = 512, 64, 4
#: Part of the chunks from repeated noise that must do as well as chunks usually do there.
_WORKING = 0.1


@dataclass(frozen=True)
class DSRLConfig(AlgorithmConfig):
    """Settings of DSRL. Where each default comes from: docs/algorithms.md.

    Attributes:
        form: "sac" or "na".
        bound: Largest absolute value of a component of the noise.
        repeat_noise: Choose one row of noise and repeat it over the chunk. Policies that were trained with noise of its
            own in every row may break; that is tried first, and refused.
        horizon: Chunks imagined in a row from a recorded state.
        gamma: Discount per control step; a chunk of h steps discounts by gamma^h. With 0 only the chunk's own advantage
            counts.
        reward_scale: What advantages are multiplied by.
        value_bound: Largest absolute value of what follows a chunk, in units of advantage. Where imagination stops,
            nothing corrects the critics: without a bound their values run away.
        warmup_chunks: Chunks from standard normal noise before anything is learned.
        prefill_chunks: With "na": recorded chunks that are imagined and learned from, before the first of our own.
        buffer_size: Chunks that are kept.
        batch_size: Chunks per update.
        updates_per_chunk: Updates per imagined chunk.
        learning_rate: Of actor and critics.
        network: Widths of the hidden layers of actor and critics.
        num_critics: Critics; of the distilled ones too.
        critic_reduction: "min" or "mean" of the critics, in targets and for the actor.
        tau: Part of the critics that the target critics take over per update.
        entropy_in_backup: Count the entropy of what follows as part of its value.
        target_entropy: Entropy of the choices in [-1, 1] that the weight of the entropy is tuned to.
        entropy_weight: That weight at first.
        entropy_learning_rate: Its learning rate.
        distillation_updates: With "na": updates of the critics of noise per update of the others.
    """

    form: str = "na"
    bound: float = 1.5
    repeat_noise: bool = False
    horizon: int = 2
    gamma: float = 0.99
    reward_scale: float = 10.0
    value_bound: float = 1.0
    warmup_chunks: int = 2000
    prefill_chunks: int = 0
    buffer_size: int = 20_000
    batch_size: int = 256
    updates_per_chunk: float = 0.5
    learning_rate: float = 3e-4
    network: tuple[int, ...] = (256, 256)
    num_critics: int = 2
    critic_reduction: str = "min"
    tau: float = 0.005
    entropy_in_backup: bool = True
    target_entropy: float = 0.0
    entropy_weight: float = 0.01
    entropy_learning_rate: float = 3e-4
    distillation_updates: int = 1

    def __post_init__(self) -> None:
        require = requirement("settings of dsrl")
        require.one_of(FORMS, self, "form")
        require.one_of(REDUCTIONS, self, "critic_reduction")
        require.at_least(1, self, "horizon", "buffer_size", "batch_size", "num_critics", "distillation_updates")
        require.at_least(0, self, "warmup_chunks", "prefill_chunks")
        require.positive(
            self, "bound", "reward_scale", "value_bound", "updates_per_chunk", "learning_rate", "entropy_weight"
        )
        require.positive(self, "entropy_learning_rate")
        require.within("[0, 1]", self, "gamma")
        require.within("(0, 1]", self, "tau")
        require(self.network and min(self.network) >= 1, f"network is {self.network}, expected positive widths")
        require(self.form == "na" or not self.prefill_chunks, 'only form="na" learns from recorded chunks')


class DSRL(Algorithm[DSRLConfig]):
    """SAC over the initial noise of a frozen policy.

    Args:
        policy: Base policy; of a `SteeredPolicy` its base, whose steering begins anew.
        env: Imagination (or the oracle) in autoreset mode "disabled" with the policy's `observation_lags`.
        config: Settings.
        offline: Not used: recorded chunks are those of the environment's start states.

    Attributes:
        sac: Stable-Baselines3's SAC: its actor is the policy's.
        replay: What was imagined.
    """

    name: ClassVar[str] = "dsrl"
    Config = DSRLConfig
    policy: SteeredPolicy

    def __init__(
        self, policy: Policy, env: Any, config: DSRLConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        base = copy.deepcopy(policy.base if isinstance(policy, SteeredPolicy) else policy).eval()
        super().__init__(base, env, config, offline=offline)
        self.check_fit()
        wanted, most = self.config.horizon, self.env.max_chunks
        require = requirement(self.name)
        require(most >= wanted, f"the environment ends after {most} chunks: make it with max_chunks={wanted}")
        require(self.config.buffer_size >= self.env.num_envs, f"buffer_size is below num_envs ({self.env.num_envs})")
        rows = np.random.default_rng(0).permutation(np.flatnonzero(self.env.starts.split == "train"))
        if self.config.repeat_noise:
            self._try_repeated_noise(base, rows)
        features = _features_at(base, self.env, rows[:_FITTED])
        steering = SteeringConfig(features.shape[1], self.config.bound, self.config.repeat_noise, self.config.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.policy = SteeredPolicy(base, steering)
            self.policy.fit_features(features)
            actions = math.prod(base.noise_shape)
            self.sac = _SAC(self.config, self.policy, actions)
        self.policy.actor = self.sac.actor
        self.replay = _Replay(self.config.buffer_size, type(base.context_of(self.env.start_observations(rows[:1]))))

    # ------------------------------------------------------------------ a round

    def step(self) -> None:
        """Imagine chunks from chosen noise at recorded states, and learn from all that were imagined so far."""
        rng, before = np.random.default_rng([self.config.seed, self.rounds]), self.num_timesteps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            self._collect(rng)
            updates = round(self.num_timesteps * self.config.updates_per_chunk)
            updates -= round(before * self.config.updates_per_chunk)
            if before >= self.config.prefill_chunks + self.config.warmup_chunks:
                batches = (self.replay.draw(self.config.batch_size, rng) for _ in range(updates))
                self.metrics |= self.sac.learn_from(batches, self.policy)
        self.metrics["time/control_steps"] = float(self.num_timesteps * self.policy.spec.chunk)

    @property
    def has_learned(self) -> bool:
        """Whether there was an update."""
        return self.sac.num_updates > 0

    @torch.no_grad()
    def _collect(self, rng: np.random.Generator) -> None:
        env, policy, config = self.env, self.policy, self.config
        recorded = self.num_timesteps < config.prefill_chunks
        observations, _ = env.reset(seed=[int(seed) for seed in rng.integers(2**31, size=env.num_envs)], options={})
        context, over, advantages = policy.context_of(observations), np.zeros(env.num_envs, bool), []
        for position in range(config.horizon):
            bins = torch.full((env.num_envs,), policy.codec.best_bin, device=policy.device)
            features = policy.features_of(context, bins)
            chosen = self._choose(features)
            chunks = policy.base.propose(context, policy.whole_noise(chosen), policy.guidance)
            own = torch.ones(env.num_envs, dtype=torch.bool)
            if recorded and position == 0:
                found, known = env.recorded_actions()
                chunks, own = torch.where(torch.from_numpy(known)[:, None, None], _whole(found), chunks), ~_whole(known)
            if over.any():  # the ended ones must not be stepped on: begin anew there, and leave the result out
                env.reset(options={"reset_mask": over})
            observations, rewards, terminated, truncated, _ = env.step(chunks.numpy())
            if not np.isfinite(np.asarray(rewards)[~over]).all():
                raise TrainingError("the world model gave an advantage that is not finite; nothing was trained on it")
            following = policy.context_of(observations)
            found_here: dict[str, Any] = {
                "features": features,
                "chosen": chosen,
                "own": own,
                "rewards": config.reward_scale * torch.as_tensor(rewards, dtype=torch.float32),
                # An imagination that is given up goes on in the value of where it stands: only an end is an end.
                "ended": torch.from_numpy(np.asarray(terminated)),
                "next_features": policy.features_of(following, bins),
            }
            if config.form == "na":
                found_here |= self._aliases(context, chunks) | ({"next": following} if config.gamma else {})
            self.replay.add(found_here, torch.from_numpy(~over))
            advantages.append(np.asarray(rewards)[~over])
            self.num_timesteps += int((~over).sum())
            context, over = following, over | terminated | truncated
            if over.all():
                break
        self.metrics["rollout/advantage"] = float(advantages[0].mean())
        if len(advantages) > 1:
            self.metrics["rollout/advantage_next"] = float(np.concatenate(advantages[1:]).mean())

    def _choose(self, features: torch.Tensor) -> torch.Tensor:
        """Noise over the bound, within [-1, 1]: standard normal at first, then the actor's."""
        if self.num_timesteps < self.config.prefill_chunks + self.config.warmup_chunks:
            return self._normal(len(features)).to(features)
        actor: Any = self.sac.actor
        return actor(features)

    def _normal(self, count: int) -> torch.Tensor:
        return (torch.randn((count, self.policy.steered_size)) / self.config.bound).clamp(-1, 1)

    def _aliases(self, context: Context, chunks: torch.Tensor) -> dict[str, torch.Tensor]:
        """The executed chunks as critics see them, and what another noise would have given.

        The base policy is frozen: which chunk a noise gives at a state need not be computed more than once.
        """
        policy, other = self.policy, self._normal(len(chunks))
        alias = policy.base.propose(context, policy.whole_noise(other.to(policy.device)), policy.guidance)
        seen = {"chunks": chunks, "alias_chunks": alias}
        found = {
            key: policy.normalise(value.to(context.state), context.state).flatten(1) for key, value in seen.items()
        }
        return {**found, "alias_chosen": other}

    # ------------------------------------------------------------------ repeated noise

    @torch.no_grad()
    def _try_repeated_noise(self, base: Policy, rows: np.ndarray) -> None:
        """Refuse to repeat noise where chunks from it hardly ever do what chunks from whole noise do."""
        generator, env = torch.Generator().manual_seed(0), self.env
        working = []
        for first in range(0, _TRIED, env.num_envs):
            observations, _ = env.reset(seed=0, options={"start_index": np.resize(rows[first:], env.num_envs).tolist()})
            noise = torch.randn((2, env.num_envs * _TRIES, *base.noise_shape), generator=generator)
            noise[1] = noise[1][:, :1]
            context = base.context_of(observations)[torch.arange(env.num_envs).repeat_interleave(_TRIES)]
            chunks = [base.propose(context, one, base.guidance).unflatten(0, (-1, _TRIES)) for one in noise]
            advantage = env.evaluate_candidates(torch.cat(chunks, dim=1).numpy()).advantage
            whole = advantage[:, :_TRIES]  # at one state they differ by little, between states by much
            usual = whole.mean(1) - np.sqrt(whole.var(1).mean())
            working.append((advantage[:, _TRIES:] >= usual[:, None]).mean())
        if (share := float(np.mean(working))) < _WORKING:
            raise ConfigError(
                f"dsrl: with one noise vector repeated over the chunk, {share:.0%} of the policy's chunks do as well "
                "as its chunks usually do: it was not made for such noise, and there is nothing to choose from. Use "
                "repeat_noise=false."
            )

    # ------------------------------------------------------------------ state

    def training_state(self) -> dict[str, Any]:
        """Networks, optimisers and replay buffer."""
        return {"sac": self.sac.full_state(), "replay": self.replay.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.sac.load_full_state(state["sac"])
        self.replay.load_state_dict(state["replay"])


class _SAC(sb3.SAC):
    """Stable-Baselines3's SAC, fed from outside, with the options of DSRL's authors and their noise-aliasing form.

    Args:
        config: Settings.
        steered: Policy whose noise is the action.
        chunk_size: Numbers in a chunk as critics see it.
    """

    def __init__(self, config: DSRLConfig, steered: SteeredPolicy, chunk_size: int) -> None:
        super().__init__(
            "MlpPolicy", None, learning_rate=config.learning_rate, buffer_size=1, tau=config.tau,
            gamma=config.gamma**steered.spec.chunk, ent_coef=f"auto_{config.entropy_weight}",
            target_entropy=config.target_entropy, device=steered.device, _init_setup_model=False,
            policy_kwargs={"net_arch": list(config.network), "n_critics": config.num_critics},
        )  # fmt: skip
        self.config, self.n_envs = config, 1
        seen = spaces.Box(-np.inf, np.inf, (steered.config.features,), np.float32)
        self.observation_space, self.action_space = seen, spaces.Box(-1, 1, (steered.steered_size,), np.float32)
        self._setup_model()
        assert self.ent_coef_optimizer is not None
        self.ent_coef_optimizer.param_groups[0]["lr"] = config.entropy_learning_rate
        #: With "na": critics of real chunks; `critic` is of noise then.
        self.chunk_critic = self.chunk_target = self.critic
        if config.form == "na":
            chunks = spaces.Box(-np.inf, np.inf, (chunk_size,), np.float32)
            made = [
                ContinuousCritic(seen, chunks, list(config.network), FlattenExtractor(seen), seen.shape[0],
                                 n_critics=config.num_critics, share_features_extractor=False).to(self.device)
                for _ in range(2)
            ]  # fmt: skip
            self.chunk_critic, self.chunk_target = made
            self.chunk_target.load_state_dict(self.chunk_critic.state_dict())
            optimiser = torch.optim.Adam(self.chunk_critic.parameters(), lr=config.learning_rate)
            self.chunk_critic.optimizer = optimiser

    @property
    def num_updates(self) -> int:
        """Updates so far."""
        return self._n_updates

    def learn_from(self, batches: Any, steered: SteeredPolicy) -> dict[str, float]:
        """Updates on batches of the replay buffer; their mean metrics."""
        found = [self._update({k: _to(v, self.device) for k, v in batch.items()}, steered) for batch in batches]
        if not found:
            return {}
        self._n_updates += len(found)
        return {f"train/{key}": float(np.mean([one[key] for one in found])) for key in found[0]}

    def _update(self, batch: dict[str, Any], steered: SteeredPolicy) -> dict[str, float]:
        aliasing, seen = self.config.form == "na", batch["features"]
        chosen, log_prob = self.actor.action_log_prob(seen)
        assert self.log_ent_coef is not None
        assert self.ent_coef_optimizer is not None
        weight = self.log_ent_coef.detach().exp()
        entropy_loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
        _descend(self.ent_coef_optimizer, entropy_loss)

        target = self._target(batch, steered, weight)
        if aliasing:
            loss = _fit(self.chunk_critic, seen, batch["chunks"], target)
            _descend(self.chunk_critic.optimizer, loss)
            for _ in range(self.config.distillation_updates):
                distilled = self._distillation_loss(batch)
                _descend(self.critic.optimizer, distilled)
            polyak_update(self.chunk_critic.parameters(), self.chunk_target.parameters(), self.tau)
        else:
            loss = _fit(self.critic, seen, batch["chosen"], target)
            _descend(self.critic.optimizer, loss)
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)

        actor_loss = (weight * log_prob - self._reduced(self.critic(seen, chosen))).mean()
        _descend(self.actor.optimizer, actor_loss)
        numbers = {"loss": loss, "actor_loss": actor_loss, "entropy": -log_prob.mean(), "entropy_weight": weight,
                   "value": target.mean()}  # fmt: skip
        if aliasing:
            numbers["distillation_loss"] = distilled
        if not all(bool(torch.isfinite(number)) for number in numbers.values()):
            raise TrainingError(f"update {self._n_updates}: a loss is not finite; lower the learning rate")
        return {key: float(number.detach()) for key, number in numbers.items()}

    @torch.no_grad()
    def _target(self, batch: dict[str, Any], steered: SteeredPolicy, weight: torch.Tensor) -> torch.Tensor:
        """Reward plus discounted value of what follows, (B,)."""
        if self.gamma == 0:
            return batch["rewards"]
        seen = batch["next_features"]
        chosen, log_prob = self.actor.action_log_prob(seen)
        critic, action = self.critic_target, chosen
        if self.config.form == "na":
            context = batch["next"]
            chunks = steered.base.propose(context, steered.whole_noise(chosen), steered.guidance).to(context.state)
            critic, action = self.chunk_target, steered.normalise(chunks, context.state).flatten(1)
        most = self.config.value_bound * self.config.reward_scale
        value = self._reduced(critic(seen, action)).clamp(-most, most)
        if self.config.entropy_in_backup:
            value = value - weight * log_prob
        return batch["rewards"] + self.gamma * (~batch["ended"]).float() * value

    def _distillation_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """How far critics of noise are from those of chunks, at noise drawn at random and at noise that was used."""
        seen, own = batch["features"], batch["own"]
        states = torch.cat([seen, seen[own]])
        chunks = torch.cat([batch["alias_chunks"], batch["chunks"][own]])
        with torch.no_grad():
            values = torch.cat(self.chunk_critic(states, chunks), dim=1)
        found = torch.cat(self.critic(states, torch.cat([batch["alias_chosen"], batch["chosen"][own]])), dim=1)
        return functional.mse_loss(found, values)

    def _reduced(self, values: tuple[torch.Tensor, ...]) -> torch.Tensor:
        table = torch.cat(values, dim=1)
        return table.min(dim=1).values if self.config.critic_reduction == "min" else table.mean(dim=1)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "policy": self.policy, "actor_optimiser": self.actor.optimizer, "critic_optimiser": self.critic.optimizer,
            "entropy_optimiser": self.ent_coef_optimizer,
        }  # fmt: skip
        if self.config.form == "na":
            parts |= {"chunk_critic": self.chunk_critic, "chunk_target": self.chunk_target,
                      "chunk_optimiser": self.chunk_critic.optimizer}  # fmt: skip
        return parts

    def full_state(self) -> dict[str, Any]:
        """Everything that an update depends on."""
        assert self.log_ent_coef is not None
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "entropy_weight": self.log_ent_coef.detach(), "updates": self._n_updates}

    def load_full_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `full_state`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        with torch.no_grad():
            assert self.log_ent_coef is not None
            self.log_ent_coef.copy_(state["entropy_weight"])
        self._n_updates = int(state["updates"])


class _Replay:
    """The last chunks, column by column; a context is kept as its tensors.

    Args:
        size: Most chunks that are kept.
        context: Class of contexts.

    Stable-Baselines3's own draws from NumPy's global generator, whose state no checkpoint holds.
    """

    def __init__(self, size: int, context: type[Context]) -> None:
        self.size, self.count, self._context = size, 0, context
        self._columns: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return min(self.count, self.size)

    def add(self, found: Mapping[str, Any], valid: torch.Tensor) -> None:
        """Keep the valid rows, in place of the oldest where there is no room."""
        flat: dict[str, torch.Tensor] = {}
        for key, value in found.items():
            if isinstance(value, Context):
                flat |= {f"{key}/{name}": tensor for name, tensor in vars(value).items()}
            else:
                flat[key] = value
        rows = {key: value.cpu()[valid] for key, value in flat.items()}
        places = (self.count + torch.arange(int(valid.sum()))) % self.size
        for key, value in rows.items():
            if key not in self._columns:
                self._columns[key] = value.new_zeros((self.size, *value.shape[1:]))
            self._columns[key][places] = value
        self.count += len(places)

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, Any]:
        """Rows at random, each as often as any other."""
        rows = torch.from_numpy(rng.integers(len(self), size=count))
        drawn: dict[str, Any] = {key: column[rows] for key, column in self._columns.items()}
        parts = {key: drawn.pop(key) for key in list(drawn) if "/" in key}
        if parts:
            drawn["next"] = self._context(**{key.partition("/")[2]: value for key, value in parts.items()})
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """What is kept; the part of the columns that is in use."""
        used = {key: column[: len(self)].clone() for key, column in self._columns.items()}
        return {"count": self.count, "columns": used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count, self._columns = int(state["count"]), {}
        for key, value in state["columns"].items():
            self._columns[key] = value.new_zeros((self.size, *value.shape[1:]))
            self._columns[key][: len(value)] = value


def _features_at(base: Policy, env: Any, rows: np.ndarray) -> torch.Tensor:
    """Feature vectors of a base policy at start states."""
    found = []
    with torch.no_grad():
        for first in range(0, len(rows), 64):
            context = base.context_of(env.start_observations(rows[first : first + 64]))
            best = torch.full((len(context),), base.codec.best_bin, device=base.device)
            found.append(base.features_of(context, best).float().flatten(1))
    return torch.cat(found)


def _whole(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _to(value: Any, device: Any) -> Any:
    if isinstance(value, Context):
        return type(value)(**{key: tensor.to(device) for key, tensor in vars(value).items()})
    return value.to(device)


def _fit(critic: Any, seen: torch.Tensor, actions: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Half the squared error of every critic, summed over critics as Stable-Baselines3 does."""
    return 0.5 * sum((functional.mse_loss(value[:, 0], target) for value in critic(seen, actions)), torch.zeros(()))


def _descend(optimiser: Any, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
