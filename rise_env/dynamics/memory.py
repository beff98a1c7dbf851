"""What training the official transformer takes, counted on a model without memory (torch's meta device)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rise_env.dynamics.autoencoder import ImageAutoencoder
from rise_env.dynamics.config import DynamicsConfig, OfficialConfig
from rise_env.dynamics.official import OfficialNetwork
from rise_env.dynamics.shape import DynamicsShape

__all__ = ["TrainingMemory", "count_training", "training_memory"]

GIB = 2**30


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training step holds at its fullest, between forward and backward pass; bf16 autocast.

    Attributes:
        batch_size: Samples.
        parameters: Their number.
        weights: In float32.
        weights_bf16: Their copies for matrix products.
        gradients: In float32.
        optimiser: Two moments of AdamW, in float32.
        average: Averaged weights; 0 where none are kept.
        activations: What the backward pass needs of all blocks.
        activations_checkpointed: The same where each block is computed again (gradient checkpointing): the inputs of
            all blocks, and what one block needs.
    """

    batch_size: int
    parameters: int
    weights: int
    weights_bf16: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    activations_checkpointed: int

    @property
    def fixed(self) -> int:
        """Whatever the batch."""
        return self.weights + self.weights_bf16 + self.gradients + self.optimiser + self.average

    def total(self, checkpointed: bool) -> int:
        """All of it, with or without gradient checkpointing."""
        return self.fixed + (self.activations_checkpointed if checkpointed else self.activations)

    def describe(self) -> str:
        """One line."""
        plain, less = self.total(False), self.total(True)
        return (
            f"training {self.parameters / 1e6:,.0f} million parameters with a batch of {self.batch_size}, in GiB: "
            f"weights {_gib(self.weights + self.weights_bf16)}, gradients {_gib(self.gradients)}, AdamW "
            f"{_gib(self.optimiser)}, average {_gib(self.average)}, activations {_gib(self.activations)}; "
            f"{_gib(plain)} in all. With gradient checkpointing (dynamics.training.gradient_checkpointing=true) "
            f"activations {_gib(self.activations_checkpointed)}; {_gib(less)} in all. The autoencoder comes on top."
        )

    def to_dict(self) -> dict[str, int]:
        """For JSON, with both sums."""
        sums = {"total": self.total(False), "total_checkpointed": self.total(True)}
        return {**dataclasses.asdict(self), **sums}


def count_training(
    config: OfficialConfig,
    *,
    batch_size: int = 8,
    views: int = 3,
    frames: tuple[int, int] = (4, 4),
    places: tuple[int, int] = (6, 8),
    averaged: bool = False,
) -> TrainingMemory:
    """Count what training takes.

    Args:
        config: The transformer.
        batch_size: Samples on one device.
        views: Cameras.
        frames: Latent frames of the history, and of the future.
        places: Latent places, high and wide.
        averaged: Whether averaged weights are kept beside.
    """
    with torch.device("meta"):
        network = OfficialNetwork(config).to(torch.bfloat16)
        history, future = frames
        size = batch_size, views, history + future, config.latent_channels, *places
        inputs = torch.zeros(size, dtype=torch.bfloat16), torch.zeros(batch_size)
        actions = torch.zeros(batch_size, config.action_tokens, config.action_dim, dtype=torch.bfloat16)
        caption = torch.zeros(config.action_tokens + 1, config.caption_dim, dtype=torch.bfloat16)
        blocks: list[tuple[int, int]] = []  # bytes saved before and after each block
        saved = _Saved(network)
        with saved, _FlashAttention():
            for block in network.transformer_blocks:
                block.register_forward_pre_hook(lambda *_: blocks.append((saved.bytes, 0)))
                block.register_forward_hook(lambda *_: blocks.append((blocks.pop()[0], saved.bytes)))
            network(*inputs, history, actions, caption)
    inside = [end - start for start, end in blocks]
    length = views * sum(frames) * places[0] * places[1]
    entering = 2 * batch_size * length * config.width
    count = sum(parameter.numel() for parameter in network.parameters())
    return TrainingMemory(
        batch_size, count, 4 * count, 2 * count, 4 * count, 8 * count, 4 * count if averaged else 0, saved.bytes,
        saved.bytes - sum(inside) + len(inside) * entering + max(inside),
    )  # fmt: skip


def training_memory(config: DynamicsConfig, shape: DynamicsShape, batch_size: int | None = None) -> TrainingMemory:
    """What training a dynamics model with the official transformer takes.

    Args:
        config: The model.
        shape: Its task.
        batch_size: Samples on one device at once; those of a part of an update when None.
    """
    training = config.training
    future, places = (shape.frames - 1) // 8 + 1, (shape.image_size[0] // 32, shape.image_size[1] // 32)  # of LTX
    if config.autoencoder_kind == "image":
        with torch.device("meta"):
            _, high, wide = ImageAutoencoder(config.autoencoder, shape.image_size).latent_shape
        future, places = shape.frames, (high, wide)
    return count_training(
        config.official,
        batch_size=batch_size or training.batch_size // training.gradient_accumulation_steps,
        views=len(shape.cameras),
        frames=(shape.history, future),
        places=places,
        averaged=True,
    )


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps, each storage once, the weights' aside."""

    def __init__(self, module: nn.Module) -> None:
        self.bytes = 0
        self._kept: list[Tensor] = []  # so that no storage takes the place of another
        self._seen = {_storage(parameter) for parameter in module.parameters()}
        super().__init__(self._pack, lambda kept: kept)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) not in self._seen:
            self._seen.add(_storage(tensor))
            self._kept.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    """Which storage it is: memory on the meta device has no address."""
    storage: Any = tensor.untyped_storage()
    return int(storage._cdata)


class _Attended(torch.autograd.Function):
    """Attention as far as autograd's memory goes: a fused kernel keeps its inputs and its output, and no scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


class _FlashAttention(TorchFunctionMode):
    """Attention on the meta device as a GPU's fused kernel does it; torch would count a matrix of scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            attended: Any = _Attended
            return attended.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
