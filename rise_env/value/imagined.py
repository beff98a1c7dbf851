"""Imagined frames with true labels: what the dynamics makes of recorded chunks, for the value model to learn from.

A value model trained on recorded frames alone misreads imagined ones, which are blurrier. The outcome of a *recorded*
chunk is known, so its imagined frames can carry the labels of the recorded frames that they imitate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_env.errors import TrainingError
from rise_env.protocols import Dynamics, History

__all__ = ["ImaginedFrames", "imagine_recorded_chunks"]


@dataclass(frozen=True)
class ImaginedFrames:
    """Imagined frames in memory.

    Attributes:
        frames: uint8 (n, V, H, W, 3), or latents float (n, V, C, h, w).
        index: Recorded frame that each one imitates, int64 (n,).
    """

    frames: np.ndarray
    index: np.ndarray

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.index) or not len(self.index):
            raise TrainingError(f"{len(self.frames)} imagined frames for {len(self.index)} recorded ones")

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Some frames, drawn with replacement, and the recorded frame that each one imitates."""
        chosen = rng.integers(len(self.index), size=count)
        return self.frames[chosen], self.index[chosen]


def imagine_recorded_chunks(
    dynamics: Dynamics,
    windows: Any,
    count: int,
    seed: int,
    *,
    latents: bool = False,
    batch: int = 16,
    on_chunk: Callable[[int], None] | None = None,
) -> ImaginedFrames:
    """Let a dynamics model imagine recorded chunks, `batch` at once: pixels, or `latents` (float16).

    They are `count` of the `rise_env.data.Windows`, drawn without replacement, or all if there are not as many.
    `on_chunk` is called with the number of finished ones.

    Raises:
        TrainingError: If latents are asked for and the dynamics model has none.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(windows))[:count])
    frames, index = [], []
    for start in range(0, len(chosen), batch):
        window = windows.batch(chosen[start : start + batch])
        imagined = _imagine(dynamics, windows, window, seed, chosen[start : start + batch].tolist(), latents)
        frames.append(imagined.reshape(-1, *imagined.shape[2:]))
        index.append(window.future_index.reshape(-1))
        if on_chunk is not None:
            on_chunk(min(start + batch, len(chosen)))
    return ImaginedFrames(np.concatenate(frames), np.concatenate(index))


@torch.no_grad()
def _imagine(dynamics: Dynamics, windows: Any, window: Any, seed: int, rows: list[int], latents: bool) -> np.ndarray:
    device = dynamics.device
    history = History(
        frames=torch.from_numpy(windows.dataset.frames(window.history_index)).to(device),
        states=torch.from_numpy(np.ascontiguousarray(window.states)).to(device),
        prompts=window.prompts,
    )
    state = dynamics.open(history)
    generators = [torch.Generator().manual_seed(seed * 1_000_003 + row) for row in rows]
    prediction, after = dynamics.predict(state, torch.from_numpy(window.actions).to(device), generators)
    if latents:
        if prediction.latents is None:
            raise TrainingError(f"{type(dynamics).__name__} predicts no latents; train a value model on pixels")
        result = prediction.latents.half().cpu().numpy()
    else:
        result = dynamics.decode(prediction, range(window.future_index.shape[1])).cpu().numpy()
    dynamics.close(after)
    return result
