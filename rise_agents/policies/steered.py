"""SteeredPolicy: a frozen policy whose initial noise a small network chooses (DSRL, arXiv 2506.15799)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor
from torch import nn

from rise_agents.policies.base import Context, Policy, VelocityField
from rise_agents.policies.real_time import RtcConstraint
from rise_env.config import decode
from rise_env.errors import CheckpointError, ConfigError, requirement
from rise_env.pretrained import Upgrades
from rise_env.registry import POLICIES

__all__ = ["SteeredPolicy", "SteeringConfig"]

_FURTHEST = 10.0  # standard deviations at which features are cut off


@dataclass(frozen=True)
class SteeringConfig:
    """Settings of the network that chooses the noise.

    Attributes:
        features: Length of the base policy's feature vectors.
        bound: Largest absolute value of a component of the noise.
        repeat: Choose one row of noise and repeat it over the chunk.
        network: Widths of its hidden layers.
    """

    features: int
    bound: float = 1.5
    repeat: bool = False
    network: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        require = requirement("steering")
        require.positive(self, "bound")
        require.at_least(1, features=self.features, network=min(self.network, default=0))


class SteeredPolicy(Policy):
    """Acts as its base policy does from the noise bound * tanh(mean + deviation * e), e standard normal or zero.

    Mean and deviation are Stable-Baselines3's SAC actor on the base policy's features. `sample` takes e as its noise;
    everything else, the loss included, is the base policy's.

    Args:
        base: Frozen; not copied.
        config: Settings.

    Attributes:
        actor: The network.
    """

    kind = "rise-steered-policy"
    format_version = 1
    upgrades: ClassVar[Upgrades] = {}
    Config = SteeringConfig
    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, base: Policy, config: SteeringConfig) -> None:
        super().__init__()
        self.base, self.config = base.eval().requires_grad_(False), config
        self.spec, self.codec, self.lags = base.spec, base.codec, base.lags
        self.guidance, self.noise_scale, self.supports_rtc = base.guidance, base.noise_scale, base.supports_rtc
        self.register_buffer("feature_mean", torch.zeros(config.features))
        self.register_buffer("feature_std", torch.ones(config.features))
        seen = spaces.Box(-np.inf, np.inf, (config.features,), np.float32)
        noise = spaces.Box(-1, 1, (self.steered_size,), np.float32)
        extractor = FlattenExtractor(seen)
        self.actor: nn.Module = Actor(seen, noise, list(config.network), extractor, extractor.features_dim)
        self.to(base.device)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the base policy."""
        return self.base.noise_shape

    @property
    def steered_size(self) -> int:
        """Numbers that are chosen: those of a whole chunk's noise, or of one row of it."""
        return math.prod(self.noise_shape[1:] if self.config.repeat else self.noise_shape)

    # ------------------------------------------------------------------ steering

    def features_of(self, context: Context, advantage_bins: torch.Tensor) -> torch.Tensor:
        """The base policy's features, each of mean 0 and deviation 1 over the states that it was fitted to."""
        found = self.base.features_of(context, advantage_bins).float().flatten(1)
        return ((found - self.feature_mean) / self.feature_std).clamp(-_FURTHEST, _FURTHEST)

    def fit_features(self, features: torch.Tensor) -> None:
        """Take mean and deviation from the base policy's feature vectors (N, F)."""
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(features.std(0).clamp(min=1e-3))

    def whole_noise(self, chosen: torch.Tensor) -> torch.Tensor:
        """Noise (B, *noise_shape) from choices (B, steered_size) in [-1, 1]: times the bound, repeated where wanted."""
        noise = self.config.bound * chosen
        if self.config.repeat:
            noise = noise[:, None].expand(-1, self.noise_shape[0], -1)
        return noise.reshape(-1, *self.noise_shape)

    def steer(self, context: Context, advantage_bins: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Noise for the base policy (B, *noise_shape), from noise of the same shape."""
        actor: Any = self.actor
        mean, log_std, _ = actor.get_action_dist_params(self.features_of(context, advantage_bins))
        drawn = noise[:, 0] if self.config.repeat else noise.flatten(1)
        return self.whole_noise(torch.tanh(mean + log_std.exp() * drawn))

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
        """Action chunks of the base policy from chosen noise (see `Policy.sample`)."""
        chosen = self.steer(context, advantage_bins, noise)
        return self.base.sample(context, advantage_bins, chosen, guidance=guidance, steps=steps, rtc=rtc)

    # ------------------------------------------------------------------ the base policy's

    def context(
        self,
        observations: Mapping[str, torch.Tensor],
        prompts: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Context:
        """See `Policy.context`."""
        return self.base.context(observations, prompts, generator)

    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """See `Policy.velocity_field`."""
        return self.base.velocity_field(context, advantage_bins, guidance)

    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """See `Policy.loss`."""
        return self.base.loss(context, advantage_bins, chunks, generator, condition_dropout)

    def loss_weight(self, time: torch.Tensor) -> torch.Tensor:
        """See `Policy.loss_weight`."""
        return self.base.loss_weight(time)

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the actor: the base policy is frozen."""
        return list(self.actor.parameters())

    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """See `Policy.fit_normalisation`."""
        self.base.fit_normalisation(states, chunks)

    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """See `Policy.normalise`."""
        return self.base.normalise(chunks, state)

    def denormalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """See `Policy.denormalise`."""
        return self.base.denormalise(chunks, state)

    # ------------------------------------------------------------------ files

    def get_config(self) -> dict[str, Any]:
        """Settings of both policies."""
        base = {"kind": self.base.kind, "format_version": self.base.format_version, **self.base.get_config()}
        return {"base": base, "steering": asdict(self.config)}

    def save_files(self, folder: Path) -> None:
        """Write the base policy's files."""
        self.base.save_files(folder)

    def save_lerobot(self, folder: Path) -> None:
        """Not possible: LeRobot draws the noise itself.

        Raises:
            ConfigError: Always.
        """
        del folder
        raise ConfigError(
            "LeRobot draws a policy's noise itself, and takes none that DSRL has chosen: serve this policy (`rise "
            "serve`), or improve the policy by rise or selective_rise, which change its weights"
        )

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """A policy as `get_config` describes it."""
        settings = dict(config["base"])
        for name in POLICIES.names():
            kind = POLICIES.load(name)
            if getattr(kind, "kind", None) == settings["kind"]:
                while settings["format_version"] < kind.format_version:
                    version = settings["format_version"]
                    settings = {**kind.upgrades[version](settings), "format_version": version + 1}
                steering = decode(SteeringConfig, config["steering"], "key 'steering'")
                return cls(kind.from_config(settings, folder, device), steering)
        raise CheckpointError(f"{folder} steers a policy of kind {settings['kind']!r}, which is not registered")
