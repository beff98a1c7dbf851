"""ValueModel: how far a task has come, seen from all cameras at one moment, with an ensemble that knows its doubts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from rise_env.config import decode
from rise_env.errors import ConfigError
from rise_env.pretrained import PretrainedMixin
from rise_env.protocols import ValueEstimate
from rise_env.value.config import ModelConfig
from rise_env.value.encoders import BackboneEncoder, ConvEncoder, Ensemble, HashedText, load_backbone
from rise_env.value.losses import bin_centers, expectation

__all__ = ["InputShape", "ValueModel"]

#: Frames that pass through the network at once, which keeps memory level for any batch; on a CPU, few fit its cache.
_FRAMES_AT_ONCE = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True)
class InputShape:
    """Shape of one moment as a value model reads it: pixels (V, H, W, 3), or latents (V, C, H, W).

    Attributes:
        cameras: Camera names in view order.
        height: Height of an image or latent.
        width: Its width.
        channels: 3 for pixels, C for latents.
    """

    cameras: tuple[str, ...]
    height: int
    width: int
    channels: int = 3


class ValueModel(PretrainedMixin, nn.Module):
    """Multi-view, language-conditioned value of single moments; satisfies `rise_env.protocols.Value`.

    All views pass one encoder; M small networks read the views' features and the instruction. Their mean is the value,
    their standard deviation the uncertainty. Which head the value comes from is `config.output`: "progress" in [0, 1],
    "td" in [-1, 1], "success" in [0, 1], "distributional" in [-1, 0] or "blend".

    Args:
        config: Shape of the model.
        input_shape: Shape of what it reads.
        backbone_config: Configuration of the transformers backbone, when weights are loaded from a checkpoint of ours.

    Attributes:
        device: Where the weights are.
        reads_latents: Whether `estimate` takes latents instead of pixels.

    Example:
        >>> model = ValueModel(ModelConfig(), InputShape(("head",), 48, 64)).eval()
        >>> model.estimate(torch.zeros(2, 5, 1, 48, 64, 3, dtype=torch.uint8), ["sort", "pack"]).value.shape
        torch.Size([2, 5])
    """

    kind = "rise-value"
    thread_safe = True
    title = "value model"
    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    bin_centers: torch.Tensor

    def __init__(
        self, config: ModelConfig, input_shape: InputShape, backbone_config: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config, self.input_shape = config, input_shape
        views, size = len(input_shape.cameras), (input_shape.height, input_shape.width)
        if not config.reads_latents and input_shape.channels != 3:
            raise ConfigError(f"pixels have 3 channels, got {input_shape.channels}; set value.model.reads_latents")
        self.text = HashedText(config.text_vocabulary, config.text_embed)
        self.encoder: nn.Module
        if config.backbone:
            backbone = load_backbone(config.backbone, backbone_config)
            self.encoder = BackboneEncoder(views, config.embed, config.backbone_size, backbone, config.freeze_backbone)
        else:
            channels = input_shape.channels
            self.encoder = ConvEncoder(views, size, channels, config.channels, config.flat_convs, config.embed)
        features = views * config.embed + config.text_embed
        self.head_widths = {head: config.bins if head == "distributional" else 1 for head in config.heads}
        widths = [features, *[config.hidden] * config.depth, sum(self.head_widths.values())]
        self.trunk = Ensemble(config.members, widths)
        self.prior = Ensemble(config.members, widths).requires_grad_(False) if config.prior_scale else None
        self.register_buffer("latent_mean", torch.zeros(input_shape.channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(input_shape.channels, 1, 1))
        self.register_buffer("bin_centers", bin_centers(config.bins), persistent=False)
        self.device: torch.device = self.latent_mean.device
        self.reads_latents: bool = config.reads_latents

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # what `to`, `cpu` and `cuda` go through
        self.device = self.latent_mean.device
        return self

    def forward(self, moments: torch.Tensor, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Logits of every head, float (M, n), or (M, n, bins) for "distributional", of what `prepare` gives."""
        if self.reads_latents:
            moments = (moments - self.latent_mean) / self.latent_std
        x = torch.cat([self.encoder(moments).flatten(1), self.text(prompts)], dim=-1)
        outputs = self.trunk(x)
        if self.prior is not None:
            outputs = outputs + self.config.prior_scale * self.prior(x)
        parts = outputs.split(list(self.head_widths.values()), dim=-1)
        named = zip(self.head_widths, parts, strict=True)
        return {head: part if head == "distributional" else part[..., 0] for head, part in named}

    def activate(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn raw outputs into values (M, n) in the range of each head."""
        special = {"td": torch.tanh, "distributional": lambda logits: expectation(logits, self.bin_centers)}
        return {head: special.get(head, torch.sigmoid)(logits) for head, logits in outputs.items()}

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Network input (n, V, C, H, W) of frames: uint8 (n, V, H, W, 3), or latents float (n, V, C, H, W)."""
        if self.reads_latents:
            return frames.to(self.device, torch.float32)
        return frames.to(self.device).movedim(-1, -3).to(torch.float32).mul(2 / 255).sub(1)

    def estimate(self, frames: torch.Tensor, prompts: Sequence[str]) -> ValueEstimate:
        """Values of B environments at T moments in one call; nothing random, and no trace on the model.

        Args:
            frames: uint8 (B, T, V, H, W, 3), or latents float (B, T, V, C, h, w) if `reads_latents`.
            prompts: B instructions.

        Raises:
            ValueError: If shape, type or number of prompts is not what the model was trained on, or a latent is not
                finite.
        """
        return self.estimate_heads(frames, prompts)["output"]

    def estimate_heads(self, frames: torch.Tensor, prompts: Sequence[str]) -> dict[str, ValueEstimate]:
        """As `estimate`, for every head, and for the configured output under the name "output"."""
        self._check(frames, prompts)
        batch, time = frames.shape[:2]
        moments = frames.flatten(0, 1)
        texts = [prompt for prompt in prompts for _ in range(time)]
        parts: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad(), _eval_mode(self):
            step = _FRAMES_AT_ONCE.get(self.device.type, 256)
            for start in range(0, len(moments), step):
                section = slice(start, start + step)
                values = self.activate(self(self.prepare(moments[section]), texts[section]))
                weights = self.config.output_weights
                values["output"] = torch.stack([weight * values[head] for head, weight in weights.items()]).sum(0)
                for name, value in values.items():
                    parts.setdefault(name, []).append(value)
        joined = {name: torch.cat(chunks, dim=1).unflatten(1, (batch, time)) for name, chunks in parts.items()}
        return {name: ValueEstimate(value.mean(0), value.std(0, correction=0)) for name, value in joined.items()}

    def _check(self, frames: torch.Tensor, prompts: Sequence[str]) -> None:
        shape = self.input_shape
        views = len(shape.cameras)
        expected, kind = (views, shape.height, shape.width, 3), "pixels uint8 (B, T, V, H, W, 3)"
        if self.reads_latents:
            expected, kind = (views, shape.channels, shape.height, shape.width), "latents float (B, T, V, C, h, w)"
        if not (frames.is_floating_point() if self.reads_latents else frames.dtype == torch.uint8):
            hint = "" if self.reads_latents else "; images are 0..255, convert them where you know their range"
            raise ValueError(f"frames are {frames.dtype}, this value model reads {kind}{hint}")
        if frames.ndim != 6 or tuple(frames.shape[2:]) != expected:
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}, expected {kind} with (B, T, {', '.join(map(str, expected))})"
                f" for the cameras {', '.join(shape.cameras)}"
            )
        if not frames.numel():
            raise ValueError(f"frames of shape {tuple(frames.shape)} are empty")
        if isinstance(prompts, str) or len(prompts) != frames.shape[0]:
            count = "one string" if isinstance(prompts, str) else f"{len(prompts)} prompts"
            raise ValueError(f"{count} for {frames.shape[0]} environments; give one prompt per environment")
        if self.reads_latents and not bool(torch.isfinite(frames).all()):
            raise ValueError("latents hold NaN or infinity; the dynamics model that made them is at fault")

    def offload(self) -> None:
        """Move the weights to the CPU, and remember where they were."""
        self._home = self.device
        self.to("cpu")

    def onload(self) -> None:
        """Move the weights back to where `offload` took them from."""
        self.to(getattr(self, "_home", self.device))

    @property
    def storage(self) -> str:
        """See `PretrainedMixin`."""
        return self.config.storage

    def get_config(self) -> dict[str, Any]:
        """See `PretrainedMixin`."""
        content: dict[str, Any] = {"model": self.config, "input": self.input_shape}
        if isinstance(self.encoder, BackboneEncoder):
            content["backbone"] = self.encoder.backbone.config.to_dict()
        return content

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """See `PretrainedMixin`."""
        shape = decode(InputShape, config["input"], "key 'input'")
        return cls(decode(ModelConfig, config["model"], "key 'model'"), shape, config.get("backbone"))


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
