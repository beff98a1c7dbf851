"""What every trainable policy offers, whatever network is inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.real_time import RtcConstraint
from rise_env.config import decode, rename_keys
from rise_env.errors import ConfigError
from rise_env.pretrained import PretrainedMixin, Upgrades
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec, task_from_section

__all__ = ["Context", "Policy", "VelocityField", "observation_tensors", "stack_views"]

#: Noisy chunks in the space of the flow (B, *noise_shape) and times (B,) to velocities (B, *noise_shape).
type VelocityField = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Context:
    """What a policy knows when it acts, encoded once; every tensor has the leading axis B.

    Attributes:
        features: Whatever the policy's encoder makes of images, joint state and instruction.
        state: float32 (B, D), joint state in rad and m.
    """

    features: torch.Tensor
    state: torch.Tensor

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, index: Any) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


class Policy(PretrainedMixin, nn.Module, ABC):
    """A policy by flow matching over action chunks, conditioned on an advantage bin.

    Attributes:
        Config: Dataclass of its settings.
        config: Settings.
        spec: Task.
        codec: What its advantage bins mean.
        lags: Past observations that it reads besides the present one, in control steps.
        guidance: Weight of classifier-free guidance when nobody says otherwise.
        noise_scale: Standard deviation of the initial noise when nobody says otherwise: 1 as in training, 0 for
            deterministic chunks.
        supports_rtc: Whether `sample` knows real-time chunking.
        rows: Observations in a batch where what is sampled must not depend on its size; see
            `rise_env.acting.rows_at_a_time`. More than one for networks whose rows do not touch each other.
    """

    title = "policy"
    format_version = 2
    upgrades: ClassVar[Upgrades] = {1: dict}  # `parts_of` knows the older names
    Config: ClassVar[type[Any]]
    config: Any
    guidance: float = 1.0
    noise_scale: float = 1.0
    supports_rtc: bool = False
    rows: int = 1
    spec: TaskSpec
    codec: AdvantageCodec
    lags: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the initial noise of one chunk."""
        return (self.spec.chunk, self.spec.layout.dim)

    @abstractmethod
    def context(
        self, observations: Mapping[str, torch.Tensor], prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> Context:
        """Encode observations.

        Args:
            observations: As of the environments, with a leading axis B: `image_<camera>` uint8 (B, H, W, 3), `state`
                float32 (B, D), and the same under `lag_key` for every lag of the policy.
            prompts: One instruction each.
            generator: Source of the augmentation of images in training; none without it.

        Raises:
            ConfigError: If an entry is missing or has the wrong shape.
        """

    def context_of(self, observations: Mapping[str, Any], generator: torch.Generator | None = None) -> Context:
        """`context` of an environment's observations, arrays or tensors, under the task's instruction."""
        seen = observation_tensors(observations, self.device)
        return self.context(seen, [self.spec.prompt] * len(seen["state"]), generator)

    @abstractmethod
    def sample(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        noise: torch.Tensor,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
        rtc: RtcConstraint | None = None,
    ) -> torch.Tensor:
        """Action chunks float32 (B, chunk, D), rad and m; a deterministic function of its arguments.

        Args:
            context: What is seen.
            advantage_bins: Advantage bins to ask for, int64 (B,); `codec.unconditional` for none.
            noise: Standard normal (B, *noise_shape).
            guidance: Weight w of classifier-free guidance over the advantage, v_none + w (v_bin - v_none); 1 is plain
                conditioning.
            steps: Integration steps; the policy's own when None.
            rtc: What the chunks have to agree with, for policies with `supports_rtc`.
        """

    @abstractmethod
    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss of each chunk, (B,).

        Args:
            context: What was seen.
            advantage_bins: Their advantage bins, int64 (B,).
            chunks: float32 (B, chunk, D), rad and m.
            generator: Source of noise and times.
            condition_dropout: Part of the bins that is left out, for the unconditional branch of guidance; the
                policy's own share when None.
        """

    @abstractmethod
    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """The flow's velocity noise - chunk at any noisy chunk x_t = t noise + (1 - t) chunk.

        What depends on the context alone is computed once. `sample` integrates the same velocities.

        Args:
            context: What is seen.
            advantage_bins: Advantage bins to ask for, int64 (B,).
            guidance: As for `sample`.
        """

    def loss_weight(self, time: torch.Tensor) -> torch.Tensor:
        """What `loss` multiplies the mean squared error of the velocity by at given times, like `time`."""
        return torch.ones_like(time)

    def features_of(self, context: Context, advantage_bins: torch.Tensor) -> torch.Tensor:
        """One vector per sample of what the policy's encoder makes of it, float32 (B, F): for value functions."""
        del advantage_bins
        return context.features

    def distillation_loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        other: Self,
        other_context: Context,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """How far this policy's answers are from another's, (B,): trained on it, it goes on acting as that one.

        Flow matching on chunks that the other policy samples; classes that can compare predictions may do better.

        Args:
            context: What was seen, encoded by this policy.
            advantage_bins: Advantage bins asked for, int64 (B,).
            chunks: Chunks near which the two are compared, float32 (B, chunk, D), rad and m; not used here.
            other: A policy of the same class, e.g. this one as it was.
            other_context: What was seen, encoded by the other.
            generator: Source of noise and times.
        """
        noise = torch.randn((len(context), *self.noise_shape), generator=generator).to(self.device)
        with torch.no_grad():
            target = other.sample(other_context, advantage_bins, noise)
        return self.loss(context, advantage_bins, target, generator, condition_dropout=0.0)

    @abstractmethod
    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the action expert, which are those that RISE trains online."""

    def see_like(self, other: Policy) -> None:
        """Take over what another policy sees with, its image encoders, and train them no more.

        Looking has to be learned from many scenes, acting from fewer: as a VLA's vision is trained before its action
        expert, on other data.

        Raises:
            ConfigError: If this policy's encoders cannot be told from the rest, or the other's are of another form.
        """
        del other
        raise ConfigError(f"policies of kind {self.kind!r} cannot take over the image encoders of others")

    @abstractmethod
    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Take the scales of states and chunks from data.

        Args:
            states: (N, D), rad and m.
            chunks: (N, chunk, D), commanded from there, rad and m.
        """

    @abstractmethod
    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Chunks (B, chunk, D) in rad and m, at joint states (B, D), to the space of the flow (B, ...)."""

    @abstractmethod
    def denormalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`, for chunks (B, ...) or (B, *noise_shape)."""

    def get_config(self) -> dict[str, Any]:
        """What `config.json` holds: task, settings, and meaning of the advantage bins."""
        return {"task": self.spec, "policy": self.config, "advantage": self.codec}

    def save_lerobot(self, folder: Path) -> None:
        """Write a checkpoint of LeRobot that acts as this policy does when asked for the best advantage.

        Args:
            folder: Directory, made where it is missing.

        Raises:
            ConfigError: If LeRobot has no such policy.
        """
        del folder
        raise ConfigError(
            f"LeRobot has no policy of kind {self.kind!r}; its Diffusion, SmolVLA and pi0.5 can be improved here and "
            "written back. This one can be served: `rise serve`"
        )

    @classmethod
    def parts_of(cls, config: Mapping[str, Any]) -> tuple[TaskSpec, Any, AdvantageCodec]:
        """Task, settings and codec of a checkpoint's `config.json`."""
        settings = decode(cls.Config, rename_keys(cls.Config, config["policy"]), "key 'policy'")
        return task_from_section(config["task"]), settings, AdvantageCodec.from_dict(config["advantage"])

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """A policy as `get_config` describes it, for classes that are made of task, settings and codec."""
        del folder, device
        return cls(*cls.parts_of(config))

    def training_draws(
        self, clean: torch.Tensor, advantage_bins: torch.Tensor, generator: torch.Generator, condition_dropout: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What flow matching draws for normalised chunks (B, ...) from a CPU generator.

        Noise like `clean`; times (B,), Beta(1.5, 1) as published for pi0: more often noisy than clean; and the bins
        (B,), a part `condition_dropout` of them `codec.unconditional`.
        """
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        # u^(2/3) is the inverse distribution function of Beta(1.5, 1).
        time = torch.rand(len(clean), generator=generator).pow(2.0 / 3.0).to(clean) * 0.999 + 0.001
        hide = torch.rand(len(clean), generator=generator).to(advantage_bins.device) < condition_dropout
        return noise, time, torch.where(hide, torch.full_like(advantage_bins, self.codec.unconditional), advantage_bins)

    def within_limits(self, chunks: torch.Tensor) -> torch.Tensor:
        """Chunks (B, chunk, D) clipped to the joint limits."""
        low, high = (torch.from_numpy(limit).to(chunks) for limit in (self.spec.layout.low, self.spec.layout.high))
        return torch.clamp(chunks, low, high)

    @torch.no_grad()
    def propose(self, context: Context, noise: torch.Tensor, guidance: float) -> torch.Tensor:
        """Chunks (B * G, chunk, D) for the best advantage, within the joint limits; on the CPU.

        Args:
            context: What is seen.
            noise: Noise of any scale, (B * G, *noise_shape): G for everything seen in turn.
            guidance: As for `sample`.
        """
        if len(noise) > len(context):
            context = context[
                torch.arange(len(context), device=self.device).repeat_interleave(len(noise) // len(context))
            ]
        best = torch.full((len(context),), self.codec.best_bin, device=self.device)
        return self.within_limits(self.sample(context, best, noise.to(self.device), guidance=guidance)).cpu()

    def draw_noise(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Initial noise, one row per CPU generator, so that a row does not depend on the others."""
        rows = [torch.randn(self.noise_shape, generator=generator) for generator in generators]
        return torch.stack(rows).to(self.device)


def observation_tensors(observations: Mapping[str, Any], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Observations of an environment, arrays or tensors, as tensors."""
    return {key: torch.as_tensor(value).to(device) for key, value in observations.items()}


def stack_views(
    observations: Mapping[str, torch.Tensor], spec: TaskSpec, lags: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (B, L, V, H, W, 3) and states (B, L, D) of an observation; L is the present and every lag.

    Raises:
        ConfigError: If an entry is missing or has the wrong shape.
    """
    height, width = spec.image_size
    wanted: dict[str, tuple[int, ...]] = {
        lag_key(image_key(camera), lag): (height, width, 3) for lag in (0, *lags) for camera in spec.cameras
    }
    wanted |= {lag_key("state", lag): (spec.layout.dim,) for lag in (0, *lags)}
    for key, shape in wanted.items():
        if key not in observations:
            hint = f" Make the environment with observation_lags={list(lags)}." if "_lag" in key else ""
            raise ConfigError(f"the observation has no {key!r}; it has {', '.join(sorted(observations))}.{hint}")
        if tuple(observations[key].shape[1:]) != shape:
            raise ConfigError(f"{key} has shape {tuple(observations[key].shape[1:])}, the policy expects {shape}")
    moments = [torch.stack([observations[lag_key(image_key(camera), lag)] for camera in spec.cameras], dim=1)
               for lag in (0, *lags)]  # fmt: skip
    states = [observations[lag_key("state", lag)].float() for lag in (0, *lags)]
    return torch.stack(moments, dim=1), torch.stack(states, dim=1)
