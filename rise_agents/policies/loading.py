"""Policies of any kind from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rise_agents.policies.base import Policy
from rise_agents.policies.lerobot_files import find_lerobot
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import load_registered
from rise_env.registry import POLICIES

__all__ = ["advantage_bin_of", "load_policy"]


def load_policy(path: str | Path, **kwargs: Any) -> Policy:
    """Load a policy of whatever kind from a directory or Hub id; arguments as of its `from_pretrained`, e.g. `device`.

    Raises:
        CheckpointError: If it is no policy of ours, or damaged.
    """
    if (lerobot := find_lerobot(path)) is not None:
        raise CheckpointError(
            f"{lerobot} is a policy of LeRobot: `rise evaluate`, `record`, `serve`, `deploy` and `improve` take it, "
            "but here a policy of ours is needed. Make one of it by `rise improve` or `rise train policy --initial`."
        )
    policy: Policy = load_registered(path, POLICIES, **kwargs)
    return policy


def advantage_bin_of(policy: Policy, name: str) -> int:
    """Advantage bin by name: "best", "worst", "middle", "none" (unconditional), or a number from 0 (worst).

    Raises:
        ConfigError: If there is no such bin.
    """
    codec = policy.codec
    names = {"best": codec.best_bin, "worst": 0, "middle": (codec.num_bins - 1) // 2, "none": codec.unconditional}
    if name in names:
        return names[name]
    if name.isdecimal() and int(name) < codec.num_bins:
        return int(name)
    raise ConfigError(f"advantage {name!r}: expected {', '.join(names)}, or a number from 0 to {codec.best_bin}")
