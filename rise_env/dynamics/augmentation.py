"""Colours of training samples changed at random, as the release does when it fine-tunes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["color_jitter"]


def color_jitter(frames: torch.Tensor, strengths: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """Frames with other brightness, contrast, saturation and hue: torchvision's ColorJitter, one draw per sample.

    Args:
        frames: uint8 (n, ..., H, W, 3); what belongs to one sample is changed alike.
        strengths: Of brightness, contrast, saturation (factors in [1 - s, 1 + s]) and hue (shift in [-s, s]).
        generator: Source of factors and of the order in which they are applied; row i needs the same numbers of it
            whatever the strengths are.

    Returns:
        uint8, the same shape.
    """
    from torchvision.transforms.v2 import functional

    changes = (
        functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue
    )  # fmt: skip
    rows = []
    for row in frames.movedim(-1, -3):
        order = torch.randperm(4, generator=generator).tolist()
        draws = (torch.rand(4, generator=generator) * 2 - 1).tolist()
        pictures = row.flatten(0, -4).float() / 255  # rounded once, at the end
        for i in order:
            if strengths[i]:
                pictures = changes[i](pictures, draws[i] * strengths[i] + (i != 3))
        rows.append((pictures.clamp(0, 1) * 255).round().to(torch.uint8).view_as(row))
    return torch.stack(rows).movedim(-3, -1)
