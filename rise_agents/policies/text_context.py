"""What policies with a language model know when they act: pictures, joint state and instruction, not encoded yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rise_agents.policies.base import Context
from rise_env.errors import ConfigError

__all__ = ["TextContext", "text_bytes"]

_TEXT_BYTES = 512  # of an instruction; 200 tokens hold no more


@dataclass(frozen=True)
class TextContext(Context):
    """What such a policy knows when it acts. What else its prompt says, such as the advantage, is not in it.

    Nothing of it is encoded yet: the language model reads images and prompt together. Images are kept as they came and
    resized when they are used: bytes of the camera's size take less memory than floats of the model's.

    Attributes:
        features: Images uint8 (B, V, H, W, 3), in the policy's order.
        state: float32 (B, D), joint state in rad and m.
        text: Instruction, uint8 (B, 512), UTF-8 filled up with zeros.
    """

    text: torch.Tensor

    def texts(self) -> list[str]:
        """The instructions."""
        return [bytes(row).rstrip(b"\0").decode() for row in self.text.cpu().numpy()]

    @classmethod
    def of(cls, context: Context) -> TextContext:
        """A context that has its instructions.

        Raises:
            ConfigError: If it has none.
        """
        if not isinstance(context, cls):
            name = type(context).__name__
            raise ConfigError(f"the context is a bare {name}, which says no task; use the policy's `context`")
        return context


def text_bytes(texts: Sequence[str]) -> torch.Tensor:
    """Texts as uint8 (B, 512), so that a context is all tensors.

    Raises:
        ConfigError: If one is longer.
    """
    rows = torch.zeros((len(texts), _TEXT_BYTES), dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        raw = text.encode()
        if len(raw) > _TEXT_BYTES:
            raise ConfigError(f"an instruction has {len(raw)} bytes, at most {_TEXT_BYTES} can be kept: {text!r}")
        row[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    return rows
