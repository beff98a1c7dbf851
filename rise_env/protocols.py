"""What the imagination environment asks of a dynamics model and of a value model. Any object that does this plugs in.

Axes: B environments, T history frames (oldest first, `stride` control steps apart, the current frame last), K imagined
frames (`chunk // stride`), V views in the order of `TaskSpec.cameras`, D joints. Images are uint8 (H, W, 3), joints are
float32 in physical units. Tensors live on the model's device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

__all__ = ["Dynamics", "History", "Prediction", "Value", "ValueEstimate"]


@dataclass(frozen=True)
class History:
    """Where imagination starts.

    Attributes:
        frames: uint8 (B, T, V, H, W, 3).
        states: float32 (B, T, D), rad and m.
        prompts: One instruction per environment.
    """

    frames: torch.Tensor
    states: torch.Tensor
    prompts: Sequence[str]


@dataclass(frozen=True)
class Prediction:
    """An imagined chunk.

    Attributes:
        latents: float (B, K, V, C, h, w), or None where the model has none; see `Value.reads_latents`.
        states: float32 (B, K, D) at the imagined frames if the model predicts them; None means "as commanded".
        uncertainty: float32 (B,), disagreement of the model with itself, or None.
        values: Values (B, K) of the imagined frames as the dynamics model itself predicts them, or None.
    """

    latents: torch.Tensor | None
    states: torch.Tensor | None = None
    uncertainty: torch.Tensor | None = None
    values: ValueEstimate | None = None


@runtime_checkable
class Dynamics(Protocol):
    """A world model's dynamics as a session: state in, imagined chunk and next state out.

    The session state is the model's own business, but it must hold tensors with a leading axis B only, so that
    `select` and `merge` can mix environments. A model whose predictions come with values says `predicts_values = True`.
    Classes that checkpoints name are registered in `rise_env.registry.DYNAMICS` and have `save_pretrained` and
    `from_pretrained` (`rise_env.pretrained.PretrainedMixin`).
    """

    device: torch.device

    def open(self, history: History) -> Any:
        """Start sessions; returns the session state."""

    def predict(
        self, state: Any, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, Any]:
        """Imagine one chunk.

        Args:
            state: Session state of B environments; not changed.
            actions: float32 (B, chunk, D), absolute joint targets, rad and m.
            generators: One CPU generator per environment; environment i draws from generator i alone, so that its
                prediction does not depend on the others.
        """

    def decode(self, prediction: Prediction, index: Sequence[int]) -> torch.Tensor:
        """Pixels of the imagined frames `index` (in 0..K-1): uint8 (B, len(index), V, H, W, 3)."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents of uint8 (B, T, V, H, W, 3): float (B, T, V, C, h, w), in the space of `Prediction.latents`."""

    def select(self, state: Any, index: torch.Tensor) -> Any:
        """Session state of some environments; `index` int64 (n,)."""

    def merge(self, state: Any, index: torch.Tensor, other: Any) -> Any:
        """Copy of `state` in which the environments `index` are those of `other`."""

    def close(self, state: Any) -> None:
        """End sessions."""

    def offload(self) -> None:
        """Move weights to the CPU."""

    def onload(self) -> None:
        """Move weights back to the device."""


@dataclass(frozen=True)
class ValueEstimate:
    """Values of frames.

    Attributes:
        value: float32 (B, T), progress-like, in [0, 1] for the progress head.
        spread: float32 (B, T), disagreement of the ensemble.
    """

    value: torch.Tensor
    spread: torch.Tensor


@runtime_checkable
class Value(Protocol):
    """A value model: batched over environments and time in one call, deterministic.

    Attributes:
        reads_latents: Whether it takes the dynamics' latents (`Dynamics.encode`) instead of pixels.
    """

    device: torch.device
    reads_latents: bool

    def estimate(self, frames: torch.Tensor, prompts: Sequence[str]) -> ValueEstimate:
        """Values of pixels uint8 (B, T, V, H, W, 3), or of latents float (B, T, V, C, h, w) if `reads_latents`."""
