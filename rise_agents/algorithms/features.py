"""What frozen encoders make of observations, kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator

from rise_agents.policies.base import Context, Policy

__all__ = ["FeatureCache", "Seen"]

#: Observations encoded at once by a `FeatureCache`. Blocks begin at multiples of it, so that what is encoded together
#: does not depend on the order of requests: a resumed run gets the same features, bit for bit.
_BLOCK = 64
_SPREAD_OF = 64  # observations, each with its block, whose features say how far features spread

#: What a policy makes of observations, and what else belongs to each of them.
type Seen = tuple[Context, tuple[torch.Tensor, ...]]


class FeatureCache:
    """Observations by number as a policy sees them; frozen encoders see each once, others anew every time.

    Args:
        size: How many there are.
        encode: Gives what a policy sees at observations, int64 (n,); with a generator, in augmented pictures.
        policy: A policy with the frozen encoders; None where they are trained.
        noise: Deviation of noise on what frozen encoders give, relative to its own over the observations: pictures that
            are seen once cannot be augmented, what is made of them can.
    """

    def __init__(
        self,
        size: int,
        encode: Callable[[Policy, np.ndarray, Generator | None], Seen],
        policy: Policy | None,
        noise: float = 0.0,
    ) -> None:
        self._size, self._encode, self._policy, self._noise = size, encode, policy, noise
        self._spread: torch.Tensor | None = None
        self._known = np.zeros(-(-size // _BLOCK), bool)
        self._columns: list[torch.Tensor] = []
        self._kind: type[Context] = Context

    def __call__(self, policy: Policy, rows: np.ndarray, generator: Generator) -> Seen:
        """What the policy sees at some of them; several threads may ask for what is prepared."""
        if self._policy is None:
            return self._encode(policy, rows, generator)
        self.prepare(rows)
        found = [column[torch.from_numpy(rows)] for column in self._columns]
        names = [field.name for field in dataclasses.fields(self._kind)]
        context = self._kind(**dict(zip(names, found[: len(names)], strict=True)))
        if self._noise:
            assert self._spread is not None
            noise = self._noise * torch.randn(context.features.shape, generator=generator).to(context.features)
            context = dataclasses.replace(context, features=context.features + noise * self._spread)
        return context, tuple(found[len(names) :])

    @torch.no_grad()
    def prepare(self, rows: np.ndarray) -> None:
        """Encode with frozen encoders what is missing."""
        if self._policy is None:
            return
        if self._noise and self._spread is None:  # of the same observations, whatever is asked for first
            self._spread = torch.ones(())
            some = np.unique(np.linspace(0, self._size - 1, _SPREAD_OF).astype(np.int64))
            self.prepare(some)
            self._spread = self._columns[0][torch.from_numpy(some)].std(0)
        blocks = np.unique(rows // _BLOCK)
        for block in blocks[~self._known[blocks]]:
            some = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self._size))
            context, more = self._encode(self._policy, some, None)
            self._kind = type(context)
            found = [*(getattr(context, field.name) for field in dataclasses.fields(context)), *more]
            if not self._columns:
                self._columns = [tensor.new_zeros((self._size, *tensor.shape[1:])) for tensor in found]
            for column, new in zip(self._columns, found, strict=True):
                column[torch.from_numpy(some)] = new
            self._known[block] = True
