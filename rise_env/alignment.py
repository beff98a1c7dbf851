"""Action alignment: which actions of a chunk belong to which imagined frame. One function for training and imagination.

Time runs in control steps. A chunk starts at the current frame c: action k of the chunk is commanded at step c + k and
moves the scene from step c + k to c + k + 1. Imagined frames lie at c + s, c + 2s, ..., c + H for stride s and chunk H.
"""

from __future__ import annotations

from typing import Any

from rise_env.errors import ConfigError, check_known

__all__ = ["ALIGNMENTS", "align_actions", "aligned_dim"]

#: Named alignments. "interval": all s actions between the previous frame and this one, side by side (nothing is lost).
#: "last": the one action commanded just before the frame. "target": the action commanded *at* the frame's own step, as
#: the official release trains (arXiv 2602.11075); for the last frame, whose own step lies past the chunk, the last one.
ALIGNMENTS = ("interval", "last", "target")


def aligned_dim(dim: int, stride: int, alignment: str) -> int:
    """Width of one action token for actions of width `dim`."""
    check_known("action alignment", alignment, ALIGNMENTS)
    return dim * stride if alignment == "interval" else dim


def align_actions(actions: Any, stride: int, alignment: str) -> Any:
    """Turn action chunks into one token per imagined frame.

    Args:
        actions: (..., H, D) array or tensor, any unit; H a multiple of `stride`.
        stride: Control steps per imagined frame.
        alignment: One of `ALIGNMENTS`.

    Returns:
        (..., H // stride, D') of the same kind, with D' from `aligned_dim`.

    Raises:
        ConfigError: If the alignment is unknown or H is not a multiple of the stride.
    """
    check_known("action alignment", alignment, ALIGNMENTS)
    horizon, dim = actions.shape[-2:]
    if horizon % stride:
        raise ConfigError(f"a chunk of {horizon} actions is not a multiple of stride {stride}")
    frames = horizon // stride
    if alignment == "interval":
        return actions.reshape(*actions.shape[:-2], frames, stride * dim)
    if alignment == "last":
        return actions[..., stride - 1 :: stride, :]
    index = [min(stride * (k + 1), horizon - 1) for k in range(frames)]
    return actions[..., index, :]
