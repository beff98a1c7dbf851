"""Computing in bf16 where it is fast."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["computes_bf16", "fast_bf16_cpu", "precision"]


def precision(name: str, device: torch.device) -> Any:
    """Context in which matrix products run in bf16, where that is asked for ("auto": where it is fast)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(name, device))


def computes_bf16(name: str, device: torch.device) -> bool:
    """Whether that is bf16 on a device."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else fast_bf16_cpu()
    return name == "bf16" or (name == "auto" and fast)


def fast_bf16_cpu() -> bool:
    """Whether this CPU multiplies bf16 matrices natively."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
