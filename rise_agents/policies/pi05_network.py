"""What `Pi05Policy` needs of LeRobot and transformers. Imported late: the two take many seconds."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d, resize_with_pad_torch
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import nn

from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import CONFIG, WEIGHTS, listed, load_tensors, local_directory, misfits
from rise_env.tasks import TaskSpec

if TYPE_CHECKING:
    from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes

__all__ = [
    "Prefix",
    "Published",
    "build_network",
    "check_tokenizer",
    "load_tokenizer",
    "read_prefix",
    "read_published",
    "real_time_chunking",
    "relative_joints",
    "resize_with_bars",
    "velocity",
]

_EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
# Language heads, which pi0.5's actions never pass through: their weights may be missing.
_HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"
_EXPERT_HEAD = "model.paligemma_with_expert.gemma_expert.lm_head.weight"

_RANGES = {
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
    NormalizationMode.MIN_MAX: ("min", "max"),
}


def build_network(
    spec: TaskSpec, config: Pi05PolicyConfig, views: Sequence[str], device: str | torch.device
) -> PI05Policy:
    """LeRobot's PI05Policy for a task, with random weights; its features are named as in the task's datasets."""
    size, dim = config.image_size, spec.layout.dim
    images = {spec.cameras[view]: PolicyFeature(FeatureType.VISUAL, (3, *spec.image_size)) for view in views}
    settings = PI05Config(
        device="cpu", dtype=config.precision, chunk_size=spec.chunk, n_action_steps=spec.chunk,
        num_inference_steps=config.steps, image_resolution=(size, size), empty_cameras=config.empty_views,
        max_state_dim=max(config.max_dim, dim), max_action_dim=config.max_dim, tokenizer_max_length=config.tokens,
        use_relative_actions=config.relative, train_expert_only=config.expert_only,
        gradient_checkpointing=config.recompute,
        input_features={**images, OBS_STATE: PolicyFeature(FeatureType.STATE, (dim,))},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (dim,))},
    )  # fmt: skip
    settings.device = str(device)  # not above: where the device is missing, LeRobot would quietly take another
    if config.sizes is not None:
        return _smaller_network(settings, config.sizes, device)
    with torch.device(device):  # billions of random numbers: drawn where they are wanted
        return PI05Policy(settings)


def _smaller_network(settings: PI05Config, sizes: Pi05Sizes, device: str | torch.device) -> PI05Policy:
    """A pi0.5 of any size, for tests and small machines.

    LeRobot knows the published sizes only: vocabulary, image encoder and projector are literals in its constructors,
    which is why no configuration gives a small one. So the published network is made on the device "meta", where
    weights take no memory, and the parts that have sizes are exchanged; nothing of LeRobot is patched.
    """
    skeleton = copy.copy(settings)
    skeleton.device = "meta"
    with torch.device("meta"):
        network = PI05Policy(skeleton)
    settings.input_features, settings.output_features = skeleton.input_features, skeleton.output_features
    network.config = network.model.config = settings
    whole = network.model.paligemma_with_expert

    language = copy.deepcopy(whole.paligemma.config)
    language.vocab_size = language._vocab_size = language.image_token_index = sizes.vocabulary
    language.hidden_size = language.projection_dim = sizes.width
    _resize(language.text_config, sizes, sizes.width, sizes.inner)
    vision = language.vision_config
    vision.hidden_size, vision.intermediate_size = sizes.vision_width, sizes.vision_inner
    vision.num_hidden_layers, vision.num_attention_heads = sizes.vision_depth, sizes.vision_heads
    vision.projection_dim, vision.patch_size = sizes.width, sizes.patch
    expert = copy.deepcopy(whole.gemma_expert.config)
    _resize(expert, sizes, sizes.expert_width, sizes.expert_inner)
    expert.adarms_cond_dim = sizes.expert_width

    width, actions = sizes.expert_width, settings.max_action_dim
    with torch.device(device):
        whole.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=language)
        whole.gemma_expert = PiGemmaForCausalLM(config=expert)
        whole.gemma_expert.model.embed_tokens = None
        network.model.action_in_proj = nn.Linear(actions, width)
        network.model.action_out_proj = nn.Linear(width, actions)
        network.model.time_mlp_in = nn.Linear(width, width)
        network.model.time_mlp_out = nn.Linear(width, width)
    whole.to_bfloat16_for_selected_params(settings.dtype)
    if settings.train_expert_only:
        whole.paligemma.requires_grad_(False)
    if settings.gradient_checkpointing:
        network.model.gradient_checkpointing_enable()
    return network


def _resize(config: Any, sizes: Pi05Sizes, width: int, inner: int) -> None:
    config.vocab_size, config.hidden_size, config.intermediate_size = sizes.vocabulary, width, inner
    config.head_dim, config.num_hidden_layers = sizes.head, sizes.depth


def resize_with_bars(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images float32 (B, 3, H, W) in [0, 1] to (B, 3, size, size), undistorted, with black bars; LeRobot's own way."""
    if images.shape[-2:] == (size, size):
        return images
    return resize_with_pad_torch(images.permute(0, 2, 3, 1), size, size).permute(0, 3, 1, 2)


def load_tokenizer(name: str | Path) -> Any:
    """Tokenizer of transformers from a directory or the Hub.

    Raises:
        CheckpointError: If there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:  # a damaged file is a bare Exception of the tokenizers library
        raise CheckpointError(
            f"no tokenizer at {name}: {error}\nPaliGemma's is gated: accept its licence on the Hub and log in with "
            "`hf auth login`, or give a tokenizer (argument `tokenizer`, or policy.tokenizer=<directory>)."
        ) from error


def check_tokenizer(tokenizer: Any, config: Pi05PolicyConfig) -> None:
    """Check that a tokenizer makes prompts as pi0.5 expects them.

    Raises:
        ConfigError: If it does not, or has more ids than the model.
    """
    if tokenizer.bos_token_id is None or tokenizer("a")["input_ids"][0] != tokenizer.bos_token_id:
        raise ConfigError("the tokenizer puts no beginning-of-sequence token before a prompt; pi0.5 expects one")
    if tokenizer.pad_token_id is None:
        raise ConfigError("the tokenizer has no padding token")
    if config.sizes is not None and (ids := len(tokenizer)) > config.sizes.vocabulary:
        raise ConfigError(f"the tokenizer has {ids} ids, policy.sizes.vocabulary is {config.sizes.vocabulary}")


@dataclass(frozen=True)
class Prefix:
    """Images and prompts as the language model has read them.

    Attributes:
        padding: Which tokens are there, bool (B, T).
        cache: Keys and values of every layer.
        output: Last hidden states, (B, T, width).
    """

    padding: torch.Tensor
    cache: Any
    output: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Mean of the last hidden states over the tokens that are there, float32 (B, width)."""
        weight = self.padding[..., None].float()
        return (self.output.float() * weight).sum(1) / weight.sum(1)


@torch.no_grad()
def read_prefix(
    model: Any,
    images: list[torch.Tensor],
    shown: list[torch.Tensor],
    prompts: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Prefix:
    """Let the language model read images and prompts; the first half of `PI05Pytorch.sample_actions`.

    Args:
        model: PI05Pytorch, in evaluation mode.
        images: View by view, (B, 3, S, S) in [-1, 1].
        shown: View by view, bool (B,).
        prompts: Tokens and mask (B, T) of one or several prompts to the same images; they make one larger batch.
    """
    times = len(prompts)
    tokens, mask = (torch.cat(parts) for parts in zip(*prompts, strict=True))
    repeated = [torch.cat([image] * times) for image in images], [torch.cat([there] * times) for there in shown]
    embedded, padding, attention = model.embed_prefix(*repeated, tokens, mask)
    visible = prepare_attention_masks_4d(make_att_2d_masks(padding, attention))
    whole = model.paligemma_with_expert
    whole.paligemma.model.language_model.config._attn_implementation = "eager"
    (output, _), cache = whole.forward(
        attention_mask=visible,
        position_ids=torch.cumsum(padding, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    return Prefix(padding, cache, output)


def velocity(
    model: Any, prefix: Prefix, noisy: torch.Tensor, time: torch.Tensor, guidance: float = 1.0
) -> torch.Tensor:
    """Velocity of the flow after a prefix; with gradients for the action expert.

    Args:
        model: PI05Pytorch, in evaluation mode.
        prefix: Of B prompts; with guidance, of B prompts with advantage and B without.
        noisy: (B, chunk, max_dim).
        time: (B,).
        guidance: Weight w in v_none + w (v_bin - v_none).
    """
    guided = guidance != 1.0
    found = model.denoise_step(
        prefix_pad_masks=prefix.padding,
        past_key_values=prefix.cache,
        x_t=torch.cat([noisy, noisy]) if guided else noisy,
        timestep=torch.cat([time, time]) if guided else time,
    )
    if not guided:
        return found
    with_advantage, without = found.chunk(2)
    return without + guidance * (with_advantage - without)


@contextlib.contextmanager
def real_time_chunking(network: PI05Policy) -> Iterator[None]:
    """Switch on LeRobot's real-time chunking for a while."""
    before = network.config.rtc_config
    network.config.rtc_config = RTCConfig()
    network.init_rtc_processor()
    try:
        yield
    finally:
        network.config.rtc_config = before
        network.init_rtc_processor()


@dataclass(frozen=True)
class Published:
    """A pi0.5 checkpoint of LeRobot, read.

    Attributes:
        folder: Where it lies.
        settings: What it says of `Pi05PolicyConfig`.
        relative: Which joints are predicted relative to the state, float32 (D,), 1 or 0.
        modes: Normalisation of "state" and "chunk".
    """

    folder: Path
    settings: dict[str, Any]
    relative: torch.Tensor
    modes: dict[str, NormalizationMode]

    def range(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What is normalised to -1 and 1, each (D,), of "state" or "chunk".

        Raises:
            CheckpointError: If the checkpoint does not say, or says it for another number of joints.
        """
        dim, mode = len(self.relative), self.modes[name]
        if mode == NormalizationMode.IDENTITY:
            return -torch.ones(dim), torch.ones(dim)
        key = {"state": OBS_STATE, "chunk": ACTION}[name]
        found = self._statistics("policy_preprocessor.json", "normalizer_processor", key)
        wanted = _RANGES.get(mode, ("mean", "std"))
        if any(statistic not in found for statistic in wanted):
            problem = f"has no statistics {' and '.join(wanted)} of {key!r}"
        elif len(found[wanted[0]]) != dim:
            problem = f"has statistics of {key!r} for {len(found[wanted[0]])} joints, the task has {dim}"
        elif problems := misfits(given := {one: found[one] for one in wanted}, dict.fromkeys(wanted, torch.zeros(dim))):
            problem = f"has damaged statistics of {key!r}: {listed(problems)}"
        else:
            first, second = (given[one].float() for one in wanted)
            return (first, second) if mode in _RANGES else (first - second, first + second)
        raise CheckpointError(f"{self.folder} {problem}. Pass data=(states, chunks) of the task to normalise by.")

    def _statistics(self, file: str, step: str, key: str) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            steps = json.loads((self.folder / file).read_text(encoding="utf-8"))["steps"]
            states = [entry.get("state_file") for entry in steps if entry.get("registry_name") == step]
            if not states or not states[0]:
                return {}
            tensors = load_file(self.folder / Path(states[0]).name)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder / file}, or the statistics it names, are damaged: {error}") from error
        return {name.removeprefix(f"{key}."): value for name, value in tensors.items() if name.startswith(f"{key}.")}

    def fill(self, network: PI05Policy) -> None:
        """Put the weights into a network.

        Raises:
            CheckpointError: If the file is missing or damaged, or does not fit name by name and shape by shape.
        """
        file = self.folder / WEIGHTS
        # Older files name the weights from the model down, and the time MLP as in pi0.
        tensors = {
            f"model.{name.removeprefix('model.').replace('action_time_mlp_', 'time_mlp_')}": tensor
            for name, tensor in load_tensors(file).items()
        }
        # PaliGemma ties embedding and head, and files hold one of the two.
        if _EMBEDDING not in tensors and _HEAD in tensors:
            tensors[_EMBEDDING] = tensors[_HEAD]
        expected = network.state_dict()
        for head in (_HEAD, _EXPERT_HEAD):
            tensors.setdefault(head, expected[head])
        if problems := misfits(tensors, expected):
            raise CheckpointError(f"{file} is no pi0.5 of this size: {listed(problems)}")
        network.load_state_dict(tensors)


def read_published(path: str | Path, spec: TaskSpec, cameras: Mapping[str, str] | None) -> Published:
    """Read the configuration of a pi0.5 checkpoint of LeRobot (see `Pi05Policy.from_lerobot`)."""
    folder = local_directory(path, "policy")
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("type")
        if kind != "pi05":
            raise CheckpointError(f"{folder} is no pi0.5 checkpoint of LeRobot: {CONFIG} says type {kind!r}")
        found = PreTrainedConfig.from_pretrained(folder)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint of LeRobot: there is no {CONFIG}") from None
    except CheckpointError:
        raise
    except Exception as error:  # draccus wraps whatever goes wrong in classes of its own
        raise CheckpointError(f"{folder}/{CONFIG} is damaged: {error}") from error
    wanted = dict(cameras or spec.cameras)
    if sorted(wanted) != sorted(spec.cameras):
        raise ConfigError(f"cameras {sorted(wanted)} are not those of the task, {sorted(spec.cameras)}")
    offered = [key for key in found.image_features if "empty_camera" not in key]
    if unknown := [key for key in wanted.values() if key not in offered]:
        raise ConfigError(
            f"the checkpoint has no image feature {', '.join(unknown)}; it has {', '.join(offered)}. Say which camera "
            "is which: cameras={'<camera of the task>': '<image feature of the checkpoint>', ...}."
        )
    views = sorted(wanted, key=lambda camera: offered.index(wanted[camera]))
    modes = {
        name: NormalizationMode(found.normalization_mapping.get(kind, NormalizationMode.IDENTITY))
        for name, kind in (("state", "STATE"), ("chunk", "ACTION"))
    }
    settings = {
        "views": tuple(views),
        "empty_views": len(offered) - len(views) + found.empty_cameras,
        "tokens": found.tokenizer_max_length,
        "image_size": found.image_resolution[0],
        "max_dim": found.max_action_dim,
        "state_width": None,
        "relative": found.use_relative_actions,
        "steps": found.num_inference_steps,
        "precision": found.dtype,
    }
    return Published(folder, settings, relative_joints(found, spec.layout.dim), modes)


def relative_joints(found: PI05Config, dim: int) -> torch.Tensor:
    """Which joints are predicted relative to the state, by the rule of LeRobot's `RelativeActionsProcessorStep`."""
    from lerobot.processor import RelativeActionsProcessorStep

    used, excluded, names = found.use_relative_actions, found.relative_exclude_joints, found.action_feature_names
    step = RelativeActionsProcessorStep(enabled=used, exclude_joints=excluded, action_names=names)
    return torch.tensor(step._build_mask(dim), dtype=torch.float32) * used
