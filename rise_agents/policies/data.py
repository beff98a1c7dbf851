"""Recorded chunks as a policy is trained on them: what was seen, what was done, and how good that was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rise_agents.policies.codec import AdvantageCodec
from rise_env.data import Dataset, Windows, interventions, read_advantages
from rise_env.envs.starts import StartStates
from rise_env.errors import ConfigError
from rise_env.spaces import check_lags, image_key, lag_key
from rise_env.tasks import TaskSpec

__all__ = ["ChunkSource", "Recorded", "RecordedChunks", "StartChunks", "advantage_bins_of", "measured_advantages"]


@dataclass(frozen=True)
class Recorded:
    """A batch of recorded chunks.

    Attributes:
        observations: As of an environment, tensors with a leading axis B.
        chunks: float32 (B, chunk, D), commanded; rad and m.
        advantage_bins: Advantage bins, int64 (B,).
        prompts: One instruction each.
    """

    observations: dict[str, torch.Tensor]
    chunks: torch.Tensor
    advantage_bins: torch.Tensor
    prompts: list[str]


class ChunkSource(Protocol):
    """Recorded chunks by number: `RecordedChunks`, `StartChunks`, or anything that does the same."""

    def __len__(self) -> int: ...

    def batch(self, which: np.ndarray, device: torch.device | str = "cpu") -> Recorded:
        """Chunks by number, int (B,)."""


def _observation(
    spec: TaskSpec, lag: int, frames: np.ndarray, states: np.ndarray, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """Frames (B, V, H, W, 3) and states (B, D) of one moment under the keys of an environment."""
    seen = {image_key(camera): frames[:, view] for view, camera in enumerate(spec.cameras)} | {"state": states}
    return {lag_key(key, lag): torch.from_numpy(value).to(device) for key, value in seen.items()}


class RecordedChunks:
    """All recorded chunks of some episodes.

    Args:
        dataset: Dataset.
        lags: Past observations that the policy reads, in control steps.
        advantage_bins: Advantage bin of every frame of the dataset, int64 (N,).
        episodes: Episodes to use; all when omitted.
        values: Value of every frame, float (N,), where it was labelled.
    """

    def __init__(
        self,
        dataset: Dataset,
        lags: Any,
        advantage_bins: np.ndarray,
        episodes: Any = None,
        values: np.ndarray | None = None,
    ) -> None:
        self.dataset, self.spec = dataset, dataset.spec
        self.lags = check_lags(dataset.spec, lags)
        for name, given in (("advantage bins", advantage_bins), ("values", values)):
            if given is not None and given.shape != (dataset.num_frames,):
                raise ConfigError(f"{len(given)} {name} for {dataset.num_frames} frames")
        self.advantage_bins, self.values = advantage_bins, values
        self.windows = Windows(dataset, episodes=episodes)

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, which: np.ndarray, device: torch.device | str = "cpu") -> Recorded:
        """Chunks by number, int (B,)."""
        window = self.windows.batch(which)
        observations: dict[str, torch.Tensor] = {}
        for lag in (0, *self.lags):
            moment = np.maximum(window.index - lag, window.index - window.frame)  # not before the episode
            seen = self.dataset.frames(moment), self.dataset.state[moment]
            observations |= _observation(self.spec, lag, *seen, device)
        chunks, bins = torch.from_numpy(window.actions), torch.from_numpy(self.advantage_bins[window.index])
        return Recorded(observations, chunks.to(device), bins.to(device), window.prompts)


class StartChunks:
    """The chunks that were recorded at start states, where no whole recordings are at hand (a bundle has no more).

    Args:
        starts: Start states with their recorded chunks.
        spec: Task.
        lags: Past observations that the policy reads, in control steps.
        advantage_bins: Advantage bin of every start state's chunk, int64 (M,).
        split: Start states to use; None for all.

    Raises:
        ConfigError: If the start states have no recorded chunks, or a lag is not in their history.
    """

    def __init__(
        self,
        starts: StartStates,
        spec: TaskSpec,
        lags: Sequence[int],
        advantage_bins: np.ndarray,
        split: str | None = "train",
    ) -> None:
        if starts.actions is None:
            raise ConfigError("these start states do not say what was done there: give recordings")
        self.starts, self.spec, self.lags = starts, spec, check_lags(spec, lags)
        self.advantage_bins, self._rows = advantage_bins, starts.rows(split)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, which: np.ndarray, device: torch.device | str = "cpu") -> Recorded:
        """Chunks by number, int (B,)."""
        rows = self._rows[which]
        found = self.starts.batch(rows)
        observations: dict[str, torch.Tensor] = {}
        for lag in (0, *self.lags):
            place = -1 - lag // self.spec.stride
            observations |= _observation(self.spec, lag, found.frames[:, place], found.states[:, place], device)
        assert self.starts.actions is not None
        chunks = torch.from_numpy(np.ascontiguousarray(self.starts.actions[rows]))
        bins = torch.from_numpy(self.advantage_bins[rows])
        return Recorded(observations, chunks.to(device), bins.to(device), list(found.prompts))


def measured_advantages(dataset: Dataset, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Labelled chunk advantages of a dataset's frames, raw, float32 (N,), from its sidecar files (`rise label`).

    And whether a frame is of a demonstration or a correction, which are never scored, bool (N,).

    Raises:
        DatasetError: If there are no labels of that tag; the message names the command that makes them.
    """
    columns = read_advantages(dataset, tag)
    forced = columns["forced"].astype(bool) if "forced" in columns else np.zeros(dataset.num_frames, bool)
    if "is_intervention" in dataset.columns:
        forced = forced | interventions(dataset)
    return columns["advantage_continuous"], forced


def advantage_bins_of(
    advantages: np.ndarray, forced: np.ndarray, codec: AdvantageCodec
) -> tuple[np.ndarray, AdvantageCodec]:
    """Advantage bins of frames, int64 (N,), the best where forced; and the codec, fitted to the rest if need be."""
    scored = advantages[~forced]
    fitted = codec.fit(scored) if len(scored) and not codec.edges else codec
    bins = np.full(len(advantages), fitted.best_bin, np.int64)
    if len(scored):
        bins[~forced] = fitted.encode(scored)
    return bins, fitted
