"""Parts of the value model: hashed-word text encoder, image encoders, and many small networks side by side."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import flaws, listed, load_tensors, local_directory

__all__ = ["BackboneEncoder", "ConvEncoder", "Ensemble", "HashedText", "hash_words"]

#: Weights that a published backbone may hold beside its tower, and those that are whole numbers.
_HEAD = re.compile(r"(\w+\.)?(classifier|cls_classifier|distillation_classifier|head|decoder|pooler)\.")
_INDEX = re.compile(r"(position_ids|position_index|num_batches_tracked)$")
_WORD = re.compile(r"\w+|[^\w\s]")


def hash_words(text: str, vocabulary: int) -> list[int]:
    """Bucket from 1 on of every word and sign of a text, the same on every machine; case is ignored."""
    words = _WORD.findall(text.lower())
    return [1 + zlib.crc32(word.encode("utf-8")) % (vocabulary - 1) for word in words] if vocabulary > 1 else []


class HashedText(nn.Module):
    """Embeds instructions as the mean, of some width, of learned vectors of the buckets that their words fall into."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embed = nn.EmbeddingBag(vocabulary, width, mode="mean")
        nn.init.normal_(self.embed.weight, std=width**-0.5)

    def forward(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings float (n, width) of n instructions."""
        known: dict[str, int] = {}
        order = [known.setdefault(prompt, len(known)) for prompt in prompts]
        words = [hash_words(prompt, self.vocabulary) or [0] for prompt in known]
        device = self.embed.weight.device
        flat = torch.tensor([index for indices in words for index in indices], device=device)
        ends = torch.tensor([len(indices) for indices in words], device=device).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        return self.embed(flat, starts)[torch.tensor(order, dtype=torch.int64, device=device)]


class ConvEncoder(nn.Module):
    """Convolutions that all V views share, told apart by a bias per view, to `width` features per view.

    The first `flat_convs` keep the height and width of the input; the others halve them.
    """

    def __init__(
        self, views: int, size: tuple[int, int], in_channels: int, channels: Sequence[int], flat_convs: int, width: int
    ) -> None:
        super().__init__()
        height, breadth = size
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, out_channels in enumerate(channels):
            stride = 1 if i < flat_convs else 2
            self.convs.append(nn.Conv2d(in_channels, out_channels, 3, stride, 1))
            self.norms.append(nn.GroupNorm(1, out_channels))
            height, breadth, in_channels = -(-height // stride), -(-breadth // stride), out_channels
        self.view_bias = nn.Parameter(torch.zeros(views, channels[0], 1, 1))
        self.project = nn.Linear(in_channels * height * breadth, width)
        self.view_embed = nn.Parameter(torch.zeros(views, width))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features float (n, V, width) of images float (n, V, C, H, W)."""
        count, views = images.shape[:2]
        x = images.flatten(0, 1)
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            if i == 0:
                x = (x.unflatten(0, (count, views)) + self.view_bias).flatten(0, 1)
            x = F.silu(norm(x), inplace=not torch.is_grad_enabled())
        return F.silu(self.project(x.flatten(1)).unflatten(0, (count, views)) + self.view_embed)


class BackboneEncoder(nn.Module):
    """A vision transformer of the transformers library, to `width` features per view; every view is an image.

    Images are resized to the height and width `size`; `freeze` leaves the backbone as it is.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, views: int, width: int, size: tuple[int, int], backbone: Any, freeze: bool) -> None:
        super().__init__()
        self.size = size
        self.backbone: Any = backbone.requires_grad_(not freeze)
        self.project = nn.Linear(2 * int(backbone.config.hidden_size), width)
        self.view_embed = nn.Parameter(torch.zeros(views, width))
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((0.229, 0.224, 0.225)).reshape(3, 1, 1), persistent=False)
        self.freeze = freeze

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features float (n, V, width) of images float (n, V, 3, H, W) in [-1, 1]."""
        count, views = images.shape[:2]
        x = images.flatten(0, 1)
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = (x * 0.5 + 0.5 - self.mean) / self.std
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            tokens = self.backbone(pixel_values=x).last_hidden_state
        pooled = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=-1)
        return F.silu(self.project(pooled).unflatten(0, (count, views)) + self.view_embed)


def load_backbone(name: str, config: dict[str, Any] | None) -> nn.Module:
    """A vision model of transformers: from its configuration alone when given, else with its published weights.

    Raises:
        CheckpointError: If the weights cannot be had.
        ConfigError: If the model has no vision tower that gives tokens of one width.
    """
    from transformers import AutoConfig, AutoModel

    if config is not None:
        values = dict(config)
        settings = AutoConfig.for_model(values.pop("model_type"), **values)
        model = AutoModel.from_config(getattr(settings, "vision_config", settings))
    else:
        model = _published(name)
    if not isinstance(getattr(model.config, "hidden_size", None), int):
        raise ConfigError(f"backbone {name!r} ({type(model).__name__}) has no config.hidden_size; use a vision model")
    return model


#: What transformers, torch and huggingface_hub raise where a backbone cannot be used.
_UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)


def _published(name: str) -> nn.Module:
    """Vision tower with published weights; transformers itself fills up what a file lacks with random numbers."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    folder = local_directory(name, "backbone")
    try:
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (*_UNUSABLE, SafetensorError) as error:
        raise CheckpointError(f"backbone {folder} cannot be loaded: {error}") from error
    # A pooler is read by nobody here; heads of other tasks may be in the file.
    problems = [f"missing {key}" for key in report["missing_keys"] if "pooler." not in key]
    problems += [f"unexpected {key}" for key in report["unexpected_keys"] if not _HEAD.match(key)]
    for file in sorted(folder.glob("*.safetensors")):
        problems += flaws({name: one for name, one in load_tensors(file).items() if not _INDEX.search(name)})
    if problems:
        raise CheckpointError(
            f"backbone {folder}: the weights do not fit its config.json: {listed(sorted(problems))}. Download it again."
        )
    return getattr(model, "vision_model", model)


class Ensemble(nn.Module):
    """M small networks side by side on the same input; `widths` are those of input, hidden layers and output."""

    def __init__(self, members: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        pairs = list(itertools.pairwise(widths))
        for i, (inputs, outputs) in enumerate(pairs):
            gain = 2.0 if i + 1 < len(pairs) else 1.0
            self.weights.append(nn.Parameter(torch.randn(members, inputs, outputs) * (gain / inputs) ** 0.5))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, outputs)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs float (M, n, out) for x float (n, in)."""
        x = x.expand(len(self.weights[0]), *x.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i + 1 < len(self.weights):
                x = F.silu(x)
        return x
