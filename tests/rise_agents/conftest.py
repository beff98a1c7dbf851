"""A tokenizer that no network is needed for, and checkpoints as LeRobot writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from rise_env.registry import TASKS, register_task
from rise_env.tasks import TaskSpec


@pytest.fixture
def hanging() -> Iterator[str]:
    """A task without a work cell, registered meanwhile."""
    env_id = register_task("hanging").env_id()
    yield "hanging"
    del TASKS._known["hanging"]
    gymnasium.registry.pop(env_id)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level tokenizer of 260 ids that puts a beginning-of-sequence token first, as PaliGemma's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 2)]
    )
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


ACT = {
    "chunk_size": 10, "n_action_steps": 10, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1,
    "n_decoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip


def statistics(spec: TaskSpec) -> dict[str, dict[str, torch.Tensor]]:
    low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
    images = {
        key: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)} for key in spec.cameras.values()
    }
    joints = {"mean": (low + high) / 2, "std": (high - low) / 2, "min": low, "max": high}
    return {**images, "observation.state": joints, "action": joints}


def save(path: Path, spec: TaskSpec, kind: str, **settings: Any) -> Path:
    """Write a checkpoint of a tiny random policy with its pre- and post-processing, as lerobot-train does."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    images = {key: PolicyFeature(FeatureType.VISUAL, (3, *spec.image_size)) for key in spec.cameras.values()}
    config = make_policy_config(
        kind,
        device="cpu",
        push_to_hub=False,
        input_features={**images, "observation.state": PolicyFeature(FeatureType.STATE, (spec.layout.dim,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.layout.dim,))},
        **settings,
    )
    torch.manual_seed(0)
    get_policy_class(kind)(config).save_pretrained(path)
    for pipeline in make_pre_post_processors(config, dataset_stats=statistics(spec)):
        pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def save_lerobot() -> Callable[..., Path]:
    """`save_lerobot(PATH, SPEC, TYPE, **settings)`."""
    return save


@pytest.fixture(scope="session")
def save_act() -> Callable[[Path, TaskSpec], Path]:
    """`save_act(PATH, SPEC)`: a tiny ACT with random weights."""
    return lambda path, spec: save(path, spec, "act", **ACT)
