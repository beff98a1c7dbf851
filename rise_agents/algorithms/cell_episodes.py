"""Episodes in the work cell, for algorithms that learn from what really happens: what was seen, done and achieved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from rise_agents.evaluation.evaluate import run_episodes
from rise_agents.evaluation.results import Episode
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec
from rise_env.training.post_training import Rollout

__all__ = [
    "TRAINING_SEEDS", "Decision", "Decisions", "RecordingActor", "observed_rollout", "run_and_record", "training_seed",
]  # fmt: skip

#: Seeds of training episodes begin here, far above all that policies are evaluated or data recorded on.
TRAINING_SEEDS = 50_000_000
_PER_RUN = 1_000_000


def training_seed(seed: int, episode: int) -> int:
    """Seed of an episode of a run with a seed, by number, so that a resumed run meets the same ones."""
    return TRAINING_SEEDS + _PER_RUN * (seed % 1000) + episode


@dataclass(frozen=True)
class Decision:
    """What was seen in one environment at one moment, and what was done.

    Attributes:
        observation: As of the environment, without the axis N; copies.
        chunk: What is learned there, float32 (chunk, D), rad and m.
        mark: Whatever the actor says of it, e.g. whether the expert had control.
    """

    observation: dict[str, np.ndarray]
    chunk: np.ndarray
    mark: bool


@dataclass(frozen=True)
class Decisions:
    """Many decisions to learn from.

    Attributes:
        observations: Tensors with a leading axis n.
        chunks: float32 (n, chunk, D), rad and m.
    """

    observations: dict[str, torch.Tensor]
    chunks: torch.Tensor

    def __len__(self) -> int:
        return len(self.chunks)

    @classmethod
    def of(cls, decisions: Sequence[Decision]) -> Self:
        """Some decisions, at least one."""
        keys = decisions[0].observation
        seen = {key: torch.from_numpy(np.stack([one.observation[key] for one in decisions])) for key in keys}
        return cls(seen, torch.from_numpy(np.stack([one.chunk for one in decisions])))

    @classmethod
    def joined(cls, parts: Sequence[Self], most: int) -> Self:
        """The last `most` of several together."""
        keys = parts[0].observations
        seen = {key: torch.cat([part.observations[key] for part in parts])[-most:].clone() for key in keys}
        return cls(seen, torch.cat([part.chunks for part in parts])[-most:].clone())


class RecordingActor(ABC):
    """An actor that notes down what it saw and did, by seed of the episode.

    Subclasses implement `decide`.

    Attributes:
        decisions: Lists of `Decision` by seed.
    """

    def __init__(self, lags: Sequence[int]) -> None:
        self.lags = tuple(lags)
        self.decisions: dict[int, list[Decision]] = {}
        self._seeds: list[int] = []

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Episodes start."""
        self._seeds = [int(seed) for seed in seeds]
        for index in np.flatnonzero(mask):
            self.decisions[self._seeds[index]] = []

    @abstractmethod
    def decide(self, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Chunks to run, chunks to note down, both (N, chunk, D), and the marks of the second, bool (N,)."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Chunks to run, (N, chunk, D)."""
        run, noted, marks = self.decide(observations)
        for index, seed in enumerate(self._seeds):
            seen = {key: np.array(value[index]) for key, value in observations.items()}
            self.decisions[seed].append(Decision(seen, np.array(noted[index], np.float32), bool(marks[index])))
        return run


def run_and_record(envs: Any, actor: RecordingActor, episodes: int, seed: int) -> list[tuple[Episode, list[Decision]]]:
    """Run episodes `seed ... seed + episodes - 1`; with what was decided in each, in the order of their seeds."""
    ended = sorted(run_episodes(envs, actor, episodes, seed), key=lambda episode: episode.seed)
    # An environment for which no episode is left idles on: what it did after the end is left out.
    return [(episode, actor.decisions[episode.seed][: episode.chunks]) for episode in ended]


def observed_rollout(decisions: Sequence[Decision], spec: TaskSpec) -> Rollout:
    """An episode every `stride` control steps, put together from what was seen at its decisions and shortly before.

    The observations must reach back over what was executed (`execute <= stride * history`), with the lags of the world
    model's history. What came after the last decision is not known.

    Args:
        decisions: Of one episode, in order; their chunks are what was run.
        spec: Task.
    """
    lags = range(spec.execute - spec.stride, -1, -spec.stride)
    moments = [(decisions[0], 0), *((one, lag) for one in decisions[1:] for lag in lags)]
    frames = [[one.observation[lag_key(image_key(camera), lag)] for camera in spec.cameras] for one, lag in moments]
    states = [one.observation[lag_key("state", lag)] for one, lag in moments]
    run = [one.chunk[: spec.execute] for one in decisions[:-1]]
    actions = np.concatenate(run) if run else decisions[0].chunk[:0]
    return Rollout(np.array(frames), np.array(states), actions.reshape(-1, spec.stride, actions.shape[1]))
