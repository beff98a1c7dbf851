"""What every training run is configured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rise_env.errors import requirement

__all__ = ["LoopConfig"]


@dataclass(frozen=True)
class LoopConfig:
    """Settings of `rise_env.training.loop.Loop`; the `training` sections of presets extend it.

    Attributes:
        batch_size: Samples per update.
        gradient_accumulation_steps: Parts into which a batch is split; several processes share them.
        learning_rate: Peak learning rate of AdamW.
        lr_floor: Last learning rate over the peak.
        warmup_steps: Updates over which the learning rate rises.
        weight_decay: Weight decay.
        max_grad_norm: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights, which are the ones kept; 0 keeps the last ones.
        held_out: Share of the episodes kept aside for evaluation.
        checkpoint_seconds: Time between two full states on disk.
        seed: Seed of everything random.
    """

    section: ClassVar[str] = "training"
    #: Older names, which checkpoints may still hold.
    RENAMED: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size",
        "accumulate": "gradient_accumulation_steps",
        "rate": "learning_rate",
        "lr": "learning_rate",
        "rate_floor": "lr_floor",
        "final_lr": "lr_floor",
        "warm_up": "warmup_steps",
        "warmup": "warmup_steps",
        "clip": "max_grad_norm",
        "ema": "ema_decay",
        "save_seconds": "checkpoint_seconds",
    }

    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    lr_floor: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.998
    held_out: float = 0.05
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        require = requirement(f"section '{self.section}'")
        parts = self.gradient_accumulation_steps
        require.at_least(1, gradient_accumulation_steps=parts)
        require(self.batch_size % parts == 0, f"batch_size {self.batch_size} is not a multiple of {parts} parts")
        require.positive(self, "batch_size", "learning_rate", "max_grad_norm")
        require.at_least(0, self, "warmup_steps", "weight_decay", "checkpoint_seconds")
        require.within("[0, 1)", self, "ema_decay", "held_out")
        require.within("[0, 1]", self, "lr_floor")
