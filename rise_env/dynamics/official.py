"""The transformer of the public RISE and Genie-Envisioner checkpoints (LTX 2B), name by name.

`OfficialNetwork` holds exactly the tensors of the released `diffusion_pytorch_model.safetensors` (797 of them,
1,990,672,572 numbers at the default size). `OfficialTransformer` wraps it for `LatentDynamics`: it adds the one thing
that the released model takes from T5-XXL, the embedding of the empty caption, which is a constant.

Views are cameras in the order top head, left hand, right hand; those of the task must come in the same order.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.normalization import AdaLayerNormSingle
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rise_env.dynamics.compiling import Call, plain
from rise_env.dynamics.config import OfficialConfig
from rise_env.dynamics.transformer import Denoised
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import flaws, listed, misfits

__all__ = ["Conditioning", "OfficialNetwork", "OfficialTransformer", "load_official", "rotary_table"]

_BASE_FRAMES, _BASE_SIZE = 20, 2048  # by which the rotary positions are divided
_TIME_RATIO, _SPACE_RATIO = 8, 32  # frames and pixels per latent
#: Keys and values, or cosines and sines.
type Pair = tuple[Tensor, Tensor]


def rotary_table(width: int, frames: int, height: int, wide: int, frame_rate: float) -> Pair:
    """Cosines and sines (frames x height x wide, width), float32, of the tokens in f, h, w order.

    Frequencies m = 0 .. width // 6 - 1 are (pi / 2) 10000^(m / last); each turns by (2 p - 1) for the positions p_f,
    p_h, p_w in turn, in pairs of neighbouring channels; the `width % 6` channels left over come first and do not turn.
    """
    count = width // 6
    rates = 10000.0 ** torch.linspace(0.0, 1.0, count) * math.pi / 2
    f, h, w = torch.meshgrid(
        torch.arange(frames) * (_TIME_RATIO / frame_rate) / _BASE_FRAMES,
        torch.arange(height) * (_SPACE_RATIO / _BASE_SIZE),
        torch.arange(wide) * (_SPACE_RATIO / _BASE_SIZE),
        indexing="ij",
    )
    positions = torch.stack([f, h, w], dim=-1).flatten(0, 2).float()  # (L, 3)
    angles = rates[:, None] * (positions[:, None] * 2 - 1)  # (L, count, 3)
    angles = angles.flatten(1).repeat_interleave(2, dim=-1)
    angles = functional.pad(angles, (width - angles.shape[1], 0))
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, table: Pair) -> Tensor:
    cosine, sine = table
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    return (x.float() * cosine + turned * sine).to(x.dtype)


@dataclass(frozen=True)
class Conditioning:
    """What every denoising step of a chunk reads and none changes, made once per chunk.

    Attributes:
        context: Keys and values (B, K + 1, width) of caption and actions, for the cross-attention of every block.
        rotary: Cosines and sines of the tokens of one view; see `rotary_table`.
    """

    context: tuple[Pair, ...]
    rotary: Pair


class _Norm(nn.RMSNorm):
    """RMSNorm whose weight follows its input: torch's fused kernel takes one type of number alone."""

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight  # None without elementwise_affine
        return functional.rms_norm(
            x, list(self.normalized_shape), None if weight is None else weight.to(x.dtype), self.eps
        )


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = _Norm(width, eps=1e-5)
        self.norm_k = _Norm(width, eps=1e-5)

    def keys_values(self, source: Tensor) -> Pair:
        """Keys and values of what is attended to."""
        return self.norm_k(self.to_k(source)), self.to_v(source)

    def forward(
        self,
        x: Tensor,
        context: Pair | None = None,
        rotary: Pair | None = None,
        join_views: bool = False,
        first: int = 0,
    ) -> Tensor:
        """Attend; x (B, V, L, width), keys and values of a context (B, n, width) shared by the views.

        Returns what the tokens from the `first` on get, (B, V, L - first, width).
        """
        asking = x[:, :, first:]
        query = self.norm_q(self.to_q(asking))
        key, value = self.keys_values(x) if context is None else context
        if rotary is not None:
            cosine, sine = rotary
            query, key = _rotate(query, (cosine[first:], sine[first:])), _rotate(key, rotary)

        start = 1 if context is not None or join_views else 0  # else views lie along the batch

        def split(tokens: Tensor) -> Tensor:
            tokens = tokens.flatten(start, start + 1) if tokens.dim() == 4 else tokens
            return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(split(query), split(key), split(value))
        return self.to_out[0](mixed.transpose(1, 2).reshape(asking.shape))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _Norm(width, eps=1e-6, elementwise_affine=False)
        self.attn1 = _Attention(width, heads)
        self.norm2 = _Norm(width, eps=1e-6, elementwise_affine=False)
        self.attn2 = _Attention(width, heads)
        self.ff = FeedForward(width, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self,
        x: Tensor,
        context: Pair,
        time: Tensor,
        rotary: Pair,
        sizes: list[int],
        join_views: bool,
        future_only: bool = False,
    ) -> Tensor:
        terms = (self.scale_shift_table + time.unflatten(-1, (6, -1))).to(x.dtype)  # (B, V, 2, 6, width)
        shift1, scale1, gate1, shift2, scale2, gate2 = terms.unbind(dim=3)
        first = sizes[0] if future_only else 0
        attended = self.attn1(_modulate(self.norm1(x), sizes, scale1, shift1), None, rotary, join_views, first)
        if future_only:  # the history is only looked at
            x, sizes = x[:, :, first:], [0, sizes[1]]
        x = x + _gate(attended, sizes, gate1)
        x = x + self.attn2(x, context)
        return x + _gate(self.ff(_modulate(self.norm2(x), sizes, scale2, shift2)), sizes, gate2)


def _modulate(x: Tensor, sizes: list[int], scale: Tensor, shift: Tensor) -> Tensor:
    """Tokens x (1 + scale) + shift; terms (B, V, 2, width), for the tokens of the history and of the future."""
    return _by_time(x, sizes, lambda part, i: part * (1 + scale[:, :, i, None]) + shift[:, :, i, None])


def _gate(x: Tensor, sizes: list[int], gate: Tensor) -> Tensor:
    return _by_time(x, sizes, lambda part, i: part * gate[:, :, i, None])


def _by_time(x: Tensor, sizes: list[int], change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Change the tokens (B, V, L, width) of the history (0) and of the future (1), so many of each."""
    parts = [change(part, i) for i, part in enumerate(x.split(sizes, dim=2)) if sizes[i]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _ActionAttention(nn.Module):
    def __init__(self, config: OfficialConfig) -> None:
        super().__init__()
        inner = config.action_heads * config.action_head_dim
        self.heads, self.dropout = config.action_heads, config.action_dropout
        self.norm = nn.LayerNorm(config.action_width)
        self.to_qkv = nn.Linear(config.action_width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.action_width), nn.Dropout(config.action_dropout))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


def _action_feed_forward(config: OfficialConfig) -> nn.Module:
    width, hidden, dropout = config.action_width, config.action_mlp, config.action_dropout
    first = [nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(OrderedDict(net=nn.Sequential(*first, nn.Linear(hidden, width), nn.Dropout(dropout))))


class _ActionEncoder(nn.Module):
    """Action tokens (B, K, 30) to what is added to the caption, (B, K + 1, 4096); adds nothing before training."""

    def __init__(self, config: OfficialConfig) -> None:
        super().__init__()
        width = config.action_width
        self.cls_token = nn.Parameter(torch.randn(width))
        self.to_patch_embedding = nn.Sequential(
            nn.LayerNorm(config.action_dim), nn.Linear(config.action_dim, width), nn.LayerNorm(width)
        )
        parts = ([_ActionAttention(config), _action_feed_forward(config)] for _ in range(config.action_layers))
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(nn.ModuleList(pair) for pair in parts)})
        head = nn.Linear(width, config.caption_dim)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), head)

    def forward(self, actions: Tensor) -> Tensor:
        x = self.to_patch_embedding(actions)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        half = x.shape[-1] // 2
        rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None] * rates
        x = x + torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype)
        for layer in self.transformer["layers"].children():
            for part in layer.children():
                x = x + part(x)
        return self.mlp_head(x)


class OfficialNetwork(nn.Module):
    """The released network.

    Args:
        config: Its sizes.

    Attributes:
        checkpointing: Whether blocks are computed again in the backward pass instead of keeping their activations.
    """

    def __init__(self, config: OfficialConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.checkpointing = False
        self.proj_in = nn.Linear(config.latent_channels, width)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.time_embed = AdaLayerNormSingle(width, use_additional_conditions=False)
        self.view_embed = nn.Parameter(torch.randn(config.views, width))
        self.view_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.caption_projection = PixArtAlphaTextProjection(config.caption_dim, width)
        self.act_in = nn.Linear(config.act_in_dim, config.caption_dim)  # in the checkpoint, but never used
        self.act_vit_in = _ActionEncoder(config)
        self.transformer_blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(width, config.latent_channels)

    def halve(self) -> None:
        """Keep the weights that every token meets in bf16, to imagine with; those of time, views and actions stay."""
        for part in (self.transformer_blocks, self.proj_in, self.proj_out):
            part.to(torch.bfloat16)

    @property
    def halved(self) -> bool:
        """Whether the weights of the blocks are in bf16."""
        return self.proj_in.weight.dtype == torch.bfloat16

    def condition(self, actions: Tensor, caption: Tensor, frames: int, height: int, wide: int) -> Conditioning:
        """What depends on neither latents nor time; arguments as in `forward`, and the size of its latents."""
        encoded = self.act_vit_in(actions)
        context = self.caption_projection(caption[: encoded.shape[1]].to(encoded.dtype) + encoded)
        context = context.to(torch.bfloat16) if self.halved else context
        with torch.device("cpu"):  # also where the rest only counts, on torch's meta device
            cosine, sine = rotary_table(self.config.width, frames, height, wide, self.config.frame_rate)
        readers: list[Any] = [block.attn2 for block in self.transformer_blocks]
        return Conditioning(
            tuple(reader.keys_values(context) for reader in readers),
            (cosine.to(actions.device), sine.to(actions.device)),
        )

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        history: int,
        actions: Tensor,
        caption: Tensor,
        conditioning: Conditioning | None = None,
    ) -> Tensor:
        """Predict the velocity noise - x0 of the future latents.

        Args:
            latents: (B, V, F, C, h, w), the first `history` frames clean, the rest noisy.
            timestep: (B,), 0 to 1000.
            history: Number of history frames.
            actions: Action tokens (B, K, 30).
            caption: Embedding (n, caption_dim) of the empty caption, n > K. Only the first K + 1 tokens matter: the
                released model masks the others out.
            conditioning: What `condition` made of `actions` and `caption`, where they are the same in many calls.

        Returns:
            (B, V, F - history, C, h, w).
        """
        batch, views, frames, _, height, wide = latents.shape
        if views > self.config.views:
            raise ConfigError(f"{views} cameras, but the official model has room for {self.config.views}")
        tokens = latents.permute(0, 1, 2, 4, 5, 3).flatten(2, 4)
        x = self.proj_in(tokens.to(torch.bfloat16) if self.halved else tokens)
        sizes = [history * height * wide, (frames - history) * height * wide]
        known = conditioning or self.condition(actions, caption, frames, height, wide)
        both = torch.stack([torch.zeros_like(timestep), timestep], dim=1)  # the history is clean: time 0
        view = self.view_embed[:views, None]
        time, embedded = self.time_embed(both.flatten(), batch_size=batch, hidden_dtype=view.dtype)
        time = time.unflatten(0, (batch, 1, 2)) + self.view_ada(view)
        embedded = embedded.unflatten(0, (batch, 1, 2)) + view
        last = len(known.context) - 1
        again = self.checkpointing and torch.is_grad_enabled()
        call: Call = partial(checkpoint, use_reentrant=False) if again else plain
        for i, (block, context) in enumerate(zip(self.transformer_blocks, known.context, strict=True)):
            join = i % self.config.cross_view_every == 0
            x = call(block, x, context, time, known.rotary, sizes, join, future_only=i == last)
        shift, scale = self.scale_shift_table  # (width,) each; only the future is read out
        future = embedded[:, :, 1, None]
        x = self.norm_out(x) * (1 + scale + future).to(x.dtype) + (shift + future).to(x.dtype)
        return self.proj_out(x).unflatten(2, (frames - history, height, wide)).permute(0, 1, 2, 5, 3, 4)


class OfficialTransformer(nn.Module):
    """The released network behind the interface of `LatentTransformer`.

    Args:
        config: Its sizes.
        history: History frames T.

    Attributes:
        caption: T5-XXL's embedding of the empty caption (K + 1, caption_dim); zero until `load_official` is given it.
    """

    caption: Tensor

    def __init__(self, config: OfficialConfig, history: int) -> None:
        super().__init__()
        self.network = OfficialNetwork(config)
        self.history = history
        self.register_buffer("caption", torch.zeros(config.action_tokens + 1, config.caption_dim))

    def condition(self, future: Tensor, history: Tensor, actions: Tensor) -> Conditioning:
        """What every denoising step of a chunk shares; arguments as in `forward`."""
        frames = history.shape[2] + future.shape[2]
        with self._autocast():
            return self.network.condition(actions, self.caption, frames, *future.shape[-2:])

    def _autocast(self) -> Any:
        """Weights that are in bf16 are computed with as they are, others as the caller has it."""
        if self.network.halved:
            return torch.autocast(self.caption.device.type, enabled=False)
        return contextlib.nullcontext()

    def forward(
        self,
        future: Tensor,
        history: Tensor,
        sigma: Tensor,
        actions: Tensor,
        *unread: Tensor,
        conditioning: Conditioning | None = None,
    ) -> Denoised:
        """As `LatentTransformer.forward`; state and text are not read, joint states not predicted."""
        latents = torch.cat([history, future.to(history.dtype)], dim=2)
        inputs = (latents, 1000.0 * sigma, history.shape[2], actions, self.caption, conditioning)
        with self._autocast():
            return Denoised(self.network(*inputs).float())


def load_official(
    model: OfficialTransformer, tensors: dict[str, Tensor], caption: Tensor, without_actions: bool = False
) -> None:
    """Load the released weights, strictly.

    Args:
        model: Where to.
        tensors: State dict of `diffusion_pytorch_model.safetensors`.
        caption: T5-XXL's embedding of the empty caption (n, caption_dim), n > K.
        without_actions: Accept Genie-Envisioner's weights, which lack `act_vit_in.*` (and `act_in.*`) and may hold an
            action expert (`action_*`), which is left out.

    Raises:
        CheckpointError: If something differs: see `rise_env.pretrained.misfits`.
    """
    expected = model.network.state_dict()
    given = dict(tensors)
    if without_actions:
        given = {name: tensor for name, tensor in given.items() if not name.startswith("action_")}
        new = {name: tensor for name, tensor in expected.items() if name.startswith(("act_vit_in.", "act_in."))}
        given = {**new, **given}
    if problems := misfits(given, expected):
        hint = ""
        if any("missing act_vit_in" in problem for problem in problems):
            hint = " Genie-Envisioner's weights have no action encoder: load them with without_actions=True."
        raise CheckpointError(f"this is not the official checkpoint: {listed(problems)}.{hint}")
    model.network.load_state_dict(given)
    if caption.dim() != 2 or len(caption) < len(model.caption) or caption.shape[1] != model.caption.shape[1]:
        raise CheckpointError(
            f"the caption embedding has shape {tuple(caption.shape)}, "
            f"expected at least {tuple(model.caption.shape)} (tokens, width)"
        )
    if problems := flaws({"caption embedding": caption}):
        raise CheckpointError(f"the file of the caption is damaged: {listed(problems)}")
    model.caption.copy_(caption[: len(model.caption)])
