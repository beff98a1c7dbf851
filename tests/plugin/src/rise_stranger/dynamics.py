"""A dynamics model of a stranger: the cameras' pictures move sideways as the joints are told to move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from rise_env.alignment import align_actions
from rise_env.errors import ConfigError
from rise_env.pretrained import PretrainedMixin
from rise_env.protocols import History, Prediction


@dataclass(frozen=True)
class DriftState:
    """The present of B sessions: frames uint8 (B, V, H, W, 3) and joint states float32 (B, D)."""

    frames: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True)
class DriftPrediction(Prediction):
    """Pixels uint8 (B, K, V, H, W, 3); there are no latents."""

    frames: torch.Tensor | None = None


class Drift(PretrainedMixin, nn.Module):
    """Shifts the last frame by `pixels` per rad of mean joint motion.

    Args:
        stride: Control steps per imagined frame.
        pixels: Shift per rad.
    """

    kind, title = "stranger-drift", "dynamics model"
    pixels: torch.Tensor

    def __init__(self, stride: int, pixels: float = 40.0) -> None:
        super().__init__()
        self.stride, self.device = stride, torch.device("cpu")
        self.register_buffer("pixels", torch.tensor(pixels))

    def open(self, history: History) -> DriftState:
        return DriftState(history.frames[:, -1], history.states[:, -1])

    def predict(
        self, state: DriftState, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[DriftPrediction, DriftState]:
        targets = align_actions(actions, self.stride, "last")
        moved = (targets.double() - state.states[:, None].double()).mean(-1) * self.pixels
        rows = []
        for frames, shifts in zip(state.frames, moved.round().long().tolist(), strict=True):
            rows.append(torch.stack([frames.roll(shift, dims=2) for shift in shifts]))
        frames = torch.stack(rows)
        return DriftPrediction(None, targets, frames=frames), DriftState(frames[:, -1], targets[:, -1])

    def decode(self, prediction: Prediction, index: Sequence[int]) -> torch.Tensor:
        assert isinstance(prediction, DriftPrediction)
        assert prediction.frames is not None
        return prediction.frames[:, list(index)]

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        raise ConfigError("Drift has no latents: use a value model that reads pixels")

    def select(self, state: DriftState, index: torch.Tensor) -> DriftState:
        return DriftState(state.frames[index], state.states[index])

    def merge(self, state: DriftState, index: torch.Tensor, other: DriftState) -> DriftState:
        pairs = ((state.frames, other.frames), (state.states, other.states))
        return DriftState(*(mine.index_copy(0, index, theirs) for mine, theirs in pairs))

    def close(self, state: DriftState) -> None:
        pass

    def offload(self) -> None:
        pass

    def onload(self) -> None:
        pass

    def get_config(self) -> dict[str, Any]:
        return {"stride": self.stride}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        return cls(config["stride"])
