"""Configuration of policies: the `policy` section of a preset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_policy import FlowPolicyConfig
from rise_env.config import decode, load_config
from rise_env.errors import ConfigError
from rise_env.training.config import LoopConfig

__all__ = ["PolicyConfig", "WarmUpConfig", "load_policy_config"]


@dataclass(frozen=True)
class WarmUpConfig(LoopConfig):
    """How a policy is trained on recorded chunks, on top of `LoopConfig`.

    Attributes:
        steps: Updates, unless the command line says otherwise.
        evaluate_seconds: Time between two evaluations.
    """

    section: ClassVar[str] = "policy.training"

    batch_size: int = 128
    weight_decay: float = 1e-3
    steps: int = 6000
    evaluate_seconds: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.held_out:
            raise ConfigError(f"policy.training: steps {self.steps} and held_out {self.held_out} must be positive")


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
