"""Configuration of policies: the `policy` section of a preset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_policy import FlowPolicyConfig
from rise_env.config import decode, load_config
from rise_env.errors import ConfigError

__all__ = ["PolicyConfig", "WarmUpConfig", "load_policy_config"]


@dataclass(frozen=True)
class WarmUpConfig:
    """How a policy is trained on recorded chunks.

    Attributes:
        batch: Chunks per update.
        steps: Updates, unless the command line says otherwise.
        rate: Peak learning rate of AdamW.
        rate_floor: Last learning rate over the peak.
        warm_up: Updates over which the rate rises.
        weight_decay: Weight decay of matrices.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights, which are the ones kept.
        held_out: Share of the episodes kept aside for the figures.
        checkpoint_seconds: Time between two full states on disk.
        evaluate_seconds: Time between two evaluations.
        seed: Seed of everything random.
    """

    batch: int = 128
    steps: int = 6000
    rate: float = 1e-3
    rate_floor: float = 0.02
    warm_up: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.998
    held_out: float = 0.05
    checkpoint_seconds: float = 60.0
    evaluate_seconds: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "rate", "clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"policy.training.{name} is {getattr(self, name)}, expected a positive number")
        if not 0 < self.held_out < 1 or not 0 <= self.ema < 1:
            raise ConfigError(f"policy.training: held_out {self.held_out} and ema {self.ema} are shares below 1")


@dataclass(frozen=True)
class PolicyConfig:
    """The `policy` section.

    Attributes:
        model: See `FlowPolicyConfig`.
        advantage: See `AdvantageCodec`.
        training: See `WarmUpConfig`.
    """

    model: FlowPolicyConfig = field(default_factory=FlowPolicyConfig)
    advantage: AdvantageCodec = field(default_factory=AdvantageCodec)
    training: WarmUpConfig = field(default_factory=WarmUpConfig)


def load_policy_config(
    task: str = "brick_sorting", preset: str = "small", overrides: Iterable[str] = ()
) -> PolicyConfig:
    """Settings of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("policy", {})
    return decode(PolicyConfig, section, f"section 'policy' of {task}/{preset}")
