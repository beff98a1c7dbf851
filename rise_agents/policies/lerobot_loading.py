"""Policies of LeRobot from their checkpoints, and whether they fit a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rise_agents.policies.lerobot_files import check_statistics, check_steps, check_weights
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import WEIGHTS, local_directory
from rise_env.tasks import TaskSpec

__all__ = ["Loaded", "check_features", "image_batch", "load_lerobot", "task_cameras"]


@dataclass(frozen=True)
class Loaded:
    """A policy of LeRobot.

    Attributes:
        policy: LeRobot's PreTrainedPolicy.
        preprocessor: Its pre-processing; what it returns goes into the policy.
        postprocessor: Its post-processing of actions.
    """

    policy: Any
    preprocessor: Any
    postprocessor: Any


def load_lerobot(path: str | Path, device: str | torch.device = "cpu", *, weights: bool = True) -> Loaded:
    """Load a checkpoint of LeRobot: policy, pre-processing and post-processing.

    Args:
        path: Directory, or id of a repository on the Hugging Face Hub.
        device: Where to put the weights.
        weights: Whether the checkpoint holds them; without, the policy has random ones.

    Raises:
        CheckpointError: If something is missing or damaged, wants code of a stranger, or was not loaded.
    """
    folder = local_directory(path, "policy")
    check_steps(folder)
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    from rise_agents.policies.pi05_processor import load_processors

    try:
        config = PreTrainedConfig.from_pretrained(folder)
        config.device, config.pretrained_path = str(device), folder
        # The checkpoint holds the backbone's weights: LeRobot would download others first.
        for name, absent in (("pretrained_backbone_weights", None), ("load_vlm_weights", False)):
            if getattr(config, name, absent) != absent:
                setattr(config, name, absent)
        kind = get_policy_class(config.type)
        policy = kind.from_pretrained(folder, config=config, strict=True) if weights else kind(config).to(device)
        if weights:
            check_weights(policy, folder / WEIGHTS)
        on_device = {"device_processor": {"device": str(device)}}
        processors = load_processors(config, str(folder), preprocessor_overrides=on_device)
        check_statistics(processors, folder)
    except CheckpointError:
        raise
    except Exception as error:  # of a dozen libraries; all mean that the checkpoint cannot be used
        raise CheckpointError(f"{folder} cannot be loaded as a LeRobot policy: {error}") from error
    return Loaded(policy, *processors)


def task_cameras(spec: TaskSpec, cameras: Mapping[str, str] | None = None) -> dict[str, str]:
    """Camera of the task to image feature of a policy; the task's own dataset keys when None.

    Raises:
        ConfigError: If the cameras are others than those of the task.
    """
    found = dict(cameras or spec.cameras)
    if sorted(found) != sorted(spec.cameras):
        raise ConfigError(f"cameras {sorted(found)} are not those of the task, {sorted(spec.cameras)}")
    return found


def check_features(config: Any, spec: TaskSpec, cameras: Mapping[str, str], any_image_size: bool = False) -> None:
    """Compare what a policy of LeRobot reads and predicts with a task.

    Args:
        config: LeRobot's configuration of the policy.
        spec: Task.
        cameras: As of `task_cameras`.
        any_image_size: Take images of another size than the policy was trained with.

    Raises:
        ConfigError: If cameras, image sizes, state or action do not fit.
    """
    known = {key: feature for key, feature in config.image_features.items() if "empty_camera" not in key}
    if missing := [key for key in known if key not in cameras.values()]:
        raise ConfigError(
            f"the policy reads {', '.join(known)}; the task gives {', '.join(cameras.values())}, so "
            f"{', '.join(missing)} would be missing. Say which camera is which: "
            "cameras={'<camera of the task>': '<image feature of the policy>', ...}."
        )
    if config.env_state_feature is not None:
        raise ConfigError("the policy reads observation.environment_state, which no task gives: a robot cannot see it")
    height, width = spec.image_size
    for key, feature in known.items():
        if tuple(feature.shape) != (3, height, width) and not any_image_size:
            raise ConfigError(
                f"the policy was trained with {key} of shape {tuple(feature.shape)}, the task's images are "
                f"(3, {height}, {width}). Override task.image_size, or pass any_image_size=True if the policy "
                "resizes."
            )
    for what, feature in (("state", config.robot_state_feature), ("action", config.action_feature)):
        if feature is not None and tuple(feature.shape) != (spec.layout.dim,):
            raise ConfigError(
                f"the policy's {what} has shape {tuple(feature.shape)}, the layout {spec.layout.name!r} of the "
                f"task has {spec.layout.dim} joints: {', '.join(spec.layout.names)}"
            )


def image_batch(frames: torch.Tensor, spec: TaskSpec, cameras: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Frames uint8 (B, V, H, W, 3) as LeRobot has them: float32 (B, 3, H, W) in [0, 1] by image feature."""
    views = enumerate(spec.cameras)
    return {cameras[camera]: frames[:, view].permute(0, 3, 1, 2).float() / 255.0 for view, camera in views}
