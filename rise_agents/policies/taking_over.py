"""Policies of LeRobot as policies of ours: which can be trained here, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rise_agents.policies.base import Policy
from rise_agents.policies.lerobot_files import lerobot_config
from rise_env.errors import ConfigError
from rise_env.registry import POLICIES
from rise_env.spaces import check_lags
from rise_env.tasks import TaskSpec

__all__ = ["take_over", "trainable_types"]


def trainable_types() -> dict[str, Any]:
    """LeRobot's types of policies that can be trained here, and the registered class that takes each over."""
    kinds = (POLICIES.load(name) for name in POLICIES.names())
    return {kind.lerobot_type: kind for kind in kinds if getattr(kind, "lerobot_type", None)}


def take_over(folder: Path, spec: TaskSpec, device: str | torch.device = "cpu", **arguments: Any) -> Policy:
    """A checkpoint of LeRobot as a policy that can be trained here.

    Args:
        folder: Directory.
        spec: Task.
        device: Where to put the weights.
        **arguments: Further arguments of the class's `from_lerobot`.

    Raises:
        ConfigError: If policies of its type cannot be trained here, or it does not fit the task.
        CheckpointError: If it is damaged.
    """
    config, known = lerobot_config(folder) or {}, trainable_types()
    kind, moments = config.get("type"), config.get("n_obs_steps", 1)
    if kind not in known:
        raise ConfigError(
            f"{folder} is a policy of LeRobot's type {kind!r}, which does not start from noise and knows no advantage: "
            "it can be evaluated, recorded with, served and deployed. Those that can be improved are of type "
            f"{', '.join(sorted(known))}"
        )
    try:
        check_lags(spec, range(1, moments))
    except ConfigError as error:
        raise ConfigError(
            f"{folder} reads n_obs_steps={moments} moments, one control step apart, of which imagination shows every "
            f"{spec.stride}th: train it with --policy.n_obs_steps=1 ({error})"
        ) from error
    policy: Policy = known[kind].from_lerobot(folder, spec, device=device, **arguments)
    return policy
