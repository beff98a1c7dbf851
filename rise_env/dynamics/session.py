"""Where sessions of `LatentDynamics` stand, and what they have imagined last.

The latents of a video autoencoder stand for eight frames each, so that going on after a chunk means decoding it and
encoding its last frames again, one by one. Where an episode ends, or a chunk was only tried, nobody goes on: it is done
when it is needed (`Pending`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rise_env.protocols import Prediction

__all__ = ["Chunk", "DynamicsState", "LatentPrediction", "Pending", "merged"]

type Coder = Callable[[Tensor], Tensor]


@dataclass
class Chunk:
    """Imagined frames; decoded once, whoever asks.

    Attributes:
        latents: (B, F, V, C, h, w).
        pixels: uint8 (B, K, V, H, W, 3), the last frames at least, or None while nobody has asked.
    """

    latents: Tensor
    pixels: Tensor | None = None

    def frames(self, decode: Coder) -> Tensor:
        """Its pixels."""
        if self.pixels is None:
            self.pixels = decode(self.latents)
        return self.pixels

    def select(self, index: Tensor, tail: int) -> Chunk:
        """Chunks of some environments; of pixels, the last `tail` frames."""
        return Chunk(self.latents[index], None if self.pixels is None else self.pixels[:, -tail:][index])

    def merge(self, index: Tensor, other: Chunk | None, tail: int) -> Chunk:
        """Copy in which the environments `index` are those of `other`; None where nothing is read of them."""
        if other is None:
            return self
        pixels = None
        if self.pixels is not None and other.pixels is not None:
            pixels = self.pixels[:, -tail:].index_copy(0, index, other.pixels[:, -tail:])
        return Chunk(self.latents.index_copy(0, index, other.latents), pixels)


@dataclass
class Pending:
    """What the histories of B sessions have not taken in yet.

    Attributes:
        chunk: The chunk that each has imagined last.
        missing: Whose history lacks it, bool (B,).
        history: Latents (B, T, V, C, h, w) with it, once somebody has asked.
    """

    chunk: Chunk
    missing: Tensor
    history: Tensor | None = None

    def taken_in(self, history: Tensor, decode: Coder, encode: Coder) -> Tensor:
        """Histories (B, T, V, C, h, w) that go on from the chunks; only what is missing is computed, and only once."""
        if self.history is None:
            length, rows = history.shape[1], self.missing.nonzero()[:, 0]
            everyone = len(rows) == len(history)
            chunk = self.chunk if everyone else self.chunk.select(rows, length)
            new = encode(chunk.frames(decode)[:, -length:])
            new = torch.cat([history[rows], new], dim=1)[:, -length:].contiguous()
            self.history = new if everyone else history.index_copy(0, rows, new)
        return self.history

    def select(self, index: Tensor, tail: int) -> Pending:
        """Of some environments."""
        history = None if self.history is None else self.history[index]
        return Pending(self.chunk.select(index, tail), self.missing[index], history)


def merged(mine: Pending | None, index: Tensor, theirs: Pending | None, count: int, tail: int) -> Pending | None:
    """What is missing where the environments `index` of `count` are those of another session; None for nothing."""
    given = mine or theirs
    if given is None:
        return None
    missing = given.missing.new_zeros(count) if mine is None else mine.missing
    other = given.missing.new_zeros(len(index)) if theirs is None else theirs.missing
    missing = missing.index_copy(0, index, other)
    if not bool(missing.any()):
        return None
    if mine is not None:
        return Pending(mine.chunk.merge(index, None if theirs is None else theirs.chunk, tail), missing)
    latents, pixels = given.chunk.latents, given.chunk.pixels
    nothing = Chunk(latents.new_zeros(count, *latents.shape[1:]))
    if pixels is not None:
        nothing.pixels = pixels.new_zeros(count, *pixels.shape[1:])
    return Pending(nothing.merge(index, given.chunk, tail), missing)


@dataclass(frozen=True)
class DynamicsState:
    """Where B sessions stand; every tensor has the leading axis B.

    Attributes:
        history: Normalised latents (B, T, V, C, h, w), oldest first, `stride` control steps apart; but for what is
            `pending`.
        state: Joint states of the current frame (B, D), rad and m.
        text: Hashed words of the instruction (B, W).
        details: The recorded frame that the session started from, and what the autoencoder makes of it, uint8
            (B, 2, V, H, W, 3); (B, 0) where `config.details` is 0.
        pending: What the history of a video autoencoder has not taken in yet.
    """

    history: Tensor
    state: Tensor
    text: Tensor
    details: Tensor
    pending: Pending | None = None

    def select(self, index: Tensor) -> DynamicsState:
        """Sessions of some environments, by their numbers, int64 (n,)."""
        pending = None if self.pending is None else self.pending.select(index, self.history.shape[1])
        history, state, text, details = (tensor[index] for tensor in self._tensors)
        return DynamicsState(history, state, text, details, pending)

    def merge(self, index: Tensor, other: DynamicsState) -> DynamicsState:
        """Copy in which the environments `index` are those of `other`."""
        pending = merged(self.pending, index, other.pending, len(self.state), self.history.shape[1])
        pairs = zip(self._tensors, other._tensors, strict=True)
        history, state, text, details = (mine.index_copy(0, index, theirs) for mine, theirs in pairs)
        return DynamicsState(history, state, text, details, pending)

    @property
    def _tensors(self) -> list[Tensor]:
        return [self.history, self.state, self.text, self.details]


@dataclass(frozen=True)
class LatentPrediction(Prediction):
    """An imagined chunk; the `latents` (B, F, V, C, h, w) of a video autoencoder are fewer than the K frames.

    Attributes:
        details: See `DynamicsState`.
        chunk: The same latents, of a video autoencoder, with their pixels once these have been asked for.
    """

    details: Tensor | None = None
    chunk: Chunk | None = None
