"""The structure of the official implementation, to be timed beside ours with the same weights.

Written from its public description. What it does and `LatentDynamics` does not:

* The cross-attention of every block reads all tokens of the caption, with a mask, and its keys and values are made anew
  in every denoising step, as are action tokens and rotary positions. (T5 itself is not run: the caption is empty.)
* The time of every token is embedded, and every token has six modulation terms of its own.
* All tokens go through the last block and are read out, those of the history as well.
* The autoencoder is called once for every view of every environment; every chunk is decoded and encoded again at once.
* Nothing is compiled.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, override

import torch
from torch import Tensor, nn
from torch.nn import functional

from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialTransformer
from rise_env.dynamics.official_layers import rotary_table
from rise_env.dynamics.session import DynamicsState
from rise_env.dynamics.transformer import Denoised
from rise_env.protocols import Prediction

__all__ = ["OfficialBaseline", "baseline_of", "largest_difference"]

_MASKED = -10000.0


class OfficialBaseline(nn.Module):
    """The forward pass as described above, behind the interface of `OfficialTransformer`, whose weights it shares."""

    def __init__(self, transformer: OfficialTransformer) -> None:
        super().__init__()
        self.network, self.caption = transformer.network, transformer.caption

    def condition(self, *_: Tensor) -> None:
        """Nothing is shared by the steps of a chunk."""

    def forward(
        self, future: Tensor, history: Tensor, sigma: Tensor, actions: Tensor, *unread: Tensor, conditioning: Any = None
    ) -> Denoised:
        network: Any = self.network
        config = network.config
        latents = torch.cat([history, future.to(history.dtype)], dim=2)
        batch, views, frames, _, height, wide = latents.shape
        x = latents.permute(0, 1, 2, 4, 5, 3).flatten(2, 4)  # (B, V, L, C)
        length = x.shape[2]
        known = history.shape[2] * height * wide
        x = network.proj_in(x.to(network.proj_in.weight.dtype))

        encoded = network.act_vit_in(actions)
        text = functional.pad(self.caption, (0, 0, 0, config.caption_tokens - len(self.caption))).to(encoded.dtype)
        text = text + functional.pad(encoded, (0, 0, 0, config.caption_tokens - encoded.shape[1]))
        text = network.caption_projection(text).to(x.dtype)  # (B, 128, width)
        mask = torch.full((1, config.caption_tokens), _MASKED, dtype=x.dtype, device=x.device)
        mask[:, : encoded.shape[1]] = 0

        times = (1000.0 * sigma)[:, None, None].repeat(1, views, length)
        times[:, :, :known] = 0
        view = network.view_embed[:views, None]
        time, embedded = network.time_embed(times.flatten(), batch_size=batch, hidden_dtype=view.dtype)
        time = (time.unflatten(0, (batch, views, length)) + network.view_ada(view)).to(x.dtype)
        embedded = (embedded.unflatten(0, (batch, views, length)) + view).to(x.dtype)
        cosine, sine = (
            part.to(x.device) for part in rotary_table(config.width, frames, height, wide, config.frame_rate)
        )

        for i, block in enumerate(network.transformer_blocks):
            terms = (block.scale_shift_table + time.unflatten(-1, (6, -1))).to(x.dtype)  # (B, V, L, 6, width)
            shift1, scale1, gate1, shift2, scale2, gate2 = terms.unbind(dim=3)
            own = block.norm1(x) * (1 + scale1) + shift1
            x = x + gate1 * _attend(block.attn1, own, own, (cosine, sine), join=i % config.cross_view_every == 0)
            x = x + _attend(block.attn2, x, text[:, None], mask=mask, join=True)
            x = x + gate2 * block.ff(block.norm2(x) * (1 + scale2) + shift2)
        shift, scale = (part.to(x.dtype) for part in network.scale_shift_table)
        x = network.proj_out((network.norm_out(x) * (1 + scale + embedded) + shift + embedded).to(x.dtype))
        x = x.unflatten(2, (frames, height, wide)).permute(0, 1, 2, 5, 3, 4)
        return Denoised(x[:, :, history.shape[2] :].float())


def _attend(
    attention: Any, x: Tensor, source: Tensor, rotary: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None,
    join: bool = False,
) -> Tensor:  # fmt: skip
    """Attention of tokens x (B, V, L, width) to a source (B, V or 1, n, width)."""
    query, key = attention.norm_q(attention.to_q(x)), attention.norm_k(attention.to_k(source))
    value = attention.to_v(source)
    if rotary is not None:
        query, key = (_rotate(part, *rotary) for part in (query, key))

    def split(tokens: Tensor) -> Tensor:
        tokens = tokens.flatten(1, 2) if join else tokens.flatten(0, 1)
        return tokens.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    mixed = functional.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask)
    return attention.to_out[0](mixed.transpose(1, 2).reshape(x.shape))


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return (x.float() * cosine + torch.stack([-second, first], dim=-1).flatten(-2) * sine).to(x.dtype)


class _BaselineDynamics(LatentDynamics):
    """`LatentDynamics` that goes on from a chunk whether or not anybody will."""

    @override
    def predict(
        self, state: DynamicsState, actions: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, DynamicsState]:
        prediction, following = super().predict(state, actions, generators)
        if following.pending is not None:
            with torch.no_grad(), self._inference():
                following.pending.taken_in(following.history, self._decode, self._encode)
        return prediction, following


def baseline_of(dynamics: LatentDynamics) -> LatentDynamics:
    """The official structure with the weights of a dynamics model with the official transformer; not compiled."""
    other = copy.copy(dynamics.with_settings({"compile": False}))
    other.__class__ = _BaselineDynamics
    other._modules = dict(dynamics._modules)
    transformer: Any = dynamics.transformer
    other.transformer = OfficialBaseline(transformer)
    autoencoder: Any = copy.copy(dynamics.autoencoder)
    if not autoencoder.per_frame:
        autoencoder.config = dataclasses.replace(autoencoder.config, frames_at_once=1)  # one video a call
    other.autoencoder = autoencoder
    return other


@torch.no_grad()
def largest_difference(ours: LatentDynamics, theirs: LatentDynamics, state: Any, actions: Tensor) -> float:
    """Largest difference of what two dynamics models imagine from the same noise, in latents (deviation 1)."""
    latents = []
    for model in (ours, theirs):
        noise = [torch.Generator().manual_seed(seed) for seed in range(len(actions))]
        prediction, _ = model.predict(state, actions, noise)
        assert prediction.latents is not None
        latents.append(prediction.latents)
    return float((latents[0] - latents[1]).abs().max())
