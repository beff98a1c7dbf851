"""Holding an actor to the policy that it comes from, at states where that policy is good as it is.

What is learned at some states moves a network at all others as well. Where the base policy's own chunk is imagined to
do well, the actor is therefore trained to go on putting out what the base puts out (`Policy.distillation_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from rise_agents.policies.base import Context

__all__ = ["ReferenceBatch", "ReferenceStates"]


@dataclass(frozen=True)
class ReferenceBatch:
    """States at which the actor is held to the base policy: n of them.

    Attributes:
        base: What was seen, as the base policy encodes it; None where the encoders are trained.
        observations: The same before encoding; None where they are not.
        chunks: What the base policy does there, float32 (n, chunk, D), rad and m.
    """

    base: Context | None
    observations: dict[str, torch.Tensor] | None
    chunks: torch.Tensor

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: torch.Tensor) -> ReferenceBatch:
        there = index.to(self.chunks.device)
        seen = self.observations
        return ReferenceBatch(
            None if self.base is None else self.base[there],
            None if seen is None else {key: value[index.to(value.device)] for key, value in seen.items()},
            self.chunks[there],
        )


class ReferenceStates:
    """The latest held states.

    Args:
        capacity: How many are kept; the oldest give way.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self._count, self._next = capacity, 0, 0
        self._ring: ReferenceBatch | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, held: ReferenceBatch) -> None:
        """Keep more of them."""
        held = held[torch.arange(max(0, len(held) - self.capacity), len(held))]
        if not len(held):
            return
        if self._ring is None:
            self._ring = self._empty(held)
        places = (self._next + torch.arange(len(held))) % self.capacity
        for mine, new in zip(_tensors(self._ring), _tensors(held), strict=True):
            mine[places.to(mine.device)] = new
        self._next = int(self._next + len(held)) % self.capacity
        self._count = min(self._count + len(held), self.capacity)

    def draw(self, rng: np.random.Generator, count: int) -> ReferenceBatch:
        """`count` of them, drawn with replacement."""
        assert self._ring is not None
        return self._ring[torch.from_numpy(rng.integers(self._count, size=count))]

    def _empty(self, like: ReferenceBatch) -> ReferenceBatch:
        def room(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.new_empty((self.capacity, *tensor.shape[1:]))

        def context(of: Context) -> Context:
            return type(of)(**{field.name: room(getattr(of, field.name)) for field in fields(of)})

        seen = None if like.observations is None else {key: room(value) for key, value in like.observations.items()}
        return ReferenceBatch(None if like.base is None else context(like.base), seen, room(like.chunks))


def _tensors(held: ReferenceBatch) -> list[torch.Tensor]:
    context = [] if held.base is None else [getattr(held.base, field.name) for field in fields(held.base)]
    return [*context, *(held.observations or {}).values(), held.chunks]
