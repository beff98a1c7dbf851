"""Settings of a run: `configs/<task>/agent/<name>.yaml`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_env.config import decode, load_extended, merge, parse_override, task_files
from rise_env.errors import ConfigError, requirement
from rise_env.registry import ALGORITHMS

__all__ = ["AgentPreset", "load_agent_preset", "parse_settings"]


@dataclass(frozen=True)
class AgentPreset:
    """How an algorithm is run on a task.

    Attributes:
        algorithm: Name in `rise_env.registry.ALGORITHMS`.
        chunks: Imagined chunks in all.
        real_steps: Control steps in all, of algorithms that act in the work cell.
        num_envs: Imaginations, or cells, at once.
        start_states: Recorded states that are drawn from the data to start from.
        start_frames: Frames of an episode at which start states may lie; any when empty. See
            `rise_env.envs.start_dataset.starts_from_dataset`.
        oracle_episodes: Episodes of the work cell whose states are started from instead where the oracle judges.
        env: Further arguments of imagination, e.g. `advantage` or `max_chunks`.
        config: Settings of the algorithm.
    """

    algorithm: str
    chunks: int = 30_000
    real_steps: int = 30_000
    num_envs: int = 32
    start_states: int = 4096
    start_frames: tuple[int, ...] = ()
    oracle_episodes: int = 560
    env: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require = requirement("agent preset")
        require.at_least(1, self, "chunks", "real_steps", "num_envs", "start_states", "oracle_episodes")
        right = all(isinstance(frame, int) and frame >= 0 for frame in self.start_frames)
        require(right, f"start_frames {list(self.start_frames)} are not whole numbers from 0 on")

    def settings(self) -> Any:
        """Settings of the algorithm, all of them.

        Raises:
            ConfigError: If one is unknown or wrong.
        """
        kind = ALGORITHMS.load(self.algorithm).Config
        return decode(kind, dict(self.config), f"settings of algorithm {self.algorithm!r}")

    def replace(self, config: Mapping[str, Any] | None = None, **changes: Any) -> AgentPreset:
        """With other values where they are not None; `config` is added to the settings.

        Raises:
            ConfigError: If a setting is unknown or wrong.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        made = dataclasses.replace(self, config=merge(self.config, config or {}), **given)
        made.settings()
        return made


def load_agent_preset(name: str, task: str) -> AgentPreset:
    """How an algorithm is run on a task.

    Args:
        name: Name of `agent/<name>.yaml` in the task's folder, path of such a file, or name of an algorithm, which is
            then run with its defaults.
        task: Name of the task, or path of its folder.

    Raises:
        ConfigError: If there is neither, or the file is wrong.
    """
    known = task_files(task, "agent")
    key = name.replace("-", "_")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif key in known:
        path = known[key]
    elif name in ALGORITHMS:
        return AgentPreset(key)
    else:
        raise ConfigError(ALGORITHMS.unknown(name, known))
    values = {"algorithm": path.stem, **load_extended(path)}
    preset = decode(AgentPreset, values, f"agent {path}")
    algorithm = ALGORITHMS.load(preset.algorithm)
    decode(algorithm.Config, preset.config, f"agent {path}, key 'config'")  # said now, not after minutes of recording
    return preset


def parse_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Settings of an algorithm from KEY=VALUE on the command line; values are YAML.

    Raises:
        ConfigError: If one has no value, or is no YAML.
    """
    settings: dict[str, Any] = {}
    for item in overrides:
        settings = merge(settings, parse_override(item, "--set KEY=VALUE"))
    return settings
