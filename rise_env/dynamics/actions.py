"""Joints between the environment's physical units and the model's, and action chunks as tokens of imagined frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rise_env.alignment import align_actions, aligned_dim
from rise_env.errors import ConfigError

__all__ = ["JointScaler", "hash_text"]


class JointScaler(nn.Module):
    """Normalises joint states and turns action chunks into tokens, one per imagined frame.

    Its statistics are buffers and travel with the weights of the model. A joint that never moves is left near zero.

    Args:
        joints: Joints D.
        stride: Control steps per imagined frame.
        alignment: Which actions belong to an imagined frame; see `rise_env.alignment`.
        relative: Whether a token also holds the actions relative to the current joint state.
        width: Width to which tokens are padded with zeros; None for none.
        form: "mean_std", or "min_max" to [-1, 1] as the official model has it.
    """

    def __init__(
        self, joints: int, stride: int, alignment: str, relative: bool, width: int | None = None, form: str = "mean_std"
    ) -> None:
        super().__init__()
        self.joints, self.stride, self.alignment = joints, stride, alignment
        self.relative, self.form = relative, form
        self.used = aligned_dim(joints, stride, alignment) * (2 if relative else 1)
        self.width = self.used if width is None else width
        if self.used > self.width:
            raise ConfigError(
                f"an action token of {self.used} numbers (alignment {alignment!r}, {joints} joints) does not fit into "
                f"{self.width}: choose alignment 'target' or a wider dynamics.official.action_dim"
            )
        for name in ("state_shift", "action_shift", "relative_shift"):
            self.register_buffer(name, torch.zeros(joints))
        for name in ("state_scale", "action_scale", "relative_scale"):
            self.register_buffer(name, torch.ones(joints))

    state_shift: torch.Tensor
    state_scale: torch.Tensor
    action_shift: torch.Tensor
    action_scale: torch.Tensor
    relative_shift: torch.Tensor
    relative_scale: torch.Tensor

    def fit(self, state: np.ndarray, action: np.ndarray, relative: np.ndarray) -> None:
        """Take the statistics from training data.

        Args:
            state: Joint states (n, D).
            action: Actions (n, D).
            relative: Actions minus the joint state of their chunk's current frame (n, D).
        """
        for name, values in (("state", state), ("action", action), ("relative", relative)):
            shift, scale = _statistics(np.asarray(values, np.float64), self.form)
            getattr(self, f"{name}_shift").copy_(torch.as_tensor(shift))
            getattr(self, f"{name}_scale").copy_(torch.as_tensor(scale))

    def set_ranges(self, shift: np.ndarray, scale: np.ndarray) -> None:
        """Normalise actions and states by (x - shift) / scale, given (D,) each, as a published model was trained."""
        for name in ("state", "action", "relative"):
            getattr(self, f"{name}_shift").copy_(torch.as_tensor(shift if name != "relative" else np.zeros_like(shift)))
            getattr(self, f"{name}_scale").copy_(torch.as_tensor(scale))

    def normalise_state(self, states: torch.Tensor) -> torch.Tensor:
        """Joint states (..., D) in rad and m to model units."""
        return (states - self.state_shift) / self.state_scale

    def command_at_frames(self, actions: torch.Tensor) -> torch.Tensor:
        """The last command before each imagined frame: (B, H, D) to (B, K, D), physical units."""
        return align_actions(actions, self.stride, "last")

    def add_residual(self, command: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Joint states (B, K, D) that lie `residual` (model units) from the command (physical units)."""
        return command + residual * self.relative_scale

    def residual(self, states: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
        """Inverse of `add_residual`: what a state head learns."""
        return (states - command) / self.relative_scale

    def tokens(self, actions: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Action chunks (B, H, D) with the current joint states (B, D), physical units, to tokens (B, K, A)."""
        parts = [(actions - self.action_shift) / self.action_scale]
        if self.relative:
            parts.append((actions - state[:, None] - self.relative_shift) / self.relative_scale)
        tokens = torch.cat([align_actions(part, self.stride, self.alignment) for part in parts], dim=-1)
        return nn.functional.pad(tokens, (0, self.width - self.used))


def _statistics(values: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    if form == "min_max":
        low, high = values.min(axis=0), values.max(axis=0)
        return (low + high) / 2, np.where(high - low > 1e-4, (high - low) / 2, 1.0)
    scale = values.std(axis=0)
    return values.mean(axis=0), np.where(scale > 1e-4, scale, 1.0)


def hash_text(prompts: Sequence[str], buckets: int, words: int = 32) -> torch.Tensor:
    """Instructions as hashed words, int64 (B, words), 0 where there is none; (B, 0) for a model that reads no text."""
    if not buckets:
        return torch.zeros(len(prompts), 0, dtype=torch.int64)
    import zlib

    rows = [[1 + zlib.crc32(word.encode()) % (buckets - 1) for word in prompt.lower().split()] for prompt in prompts]
    padded: list[Any] = [row[:words] + [0] * (words - len(row[:words])) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(prompts), words)
