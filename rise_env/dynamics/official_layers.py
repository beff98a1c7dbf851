"""Layers of the official transformer: blocks, action encoder and rotary positions; see `rise_env.dynamics.official`."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn import functional

from rise_env.dynamics.config import OfficialConfig

__all__ = ["ActionEncoder", "Block", "Pair", "rotary_table"]

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


class Block(nn.Module):
    """Self-attention, attention to caption and actions, feed-forward; time and view modulate the first and the last."""

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
        context: Pair | Tensor,
        time: Tensor,
        rotary: Pair,
        sizes: list[int],
        join_views: bool,
        future_only: bool = False,
    ) -> Tensor:
        """Tokens x (B, V, L, width) of the next layer; a context is what is read, or its keys and values."""
        context = self.attn2.keys_values(context) if isinstance(context, Tensor) else context
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


class ActionEncoder(nn.Module):
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
        """See the class."""
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
