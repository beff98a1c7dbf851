"""A tokenizer that no network is needed for, and checkpoints as LeRobot writes them."""

from __future__ import annotations

import copy
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
    task = register_task("hanging")
    yield "hanging"
    del TASKS._known["hanging"]
    for part in ("", "-Piper"):
        gymnasium.registry.pop(task.env_id(part))


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


DIFFUSION = {
    "n_obs_steps": 1, "horizon": 12, "n_action_steps": 4, "down_dims": (8, 16), "kernel_size": 3, "n_groups": 4,
    "diffusion_step_embed_dim": 8, "num_train_timesteps": 20, "num_inference_steps": 4, "crop_ratio": 1.0,
    "spatial_softmax_num_keypoints": 4, "pretrained_backbone_weights": None,
    "use_separate_rgb_encoder_per_camera": False,
}  # fmt: skip
SMOLVLA = {
    "load_vlm_weights": False, "chunk_size": 10, "n_action_steps": 4, "max_state_dim": 8, "max_action_dim": 8,
    "resize_imgs_with_padding": (32, 32), "num_vlm_layers": 2, "num_steps": 3, "tokenizer_max_length": 16,
}  # fmt: skip


@pytest.fixture(scope="session")
def vlm(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmolVLM with nothing learned, configuration and processor only: what SmolVLA takes from the Hub otherwise.

    The processor is Idefics3's, from which SmolVLM's differs in videos alone, and that it needs num2words.
    """
    from transformers import Idefics3ImageProcessor, Idefics3Processor, PreTrainedTokenizerFast, SmolVLMConfig

    folder = tmp_path_factory.mktemp("vlm")
    text = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    config = SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=2, image_token_id=260, pad_token_id=0)
    config.save_pretrained(folder)
    names = ("fake_image_token", "image_token", "global_image_token", "end_of_utterance_token")
    words = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer), pad_token="<pad>", eos_token="<eos>",
        bos_token="<bos>", unk_token="<unk>", extra_special_tokens={name: f"<{name}>" for name in names},
    )  # fmt: skip
    Idefics3Processor(Idefics3ImageProcessor(), words, image_seq_len=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_tiny(vlm: Path) -> Callable[..., Path]:
    """`save_tiny(PATH, SPEC, TYPE, **settings)`: a tiny policy with random weights of a type that can be trained."""
    tiny: dict[str, dict[str, Any]] = {"diffusion": DIFFUSION, "smolvla": {**SMOLVLA, "vlm_model_name": str(vlm)}}
    return lambda path, spec, kind, **settings: save(path, spec, kind, **{**tiny[kind], **settings})
