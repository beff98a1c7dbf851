"""Configuration of the demo and of the base policy: the sections `demo` and `base` of a preset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rise_env.config import decode, load_config
from rise_env.errors import requirement

__all__ = ["BaseConfig", "DemoConfig", "Recording", "load_base_config", "load_demo_config"]


@dataclass(frozen=True)
class Recording:
    """Episodes to record.

    Attributes:
        policy: Scripted policy, or "base".
        episodes: How many.
        seed: Seed of the first; none on which anything is evaluated.
    """

    policy: str
    episodes: int
    seed: int


@dataclass(frozen=True)
class DemoConfig:
    """What `rise demo` does with a task.

    Attributes:
        agent: Agent that improves the policy, of `configs/<task>/agent/`, or an algorithm.
        policy: Policy that is improved: "base", or "base:NAME" for another one of the bundle's.
        episodes: Episodes per evaluation.
        recordings: The offline data, in which "base" is the policy that is improved. They are recorded two at a time.
        bundle_recordings: What world model and base policy are trained on where the task has no bundle yet.
    """

    agent: str = "selective_rise"
    policy: str = "base"
    episodes: int = 200
    recordings: tuple[Recording, ...] = (Recording("base", 40, 70_000), Recording("operator", 40, 200_000))
    bundle_recordings: tuple[Recording, ...] = (Recording("expert", 100, 300_000), Recording("operator", 100, 400_000))

    def __post_init__(self) -> None:
        require = requirement("section 'demo'")
        require.at_least(1, self, "episodes")
        require(bool(self.recordings), "recordings is empty: nothing to start from")
        for name in ("recordings", "bundle_recordings"):
            for one in getattr(self, name):
                require(one.episodes >= 1, f"{name}: {one.policy} has {one.episodes} episodes, expected at least 1")
        trainable = all(one.policy != "base" for one in self.bundle_recordings)
        require(trainable, "bundle_recordings: there is no policy 'base' before there is a bundle")


@dataclass(frozen=True)
class BaseConfig:
    """From nothing to a base policy that lacks skill: what `rise train base` does with a task.

    Attributes:
        recordings: Demonstrations. They are recorded two sets at a time.
        encoders: Policy whose image encoders it sees with, as for `rise train policy --encoders`; none when empty.
        settings: Settings of the policy, "policy.KEY=VALUE", where it should be another than the preset's.
        steps: Updates of behaviour cloning.
        episodes: Episodes of the evaluation at the end, seeds from 500000.
    """

    recordings: tuple[Recording, ...] = (Recording("expert", 120, 410_000), Recording("expert", 120, 410_120))
    encoders: str = ""
    settings: tuple[str, ...] = ()
    steps: int = 2600
    episodes: int = 200

    def __post_init__(self) -> None:
        require = requirement("section 'base'")
        require.at_least(1, self, "steps", "episodes")
        require(bool(self.recordings), "recordings is empty: nothing to learn from")
        for item in self.settings:
            require(item.startswith("policy."), f"settings: {item!r} is none of the policy, expected policy.KEY=VALUE")
        for one in self.recordings:
            require(one.episodes >= 1, f"recordings: {one.policy} has {one.episodes} episodes, expected at least 1")
            require(one.policy != "base", "recordings: there is no policy 'base' before there is one")


def load_base_config(task: str, preset: str = "small", overrides: Iterable[str] = ()) -> BaseConfig:
    """The `base` section of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("base", {})
    return decode(BaseConfig, section, f"section 'base' of {task}/{preset}")


def load_demo_config(task: str, preset: str = "small", overrides: Iterable[str] = ()) -> DemoConfig:
    """The `demo` section of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("demo", {})
    return decode(DemoConfig, section, f"section 'demo' of {task}/{preset}")
