"""A dataset seen through the dynamics' encoder, for value models that read latents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from rise_env.protocols import Dynamics

__all__ = ["LatentDataset", "weights_digest"]


def weights_digest(module: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class LatentDataset:
    """A dataset whose frames are latents, float16 (n, V, C, h, w); all else is as in the dataset of pixels.

    Args:
        dataset: `rise_env.data.Dataset`.
        dynamics: Its `encode` makes the latents: once, all of them, kept in the dataset's cache.
        tag: What made them; another tag, another cache entry. See `weights_digest`.
        batch: Frames encoded at once.
    """

    def __init__(self, dataset: Any, dynamics: Dynamics, tag: str, batch: int = 64) -> None:
        self.pixels = dataset
        self.starts: np.ndarray = dataset.starts
        self.lengths: np.ndarray = dataset.lengths
        self.num_frames: int = dataset.num_frames
        self.episodes: Sequence[Any] = dataset.episodes
        self.columns: list[str] = dataset.columns
        self.column: Callable[[str], np.ndarray] = dataset.column

        def encode(index: np.ndarray) -> np.ndarray:
            frames = torch.from_numpy(dataset.frames(index)).unsqueeze(1).to(dynamics.device)
            with torch.no_grad():
                return dynamics.encode(frames)[:, 0].half().cpu().numpy()

        shape = encode(np.zeros(1, np.int64)).shape[1:]
        self._latents = dataset.cached(f"value-latents-{tag}", shape, np.float16, encode, batch=batch)

    @property
    def success(self) -> np.ndarray:
        """Explicit outcome of every episode."""
        return self.pixels.success

    def frames(self, index: Any) -> np.ndarray:
        """Latents of some moments."""
        return np.asarray(self._latents[np.asarray(index, np.int64)])
