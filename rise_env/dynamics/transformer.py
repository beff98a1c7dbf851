"""The transformer that moves latents: tokens of all views, modulated by time, actions and joint state."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rise_env.dynamics.config import TransformerConfig
from rise_env.errors import requirement

__all__ = ["Denoised", "LatentTransformer", "sinusoid"]


class Denoised(NamedTuple):
    """What one evaluation of a transformer gives.

    Attributes:
        latents: Like the noisy input, float32; what they mean is `FlowConfig.target`.
        states: Normalised joint states at the imagined frames as a difference to the command (B, K, D), or None.
        values: Logits of the value of every imagined frame, one row per member of the ensemble (M, B, K), or None.
    """

    latents: Tensor
    states: Tensor | None = None
    values: Tensor | None = None


def sinusoid(value: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of values (n,), cosines first: float32 (n, width)."""
    half = width // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angles = value.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Attention(nn.Module):
    """Multi-head attention; keys and values from `context` where it is given."""

    def __init__(self, width: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width) if cross else None
        self.projection = nn.Linear(width, (2 if cross else 3) * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.query is None:
            parts = self.projection(x).chunk(3, dim=-1)
        else:
            parts = (self.query(x), *self.projection(context).chunk(2, dim=-1))
        mixed = _attend(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts))
        return self.output(mixed.transpose(1, 2).flatten(2))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot product attention (B, heads, L, channels)."""
    if query.device.type == "cpu" and query.requires_grad:  # the fused kernel's backward is ten times slower there
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value)


class Block(nn.Module):
    """Self-attention within a view or across views, attention to the actions, feed-forward; adaptive layer norms.

    Tokens come as (B, V, L, width), modulation as one vector per group of tokens, (B, G, width); `sizes` says how many
    of a view's L tokens belong to each group.
    """

    def __init__(self, config: TransformerConfig, across_views: bool, to_actions: bool) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.across_views = across_views
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, config.heads)
        self.actions = Attention(width, config.heads, cross=True) if to_actions else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        rank = config.modulation_rank
        terms = nn.Linear(rank or width, 6 * width)
        self.modulation = nn.Sequential(*([nn.Linear(width, rank)] if rank else []), terms)
        nn.init.zeros_(terms.weight)
        nn.init.zeros_(terms.bias)
        with torch.no_grad():  # gates start open: the head, not the blocks, starts at zero
            terms.bias[2 * width : 3 * width] = 1.0
            terms.bias[5 * width :] = 1.0

    def forward(self, x: Tensor, condition: Tensor, context: Tensor, sizes: tuple[int, ...]) -> Tensor:
        terms = spread_groups(self.modulation(condition), sizes).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = terms
        tokens = self.norm1(x) * (1.0 + scale1) + shift1
        tokens = tokens.flatten(1, 2) if self.across_views else tokens.flatten(0, 1)
        x = x + gate1 * self.attention(tokens).view_as(x)
        if self.actions is not None:
            x = x + self.actions(x.flatten(1, 2), context).view_as(x)
        return x + gate2 * self.feed_forward(self.norm2(x) * (1.0 + scale2) + shift2)


def spread_groups(terms: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Group vectors (B, G, m) to something that broadcasts over tokens (B, V, L, m)."""
    if len(sizes) == 1:
        return terms[:, None]
    parts = [terms[:, group, None].expand(-1, size, -1) for group, size in enumerate(sizes)]
    return torch.cat(parts, dim=1)[:, None]


class ActionEncoder(nn.Module):
    """The official way to tell actions: a small transformer whose zero-initialised output is added to the caption."""

    def __init__(self, action_dim: int, frames: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(action_dim), nn.Linear(action_dim, width), nn.LayerNorm(width))
        self.summary = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, frames + 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, width)
        self.caption = nn.Parameter(torch.randn(1, frames + 1, width) * 0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, actions: Tensor) -> Tensor:
        tokens = torch.cat([self.summary.expand(len(actions), -1, -1), self.embed(actions)], dim=1)
        return self.caption + self.head(self.layers(tokens + self.positions))


class ValueHead(nn.Module):
    """Values of the imagined frames, read off the tokens of all views: one query per frame, then an ensemble."""

    def __init__(self, config: TransformerConfig, frames: int) -> None:
        super().__init__()
        width, hidden = config.width, config.width // 2
        self.queries = nn.Parameter(torch.randn(1, frames, width) * 0.02)
        self.condition = nn.Linear(width, width)
        self.read = Attention(width, config.heads, cross=True)
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Parameter(torch.randn(config.value_head, width, hidden) * width**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(config.value_head, 1, hidden))
        self.outer = nn.Parameter(torch.randn(config.value_head, hidden, 1) * 0.1 * hidden**-0.5)
        self.outer_bias = nn.Parameter(torch.zeros(config.value_head, 1, 1))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, L, width) and the condition (B, width) to logits float32 (M, B, K)."""
        queries = self.queries + self.condition(condition)[:, None]
        read = self.norm(queries + self.read(queries, tokens)).float()
        hidden = functional.silu(torch.einsum("bkw,mwh->mbkh", read, self.inner) + self.inner_bias[:, None])
        return (torch.einsum("mbkh,mho->mbko", hidden, self.outer) + self.outer_bias[:, None])[..., 0].float()


class LatentTransformer(nn.Module):
    """Predicts the future latents of all views from noisy ones, the history and the actions.

    Args:
        config: Its sizes and forms.
        views: Cameras V.
        latent_shape: (C, h, w) of one latent frame.
        history: History frames T.
        future: Latent frames F to imagine.
        frames: Imagined frames K, one action token each.
        action_dim: Width of an action token.
        joints: Joints D.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        views: int,
        latent_shape: tuple[int, int, int],
        history: int,
        future: int,
        frames: int,
        action_dim: int,
        joints: int,
    ) -> None:
        super().__init__()
        channels, height, wide = latent_shape
        self.config = config
        self.context = [index % history for index in config.context or range(history)]
        self.time_patch = config.time_patch or future
        self.places = (height // config.patch[0], wide // config.patch[1])
        self.groups = future // self.time_patch
        self.frames, self.joints = frames, joints
        require = requirement("section 'dynamics.transformer'")
        rest = height % config.patch[0] or wide % config.patch[1]
        require(not rest, f"patch {config.patch} does not divide latents of {height} x {wide}")
        rest = future % self.time_patch or frames % self.groups
        require(not rest, f"time_patch {self.time_patch} does not divide {future} latent frames")
        width, per_token = config.width, config.patch[0] * config.patch[1] * channels
        self.read_future = nn.Linear(per_token * self.time_patch, width)
        self.read_history = nn.Linear(per_token * len(self.context), width)
        self.space = nn.Parameter(torch.randn(1, 1, 1, math.prod(self.places), width) * 0.02)
        self.view = nn.Parameter(torch.randn(1, views, 1, 1, width) * 0.02)
        self.group = nn.Parameter(torch.randn(1, 1, self.groups + 1, 1, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        in_tokens, in_caption = config.conditioning != "caption", config.conditioning != "tokens"
        if in_tokens:
            self.all_actions = _mlp(frames * action_dim, width, width)
            self.frame_actions = nn.Linear(frames // self.groups * action_dim, width)
            self.action_tokens = nn.Linear(action_dim, width)
            self.action_positions = nn.Parameter(torch.randn(1, frames, width) * 0.02)
        if in_caption:
            self.action_encoder = ActionEncoder(action_dim, frames, width, config.heads, config.action_depth)
        if config.use_state:
            self.state = _mlp(joints, width, width)
        if config.text_buckets:
            self.text = nn.EmbeddingBag(config.text_buckets, width, mode="mean", padding_idx=0)
        every = config.cross_attention_every
        self.blocks = nn.ModuleList(
            Block(config, i % config.cross_view_every == 0, bool(every) and i % every == 0) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, per_token * self.time_patch)
        self.state_head = _mlp(2 * width, width, frames * joints) if config.state_head else None
        self.value_head = ValueHead(config, frames) if config.value_head else None
        for layer in (self.head, self.last_modulation, *([self.state_head[-1]] if self.state_head else [])):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, future: Tensor, history: Tensor, sigma: Tensor, actions: Tensor, state: Tensor, text: Tensor
    ) -> Denoised:
        """Predict.

        Args:
            future: Noisy latents (B, V, F, C, h, w).
            history: Clean latents (B, V, T, C, h, w), oldest first.
            sigma: Noise level of `future`, (B,).
            actions: Action tokens (B, K, A).
            state: Normalised joint state of the current frame (B, D).
            text: Hashed words (B, W), 0 where there is none.
        """
        config = self.config
        places = math.prod(self.places)
        past = self.read_history(self._patches(history[:, :, self.context], len(self.context)))
        tokens = self.read_future(self._patches(future, self.time_patch)) + self.view + self.space
        tokens = tokens + self.group[:, :, : self.groups]
        condition = torch.zeros(len(future), config.width, device=future.device)
        contexts = []
        if config.conditioning != "caption":
            grouped = actions.unflatten(1, (self.groups, -1)).flatten(2)
            tokens = tokens + self.frame_actions(grouped)[:, None, :, None]
            condition = condition + self.all_actions(actions.flatten(1))
            contexts.append(self.action_tokens(actions) + self.action_positions)
        if config.conditioning != "tokens":
            contexts.append(self.action_encoder(actions))
        if config.use_state:
            condition = condition + self.state(state)
        if config.text_buckets:
            condition = condition + self.text(text)
        times = torch.stack([sigma], dim=1)
        sizes: tuple[int, ...] = (self.groups * places,)
        if config.history == "channels":
            tokens = tokens + past
        else:
            past = past + self.view + self.space + self.group[:, :, -1:]
            tokens = torch.cat([past, tokens], dim=2)
            times = torch.stack([torch.zeros_like(sigma), sigma], dim=1)  # the history is clean
            sizes = (places, *sizes)
        embedded = self.time(sinusoid(1000.0 * times.flatten(), 256)).unflatten(0, times.shape)
        condition = functional.silu(embedded + condition[:, None])
        tokens = tokens.flatten(2, 3)
        context = torch.cat(contexts, dim=1)
        for block in self.blocks:
            tokens = block(tokens, condition, context, sizes)
        tokens, condition = tokens[:, :, -sizes[-1] :], condition[:, -1]
        shift, scale = self.last_modulation(condition)[:, None, None].chunk(2, dim=-1)
        tokens = self.norm(tokens)
        states = None
        if self.state_head is not None:
            summary = torch.cat([tokens.mean(dim=(1, 2)), condition], dim=-1)
            states = self.state_head(summary).unflatten(-1, (self.frames, self.joints)).float()
        values = None if self.value_head is None else self.value_head(tokens.flatten(1, 2), condition)
        return Denoised(self._frames(self.head(tokens * (1.0 + scale) + shift)).float(), states, values)

    def _patches(self, latents: Tensor, time_patch: int) -> Tensor:
        """(B, V, F, C, h, w) to (B, V, groups, places, channels of a token)."""
        batch, views, frames, channels, height, wide = latents.shape
        ph, pw = self.config.patch
        x = latents.reshape(batch, views, frames // time_patch, time_patch, channels, height // ph, ph, wide // pw, pw)
        return x.permute(0, 1, 2, 5, 7, 3, 4, 6, 8).flatten(5).flatten(3, 4)

    def _frames(self, tokens: Tensor) -> Tensor:
        """Inverse of `_patches` for the future: (B, V, groups x places, channels) to (B, V, F, C, h, w)."""
        batch, views = tokens.shape[:2]
        ph, pw = self.config.patch
        x = tokens.reshape(batch, views, self.groups, *self.places, self.time_patch, -1, ph, pw)
        x = x.permute(0, 1, 2, 5, 6, 3, 7, 4, 8)
        return x.flatten(7, 8).flatten(5, 6).flatten(2, 3)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
