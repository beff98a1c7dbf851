"""A pi0.5 as LeRobot runs it: its own policy, and its processing with the advantage in the prompt."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lerobot.configs import NormalizationMode
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    RelativeActionsProcessorStep,
    TokenizerProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import ACTION, OBS_STATE

from rise_agents.policies.pi05_network import relative_joints
from rise_agents.policies.pi05_processor import AdvantagePromptProcessorStep
from rise_env.errors import ConfigError

if TYPE_CHECKING:
    from rise_agents.policies.pi05 import Pi05Policy

__all__ = ["write_pi05"]


def write_pi05(policy: Pi05Policy, folder: Path) -> None:
    """Write a pi0.5 as a checkpoint of LeRobot that asks for the best advantage.

    Its pre-processing makes the prompt by a step of ours, which LeRobot imports by its name.

    Raises:
        ConfigError: If LeRobot's rule of which joints are relative cannot say which are.
    """
    network, names = copy.copy(policy.network), policy.spec.layout.names
    network.config = config = copy.deepcopy(policy.network.config)
    moves = bool(policy.relative.any())
    still = [name for name, moving in zip(names, policy.relative.tolist(), strict=True) if not moving]
    config.n_action_steps, config.num_inference_steps = policy.spec.execute, policy.config.steps
    config.use_relative_actions, config.relative_exclude_joints = moves, still
    config.action_feature_names, config.pretrained_path = list(names), None
    by_range = {"STATE": NormalizationMode.QUANTILES, "ACTION": NormalizationMode.QUANTILES}
    config.normalization_mapping = {"VISUAL": NormalizationMode.IDENTITY, **by_range}
    if relative_joints(config, len(names)).tolist() != policy.relative.tolist():
        raise ConfigError(
            f"LeRobot takes every joint whose name contains one of {still} as not relative; rename joints"
        )
    network.save_pretrained(folder)

    statistics = {
        OBS_STATE: {"q01": policy.state_low, "q99": policy.state_high},
        ACTION: {"q01": policy.chunk_low, "q99": policy.chunk_high},
    }
    steps = make_default_policy_processor_steps(config, statistics)
    relative = RelativeActionsProcessorStep(enabled=moves, exclude_joints=still, action_names=list(names))
    # Cut short, a prompt would lose its end, the advantage.
    tokenizer = TokenizerProcessorStep(
        tokenizer=policy.tokenizer, max_length=policy.config.tokens, padding="max_length", padding_side="right",
        truncation=False,
    )  # fmt: skip
    prompt = AdvantagePromptProcessorStep(policy.codec.to_dict(), policy.config.state_width, absent="best")
    before, after = make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations, steps.add_batch_dim, relative, steps.normalize, prompt, tokenizer,
            steps.to_device,
        ],
        output_steps=[
            steps.unnormalize, AbsoluteActionsProcessorStep(enabled=moves, relative_step=relative), steps.to_cpu
        ],
    )  # fmt: skip
    for pipeline in (before, after):
        pipeline.save_pretrained(folder)
    _name_steps(folder / "policy_preprocessor.json", policy.config.tokenizer)


def _name_steps(file: Path, tokenizer: str) -> None:
    """Say where the tokenizer is, and name our step by its class: LeRobot imports it, whatever was imported before."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for step in content["steps"]:
        if step.get("registry_name") == "tokenizer_processor":
            step["config"]["tokenizer_name"] = tokenizer
        elif step.get("registry_name") == "advantage_prompt":
            del step["registry_name"]
            step["class"] = f"{AdvantagePromptProcessorStep.__module__}.{AdvantagePromptProcessorStep.__name__}"
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
