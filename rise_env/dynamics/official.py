"""The transformer of the public RISE and Genie-Envisioner checkpoints (LTX 2B), name by name.

`OfficialNetwork` holds exactly the tensors of the released `diffusion_pytorch_model.safetensors` (797 of them,
1,990,672,572 numbers at the default size). `OfficialTransformer` wraps it for `LatentDynamics`: it adds the one thing
that the released model takes from T5-XXL, the embedding of the empty caption, which is a constant.

Views are cameras in the order top head, left hand, right hand; those of the task must come in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.normalization import AdaLayerNormSingle
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rise_env.dynamics.compiling import Call, plain
from rise_env.dynamics.config import OfficialConfig
from rise_env.dynamics.official_layers import ActionEncoder, Block, Pair, rotary_table
from rise_env.dynamics.transformer import Denoised
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import flaws, listed, misfits

__all__ = ["Conditioning", "OfficialNetwork", "OfficialTransformer", "load_official"]


@dataclass(frozen=True)
class Conditioning:
    """What every denoising step of a chunk reads and none changes, made once per chunk.

    Attributes:
        context: Keys and values (B, K + 1, width) of caption and actions, for the cross-attention of every block.
        rotary: Cosines and sines of the tokens of one view; see `rotary_table`.
    """

    context: tuple[Pair, ...]
    rotary: Pair


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
        self.act_vit_in = ActionEncoder(config)
        self.transformer_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
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
        context = self._context(actions, caption)
        readers: list[Any] = [block.attn2 for block in self.transformer_blocks]
        rotary = self._rotary(frames, height, wide, actions.device)
        return Conditioning(tuple(reader.keys_values(context) for reader in readers), rotary)

    def _context(self, actions: Tensor, caption: Tensor) -> Tensor:
        encoded = self.act_vit_in(actions)
        context = self.caption_projection(caption[: encoded.shape[1]].to(encoded.dtype) + encoded)
        return cast(Tensor, context.to(torch.bfloat16) if self.halved else context)

    def _rotary(self, frames: int, height: int, wide: int, device: torch.device) -> Pair:
        with torch.device("cpu"):  # also where the rest only counts, on torch's meta device
            cosine, sine = rotary_table(self.config.width, frames, height, wide, self.config.frame_rate)
        return cosine.to(device), sine.to(device)

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
        if conditioning is not None:
            contexts: Sequence[Pair | Tensor] = conditioning.context
            rotary = conditioning.rotary
        else:  # every block makes keys and values itself: its weights may be at hand there alone (FSDP)
            contexts = [self._context(actions, caption)] * len(self.transformer_blocks)
            rotary = self._rotary(frames, height, wide, latents.device)
        both = torch.stack([torch.zeros_like(timestep), timestep], dim=1)  # the history is clean: time 0
        view = self.view_embed[:views, None]
        time, embedded = self.time_embed(both.flatten(), batch_size=batch, hidden_dtype=view.dtype)
        time = time.unflatten(0, (batch, 1, 2)) + self.view_ada(view)
        embedded = embedded.unflatten(0, (batch, 1, 2)) + view
        last = len(contexts) - 1
        again = self.checkpointing and torch.is_grad_enabled()
        call: Call = partial(checkpoint, use_reentrant=False) if again else plain
        for i, (block, context) in enumerate(zip(self.transformer_blocks, contexts, strict=True)):
            join = i % self.config.cross_view_every == 0
            x = call(block, x, context, time, rotary, sizes, join, future_only=i == last)
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
