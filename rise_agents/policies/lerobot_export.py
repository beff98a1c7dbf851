"""Policies of ours as checkpoints of LeRobot."""

from __future__ import annotations

import shutil
from pathlib import Path

from rise_agents.policies.base import Policy
from rise_env.files import atomic_directory, refuse_existing
from rise_env.pretrained import CONFIG

__all__ = ["export_lerobot"]


def export_lerobot(policy: Policy, out: str | Path) -> None:
    """Write a policy as LeRobot's `from_pretrained` loads it: configuration, weights, pre- and post-processing.

    LeRobot then gives the chunks that the policy gives for the same observation and noise when asked for the best
    advantage, and executes as many actions of each as the task does.

    Args:
        policy: Policy.
        out: Directory, which must not exist.

    Raises:
        ConfigError: If LeRobot has no such policy, or the directory exists.
    """
    refuse_existing(out)
    with atomic_directory(out, CONFIG) as aside:
        policy.save_lerobot(aside)
        for file in aside.rglob("*.safetensors"):  # safetensors 0.8 lets nobody else read what it writes
            shutil.copymode(aside / CONFIG, file)
