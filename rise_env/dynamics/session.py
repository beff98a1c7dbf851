"""Where sessions of `LatentDynamics` stand, and what it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rise_env.protocols import Prediction

__all__ = ["DynamicsState", "LatentPrediction"]


@dataclass(frozen=True)
class DynamicsState:
    """Where B sessions stand; every tensor has the leading axis B.

    Attributes:
        history: Normalised latents (B, T, V, C, h, w), oldest first, `stride` control steps apart.
        state: Joint states of the current frame (B, D), rad and m.
        text: Hashed words of the instruction (B, W).
        details: The recorded frame that the session started from, and what the autoencoder makes of it, uint8
            (B, 2, V, H, W, 3); (B, 0) where `config.details` is 0.
    """

    history: torch.Tensor
    state: torch.Tensor
    text: torch.Tensor
    details: torch.Tensor


@dataclass(frozen=True)
class LatentPrediction(Prediction):
    """An imagined chunk; the `latents` (B, F, V, C, h, w) of a video autoencoder are fewer than the K frames.

    Attributes:
        details: See `DynamicsState`.
        frames: uint8 (B, K, V, H, W, 3) of a video autoencoder: decoded at once, as the next history is made from them.
    """

    details: torch.Tensor | None = None
    frames: torch.Tensor | None = None
