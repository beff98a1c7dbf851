"""Settings of a comparison: `configs/<task>/compare/<name>.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_agents.pipelines.config import Recording, load_demo_config
from rise_agents.training.presets import AgentPreset, load_agent_preset
from rise_env.config import config_files, decode, load_extended, merge, parse_override
from rise_env.errors import ConfigError, requirement, unknown_name
from rise_env.registry import TASKS, no_cell

__all__ = ["BASE", "CompareConfig", "Variant", "load_compare_config"]

#: Name of the variant that all others are compared with where they do not say otherwise.
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: how a policy is trained, if it is, and how it acts.

    Attributes:
        agent: Agent that improves the base policy (`configs/<task>/agent/`, or an algorithm); None trains nothing.
        config: Settings on top of the agent's.
        chunks: Budget in place of the comparison's.
        real_steps: The same of an agent that acts in the cell.
        seeds: Training seeds in place of the comparison's.
        oracle: Let the work cell take the place of imagination.
        guidance: Guidance when acting; the policy's own when None.
        noise_scale: Deviation of the noise when acting; the policy's own when None.
        best_of: Imagine so many proposals at every decision and execute the best.
        against: Variant that gains are measured against.
        note: A few words for the table.
    """

    agent: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    chunks: int | None = None
    real_steps: int | None = None
    seeds: tuple[int, ...] | None = None
    oracle: bool = False
    guidance: float | None = None
    noise_scale: float | None = None
    best_of: int | None = None
    against: str = BASE
    note: str = ""

    def __post_init__(self) -> None:
        require = requirement("variant")
        for name in ("chunks", "real_steps", "best_of"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}, expected at least 1")
        trains = self.agent is not None
        settings = (self.config, self.chunks, self.real_steps, self.seeds, self.oracle)
        seeds = self.seeds
        require(
            seeds is None or (seeds and len(set(seeds)) == len(seeds)), f"seeds is {seeds}, expected different ones"
        )
        require(trains or not any(settings), "it has settings of training but no agent")

    @property
    def acting(self) -> dict[str, Any]:
        """How its policy acts, as keyword arguments of `resolve_actor`."""
        return {name: getattr(self, name) for name in ("guidance", "noise_scale", "best_of")}


@dataclass(frozen=True)
class CompareConfig:
    """What is compared with what, and on how much.

    Attributes:
        variants: Rows by name; `base` is one of them.
        tasks: Tasks; the one whose folder holds the file when empty.
        preset: Preset of the work cells.
        seeds: Training seeds; a variant that trains nothing is run once.
        chunks: Imagined chunks of every variant that trains in imagination.
        real_steps: Control steps of every variant that trains in the cell.
        episodes: Episodes in the cell per run, the same for all.
        first_episode: Seed of the first of them.
        curve_points: How often a policy is looked at while it is trained, the end included: its return in imagination,
            and its success where `curve_episodes` is not 0.
        curve_episodes: Episodes in the cell for each of them.
        curve_seed: Seed of the first of these: other episodes than those of the table.
        imagined_states: Recorded states of held-out episodes that policies are imagined from.
        imagined_chunks: Chunks imagined in a row from each of them.
        recordings: The offline data; those of the demo when empty.
        not_run: Rows that cannot be run, and why; the report says so.
    """

    variants: dict[str, Variant] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    preset: str = "small"
    seeds: tuple[int, ...] = (0,)
    chunks: int = 8_000
    real_steps: int = 8_000
    episodes: int = 200
    first_episode: int = 600_000
    curve_points: int = 5
    curve_episodes: int = 0
    curve_seed: int = 500_000
    imagined_states: int = 256
    imagined_chunks: int = 2
    recordings: tuple[Recording, ...] = ()
    not_run: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require = requirement("comparison")
        for name in ("chunks", "real_steps", "episodes", "curve_points", "imagined_states", "imagined_chunks"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("seeds", "tasks"):
            values = getattr(self, name)
            require(values and len(set(values)) == len(values), f"{name} is {values}, expected different ones")
        require(BASE in self.variants, f"there is no variant {BASE!r} to compare with")
        require(self.variants[BASE].agent is None, f"variant {BASE!r} trains: it is what all are compared with")
        for name, variant in self.variants.items():
            require(name.isidentifier(), f"variant {name!r}: the name is no identifier")
            other = self.variants.get(variant.against)
            require(other is not None, f"variant {name!r} is compared with {variant.against!r}, which is none")
            trains = other is not None and other.agent is not None
            require(not trains, f"variant {name!r} is compared with {variant.against!r}, which trains")

    def agent(self, variant: Variant, seed: int, task: str) -> AgentPreset:
        """Agent of a variant that trains, with its settings, seed and budget.

        Raises:
            ConfigError: If there is no such agent, or a setting is wrong.
        """
        assert variant.agent is not None
        preset = load_agent_preset(variant.agent, task)
        budget = {"chunks": variant.chunks or self.chunks, "real_steps": variant.real_steps or self.real_steps}
        return preset.replace({**variant.config, "seed": seed}, **budget)

    def recorded(self, task: str) -> tuple[Recording, ...]:
        """What is recorded for a task."""
        return self.recordings or load_demo_config(task, self.preset).recordings


def load_compare_config(
    name: str, task: str, overrides: Iterable[str] = (), only: Iterable[str] | None = None
) -> CompareConfig:
    """Settings of a comparison, checked as a whole.

    Args:
        name: Name of `configs/<task>/compare/<name>.yaml`, or path of such a file.
        task: Name of the task.
        overrides: Dotted assignments such as "episodes=50" or "variants.rise.chunks=1000"; values are YAML.
        only: Variants to keep, besides those that they are compared with; all when None.

    Raises:
        ConfigError: If there is no such file, or something in it is wrong.
    """
    known = config_files(f"{task}/compare")
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name.replace("-", "_"))
    if path is None:
        raise ConfigError(f"{unknown_name(f'comparison of task {task!r}', name, known)} Or give a YAML file.")
    values = load_extended(path)
    for override in overrides:
        values = merge(values, parse_override(override))
    rows = values.pop("variants", None)
    if not isinstance(rows, Mapping):
        raise ConfigError(f"comparison {path}: `variants` must be a mapping of names to settings")
    rows = {str(key): row or {} for key, row in rows.items()}
    for key, row in rows.items():  # one by one: a mistake is told with its row
        decode(Variant, row, f"comparison {path}, variant {key!r}")
    if only is not None:
        rows = _kept(rows, list(only))
    found = decode(CompareConfig, {"tasks": [task], **values, "variants": rows}, f"comparison {path}")
    for one in found.tasks:
        if TASKS.load(one).cell is None:
            raise ConfigError(no_cell(one))
        for variant in found.variants.values():
            if variant.agent is not None:
                found.agent(variant, found.seeds[0], one)
    return found


def _kept(rows: dict[str, Any], only: list[str]) -> dict[str, Any]:
    for name in only:
        if name not in rows:
            raise ConfigError(unknown_name("variant", name, rows))
    wanted = {BASE, *only, *(rows[name].get("against", BASE) for name in only)}
    return {name: row for name, row in rows.items() if name in wanted}
