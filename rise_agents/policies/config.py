"""Configuration of policies: the `policy` section of a preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rise_agents.policies.base import Policy
from rise_agents.policies.codec import AdvantageCodec
from rise_env.config import decode, load_config
from rise_env.errors import requirement
from rise_env.registry import POLICIES
from rise_env.tasks import TaskSpec
from rise_env.training.config import LoopConfig

__all__ = ["CloningConfig", "PolicyConfig", "load_policy_config", "make_policy"]


@dataclass(frozen=True)
class CloningConfig(LoopConfig):
    """How a policy is trained on recorded chunks, on top of `LoopConfig`.

    Attributes:
        steps: Updates, unless the command line says otherwise.
        focus_frames: Part of every batch is drawn from so many first frames of the episodes: a policy that decides
            there what it copies ever after, such as how it turns its wrist, sees too little of them among all others.
            0 for no difference.
        focus_share: That part.
        evaluate_seconds: Time between two evaluations.
    """

    section: ClassVar[str] = "policy.training"

    batch_size: int = 128
    weight_decay: float = 1e-3
    steps: int = 6000
    focus_frames: int = 0
    focus_share: float = 0.3
    evaluate_seconds: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement(self.section)
        require.positive(self, "steps", "held_out")
        require.at_least(0, self, "focus_frames")
        require.within("[0, 1]", self, "focus_share")


@dataclass(frozen=True)
class PolicyConfig:
    """The `policy` section.

    Attributes:
        kind: Registered kind of policy.
        model: Settings of that kind: its `Config`, or plain values for it.
        advantage: See `AdvantageCodec`.
        training: See `CloningConfig`.
    """

    kind: str = "flow"
    model: Any = field(default_factory=dict)
    advantage: AdvantageCodec = field(default_factory=AdvantageCodec)
    training: CloningConfig = field(default_factory=CloningConfig)

    def __post_init__(self) -> None:
        if isinstance(self.model, Mapping):
            settings = decode(POLICIES.load(self.kind).Config, self.model, "section 'policy', key 'model'")
            object.__setattr__(self, "model", settings)


def make_policy(spec: TaskSpec, config: PolicyConfig, codec: AdvantageCodec | None = None) -> Policy:
    """A new policy for a task; with the codec of `config` when None is given."""
    policy: Policy = POLICIES.load(config.kind)(spec, config.model, codec or config.advantage)
    return policy


def load_policy_config(task: str, preset: str = "small", overrides: Iterable[str] = ()) -> PolicyConfig:
    """Settings of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("policy", {})
    return decode(PolicyConfig, section, f"section 'policy' of {task}/{preset}")
