"""PPO: Stable-Baselines3's own, fine-tuning a flow policy in a vector environment.

Rollout buffer, generalised advantage estimation and the clipped update are Stable-Baselines3's. What is ours: an
actor-critic around a flow policy, whose "action" is the record of a proposal (`flow_likelihood`), and the collection of
rollouts, in which an imagination's budget is truncation and never an end.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, override

import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rise_agents.algorithms.base import Algorithm, AlgorithmConfig
from rise_agents.algorithms.flow_likelihood import DenoisingChain, FlowLikelihood, FlowLosses, flow_sde_deviations
from rise_agents.policies.base import Context, Policy, VelocityField, observation_tensors
from rise_env.errors import TrainingError, requirement

__all__ = ["PPO", "FlowActorCritic", "FlowPPO", "PPOConfig"]

SURROGATES = ("flow_sde", "fpo")
NOISES = ("one_step", "all_steps")
TRAINABLE = ("action_expert", "all")
#: Name of the features that the value function reads, among what is kept of an observation.
_FEATURES = "value_features"
#: What is told of Stable-Baselines3's numbers.
_TAGS = ("train/loss", "train/policy_gradient_loss", "train/value_loss", "train/approx_kl", "train/clip_fraction",
         "train/explained_variance")  # fmt: skip


@dataclass(frozen=True)
class PPOConfig(AlgorithmConfig):
    """Settings of PPO. Where each default comes from: docs/algorithms.md.

    Attributes:
        surrogate: "flow_sde", the log-probability of the denoising chain; or "fpo", flow-matching losses in its place.
        noise: With "flow_sde": noise in "one_step", drawn for every chunk, or in "all_steps".
        noise_level: Scale of the noise of "one_step".
        noise_std: Deviations of the noise of "all_steps" in the space of the flow, of the first and of the last step.
        loss_samples: With "fpo": noises and times per chunk.
        clip_range: PPO's; None for 0.2 with one random step, 0.01 with all (0.001 where the policy sees pictures), and
            0.05 with "fpo".
        target_kl: Largest change per round, see Stable-Baselines3; None for 0.01 with all steps random, else no limit.
        noise_scale: Deviation of the noise that chunks start from.
        guidance: Classifier-free guidance of the proposals, 1 for none.
        trainable: "action_expert", with images encoded once; or "all".
        learning_rate: Learning rate of the policy.
        value_learning_rate: Learning rate of the value function.
        critic_rounds: Rounds in which only the value function is trained, at first.
        value_network: Widths of the hidden layers of the value function.
        value_weight: Weight of its loss.
        rollout_steps: Chunks per environment and round; episodes that end within them begin anew.
        batch_size: Chunks per update.
        epochs: Passes over the chunks of a round.
        gamma: Discount per control step; a chunk of h steps discounts by gamma^h.
        gae_lambda: Of generalised advantage estimation, per chunk.
        max_grad_norm: Largest norm of the gradient.
    """

    surrogate: str = "flow_sde"
    noise: str = "one_step"
    noise_level: float = 0.5
    noise_std: tuple[float, float] = (0.14, 0.08)
    loss_samples: int = 8
    clip_range: float | None = None
    target_kl: float | None = None
    noise_scale: float = 1.0
    guidance: float = 1.0
    trainable: str = "action_expert"
    learning_rate: float = 5e-5
    value_learning_rate: float = 5e-4
    critic_rounds: int = 2
    value_network: tuple[int, ...] = (512, 256, 128)
    value_weight: float = 0.5
    rollout_steps: int = 16
    batch_size: int = 128
    epochs: int = 4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require = requirement("settings of ppo")
        require.one_of(SURROGATES, self, "surrogate")
        require.one_of(NOISES, self, "noise")
        require.one_of(TRAINABLE, self, "trainable")
        require.at_least(1, self, "loss_samples", "rollout_steps", "epochs")
        require.at_least(2, self, "batch_size")  # advantages are normalised
        require.at_least(0, self, "critic_rounds")
        require.positive(self, "noise_level", "learning_rate", "value_learning_rate", "max_grad_norm")
        require.positive(self, "clip_range", "target_kl")
        require.positive(noise_std=min(self.noise_std))
        require.within("[0, 1]", self, "noise_scale", "gae_lambda")
        require.within("(0, 1]", self, "gamma")

    def clip(self, pixels: bool) -> float:
        """The clip range, for a policy that sees pictures or does not."""
        if self.clip_range is not None:
            return self.clip_range
        if self.surrogate == "fpo":
            return 0.05
        return 0.2 if self.noise == "one_step" else 0.001 if pixels else 0.01

    @property
    def kl_limit(self) -> float | None:
        """Largest change per round, None for no limit."""
        all_steps = self.surrogate == "flow_sde" and self.noise == "all_steps"
        return 0.01 if self.target_kl is None and all_steps else self.target_kl

    def likelihood(self, policy: Policy) -> FlowLikelihood:
        """What the ratio is made of, for a policy."""
        shape, dim, steps = policy.noise_shape, policy.spec.layout.dim, int(policy.config.steps)
        if self.surrogate == "fpo":
            return FlowLosses(shape, dim, steps, self.loss_samples, policy.loss_weight)
        every_step = self.noise == "all_steps"
        deviations = (
            torch.linspace(*self.noise_std, steps) if every_step else flow_sde_deviations(steps, self.noise_level)
        )
        return DenoisingChain(shape, dim, deviations, every_step)


class FlowActorCritic(BasePolicy):
    """A flow policy and a value function of its features, with the interface that Stable-Baselines3's PPO asks for.

    Observations are what `look` makes of those of the environment, actions are records of proposals. The policy stays
    in evaluation mode: with dropout, the ratio of a policy to itself would not be one.

    Args:
        observation_space: Of what `look` gives.
        action_space: Of records.
        lr_schedule: Not used: actor and critic have a constant rate each.
        use_sde: Not used: Stable-Baselines3's state-dependent exploration.
        flow: The policy; trained in place.
        kind: Class of its contexts.
        features: Number of its features.
        likelihood: What the ratio is made of.
        config: Settings.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        use_sde: bool = False,
        *,
        flow: Policy,
        kind: type[Context],
        features: int,
        likelihood: FlowLikelihood,
        config: PPOConfig,
    ) -> None:
        del lr_schedule, use_sde
        super().__init__(observation_space, action_space)
        self.flow, self.kind, self.likelihood, self.config = flow, kind, likelihood, config
        self.actor_parameters = [*flow.parameters()] if config.trainable == "all" else flow.action_parameters()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            widths = (features, *config.value_network)
            layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.SiLU())]
            self.value = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        groups = [
            {"params": self.actor_parameters, "lr": config.learning_rate},
            {"params": list(self.value.parameters()), "lr": config.value_learning_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-5)

    def set_training_mode(self, mode: bool) -> None:
        """Stay in evaluation mode."""
        del mode
        self.train(False)

    def train_actor(self, mode: bool) -> None:
        """Whether updates change the policy, or the value function alone."""
        self.flow.requires_grad_(False)
        for parameter in self.actor_parameters:
            parameter.requires_grad_(mode)

    def look(self, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What is kept of an environment's observations: encoded where encoders are frozen, else as they are."""
        if self.config.trainable == "all":
            return observation_tensors(observations, self.flow.device)
        return encoded(self.flow, observations)

    def see(self, seen: Mapping[str, torch.Tensor]) -> tuple[Context, torch.Tensor]:
        """Context, and the features that the value function reads, of what `look` gave; these without gradient."""
        if self.config.trainable == "all":
            context = self.flow.context_of(seen)
            return context, self.flow.features_of(context, self._best(len(context))).detach()
        return self.kind(**{name: value for name, value in seen.items() if name != _FEATURES}), seen[_FEATURES]

    @torch.no_grad()
    def act(
        self, observations: Mapping[str, Any], generator: torch.Generator
    ) -> tuple[np.ndarray, dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Propose chunks: chunks (N, chunk, D) in rad and m, what was seen, records, values and log-probabilities."""
        seen = self.look(observations)
        context, features = self.see(seen)
        noise = self.config.noise_scale * torch.randn((len(context), *self.flow.noise_shape), generator=generator)
        field = self._field(context)
        flat, record = self.likelihood.propose(field, noise.to(self.flow.device), generator)
        chunks = self.flow.within_limits(self.flow.denormalise(flat, context.state))
        log_prob = self.likelihood.log_prob(field, record)
        return chunks.cpu().numpy(), seen, record, self.value(features), log_prob

    @torch.no_grad()
    def values_of(self, observations: Mapping[str, Any]) -> np.ndarray:
        """Values of an environment's observations, float32 (N,)."""
        return self.value(self.see(self.look(observations))[1]).squeeze(1).cpu().numpy()

    def evaluate_actions(
        self, obs: Mapping[str, torch.Tensor], actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values (B, 1), log-probabilities (B,), and no entropy: that of fixed noise is constant.

        Raises:
            TrainingError: If one is not finite; called before an update, so that nothing is learned from it.
        """
        context, features = self.see(obs)
        values, log_prob = self.value(features), self.likelihood.log_prob(self._field(context), actions)
        if not bool(torch.isfinite(values).all() and torch.isfinite(log_prob).all()):
            raise TrainingError("values or log-probabilities are not finite: lower the learning rates")
        return values, log_prob, torch.zeros(())

    @override
    def _predict(self, observation: Any, deterministic: bool = False) -> torch.Tensor:
        raise NotImplementedError("the algorithm predicts")

    def _field(self, context: Context) -> VelocityField:
        return self.flow.velocity_field(context, self._best(len(context)), self.config.guidance)

    def _best(self, count: int) -> torch.Tensor:
        return torch.full((count,), self.flow.codec.best_bin, device=self.flow.device)


def encoded(policy: Policy, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A policy's context, entry by entry, and its features."""
    context = policy.context_of(observations)
    best = torch.full((len(context),), policy.codec.best_bin, device=policy.device)
    return {**vars(context), _FEATURES: policy.features_of(context, best)}


class FlowPPO(sb3.PPO):
    """Stable-Baselines3's PPO on a flow policy; its `train` and its buffer as they are.

    Args:
        flow: The policy; trained in place.
        env: Vector environment in autoreset mode "disabled".
        config: Settings.
    """

    policy: FlowActorCritic

    def __init__(self, flow: Policy, env: Any, config: PPOConfig) -> None:
        observations = {
            key: np.zeros((1, *space.shape), space.dtype) for key, space in env.single_observation_space.items()
        }
        with torch.no_grad():
            seen, kind = encoded(flow, observations), type(flow.context_of(observations))
        likelihood = config.likelihood(flow)
        super().__init__(
            FlowActorCritic,
            None,
            n_steps=config.rollout_steps,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
            gamma=config.gamma**env.task.chunk,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip(bool(flow.spec.cameras)),
            vf_coef=config.value_weight,
            max_grad_norm=config.max_grad_norm,
            target_kl=config.kl_limit,
            policy_kwargs={
                "flow": flow, "kind": kind, "features": seen[_FEATURES].shape[1], "likelihood": likelihood,
                "config": config,
            },
            device=flow.device,
            _init_setup_model=False,
        )  # fmt: skip
        if config.trainable == "all":
            seen = observation_tensors(observations)
        self.observation_space = spaces.Dict({key: _space(value) for key, value in seen.items()})
        self.action_space = spaces.Box(-np.inf, np.inf, (likelihood.size,), np.float32)
        self.n_envs, self.vec_env = env.num_envs, env
        self._setup_model()
        self.set_logger(Logger(None, []))

    @override
    def _update_learning_rate(self, optimizers: Any) -> None:
        """Leave the rates as they are: there are two."""

    def collect(self, rng: np.random.Generator) -> dict[str, float]:
        """Fill the buffer with fresh episodes.

        An episode that is truncated, by the budget of imagination or by its uncertainty, goes on in expectation: the
        discounted value of its last observation is added to its last reward. After the last step Stable-Baselines3 does
        the same for episodes that have not ended. The values of such observations, which are never acted in, are only
        guessed; as rewards are gains of progress, which lies within [0, 1], they are bounded by what there is to gain
        and to lose. For the same reason a success has gained all that is missing to 1: otherwise it would pay to put it
        off.

        Args:
            rng: Source of everything random.

        Returns:
            Metrics.

        Raises:
            TrainingError: If a reward is not finite.
        """
        env, buffer, count = self.vec_env, self.rollout_buffer, self.n_envs
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        observations, _ = env.reset(seed=rng.integers(2**31, size=count).tolist(), options={})
        self.policy.set_training_mode(False)
        buffer.reset()
        over = np.ones(count, bool)
        first, found, ended, won = [], [], 0, 0
        for _ in range(self.n_steps):
            chunks, seen, record, values, log_prob = self.policy.act(observations, generator)
            begun = over
            observations, rewards, terminated, truncated, infos = env.step(chunks)
            if not np.isfinite(rewards).all():
                raise TrainingError("the environment gave a reward that is not finite; nothing was trained on it")
            over = terminated | truncated
            found.append(float(np.mean(rewards)))
            first += rewards[begun].tolist()
            ended, won = ended + int(over.sum()), won + int((over & infos["is_success"]).sum())
            target = np.array(rewards, np.float32)
            progress = infos["progress"]
            done = terminated & infos["is_success"]
            target[done] += 1.0 - progress[done]
            if (cut := truncated & ~terminated).any():
                last = {key: value[cut] for key, value in observations.items()}
                target[cut] += self.gamma * np.clip(self.policy.values_of(last), -progress[cut], 1.0 - progress[cut])
            arrays = {key: value.cpu().numpy() for key, value in seen.items()}
            buffer.add(arrays, record.cpu().numpy(), target, begun, values, log_prob)
            if over.any():
                observations, _ = env.reset(options={"reset_mask": over})
        after = np.clip(self.policy.values_of(observations), -progress, 1.0 - progress)  # of those that are not over
        buffer.compute_returns_and_advantage(last_values=torch.from_numpy(after), dones=over)
        self.num_timesteps += self.n_steps * count
        return {
            "rollout/advantage": float(np.mean(first)),
            "rollout/reward": float(np.mean(found)),
            "rollout/success_rate": won / max(ended, 1),
        }


class PPO(Algorithm[PPOConfig]):
    """PPO on a flow policy.

    Args:
        policy: Base policy.
        env: Vector environment in autoreset mode "disabled" with the policy's `observation_lags`. Its reward should add
            up to the progress of an episode: make imagination with advantage="last".
        config: Settings.
        offline: Not used.

    Attributes:
        model: Stable-Baselines3's side of it.
    """

    name: ClassVar[str] = "ppo"
    Config = PPOConfig

    def __init__(self, policy: Policy, env: Any, config: PPOConfig | None = None, *, offline: Any = None) -> None:
        super().__init__(copy.deepcopy(policy).eval(), env, config, offline=offline)
        self.check_fit()
        self.model = FlowPPO(self.policy, self.env, self.config)

    def step(self) -> None:
        """Collect a round of chunks, and train on it."""
        rng, model = np.random.default_rng([self.config.seed, self.rounds]), self.model
        model.policy.train_actor(self.rounds >= self.config.critic_rounds)
        metrics = model.collect(rng)
        self.num_timesteps += model.n_steps * model.n_envs
        with _numpy_seed(int(rng.integers(2**32))):  # Stable-Baselines3 shuffles with the global generator
            model.train()
        found = {tag: float(value) for tag, value in model.logger.name_to_value.items() if tag in _TAGS}
        model.logger.dump()  # forgets them
        self.metrics |= metrics | found | {"train/learning_rate": self.config.learning_rate}

    @property
    def has_learned(self) -> bool:
        """Whether there was a round in which the policy was trained."""
        return self.rounds > self.config.critic_rounds

    def training_state(self) -> dict[str, Any]:
        """Value function and optimiser."""
        policy = self.model.policy
        return {"value": policy.value.state_dict(), "optimiser": policy.optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.model.policy.value.load_state_dict(state["value"])
        self.model.policy.optimizer.load_state_dict(state["optimiser"])


def _space(rows: torch.Tensor) -> spaces.Box:
    """Space of the rows of a tensor."""
    example = rows[0].cpu().numpy()
    if rows.dtype == torch.uint8:
        return spaces.Box(0, 255, example.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, example.shape, example.dtype)


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator for a while."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
