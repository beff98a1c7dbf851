"""A work cell that takes microseconds: move to where a dial shows, with an expert and an operator's gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.acting import ObservationHistory
from rise_env.spaces import image_key, observation_space
from rise_env.testing import counting_spec

SPEC = counting_spec()
LIMIT, NEAR, DRIFT = 3, 0.12, 0.25


class FakeCell:
    """The middle of the first camera's picture shows where all joints are to be, as a part of their range.

    An episode succeeds when they are there at the end of a chunk, and is over after three chunks. The gate hands over
    where a chunk's end is far from the expert's.

    Args:
        num_envs: Number of cells.
        targets: Range of what the dials show.
        lags: Past observations.
    """

    task, output, autoreset_mode = SPEC, "numpy", AutoresetMode.DISABLED

    def __init__(
        self, num_envs: int = 4, targets: tuple[float, float] = (0.2, 0.8), lags: Sequence[int] = (2,)
    ) -> None:
        self.num_envs, self.unwrapped, self.targets = num_envs, self, targets
        self.lags, self.world_model = (0, *lags), None
        self.observation_space = batch_space(observation_space(SPEC, lags), num_envs)
        self.seeds: list[int] = []  # of all episodes, in the order in which they started
        self.control_steps = 0
        self._target, self._chunks = np.zeros(num_envs), np.zeros(num_envs, int)
        self._states = np.zeros((num_envs, SPEC.layout.dim), np.float32)
        self._done = np.zeros(num_envs, bool)
        self._history = ObservationHistory(lags, num_envs)

    def reset(self, *, seed: Sequence[int], options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        for i in np.flatnonzero(mask):
            rng = np.random.default_rng(seed[i])
            self.seeds.append(seed[i])
            self._target[i], self._chunks[i], self._done[i] = rng.uniform(*self.targets), 0, False
            self._states[i] = self._joints(rng.uniform(0.3, 0.7))
        self._history.reset(mask)
        return self._observe(mask), {}

    def step(self, chunks: np.ndarray) -> tuple[Any, ...]:
        assert not self._done.any()
        self._states = chunks[:, SPEC.execute - 1].astype(np.float32)
        self._chunks += 1
        self.control_steps += SPEC.execute * self.num_envs
        success = np.abs(self._part(self._states) - self._target) < NEAR
        truncated = ~success & (self._chunks >= LIMIT)
        self._done = success | truncated
        infos = {"is_success": success, "score": 10.0 * success, "seconds": self._chunks * SPEC.execute / SPEC.fps,
                 "failure_mode": np.where(success, "none", "timeout"), "progress": 1.0 * success,
                 "control_steps": np.full(self.num_envs, SPEC.execute)}  # fmt: skip
        seen = self._observe(np.ones(self.num_envs, bool), SPEC.execute)
        return seen, success.astype(np.float32), success, truncated, infos

    def close(self) -> None:
        pass

    def scripted_chunks(self, name: str, seeds: Any = None) -> np.ndarray:
        assert name == "expert"
        return np.stack([np.tile(self._joints(part), (SPEC.chunk, 1)) for part in self._target])

    def supervised_chunks(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        taken = np.abs(self._part(chunks[:, -1]) - self._target) > DRIFT
        return np.where(taken[:, None, None], self.scripted_chunks("expert"), chunks), taken

    def _observe(self, mask: np.ndarray, elapsed: float = 1.0) -> dict[str, np.ndarray]:
        height, width = SPEC.image_size
        seen: dict[str, np.ndarray] = {"state": self._states}
        for camera in SPEC.cameras:
            seen[image_key(camera)] = np.zeros((self.num_envs, height, width, 3), np.uint8)
            seen[image_key(camera)][:] = (255 * self._target)[:, None, None, None]
        self._history.push(seen, mask, elapsed)
        return self._history.observe()

    @staticmethod
    def _joints(part: float) -> np.ndarray:
        low, high = SPEC.layout.low, SPEC.layout.high
        joints: np.ndarray = (low + part * (high - low)).astype(np.float32)
        return joints

    @staticmethod
    def _part(joints: np.ndarray) -> np.ndarray:
        """Mean place (N,) of joints (N, D) in their range."""
        low, high = SPEC.layout.low, SPEC.layout.high
        place: np.ndarray = ((joints - low) / (high - low)).mean(axis=1)
        return place
