"""The work cell in place of imagination: the same chunks, judged by what really happens.

An agent that learns in imagination learns here without knowing the difference. What it gains here and not there is what
the world model costs; it is the ceiling in the tables, and nothing a robot could offer, for it goes back to the same
state as often as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode
from tqdm import trange

from rise_env.envs.candidates import CandidateScores
from rise_env.spaces import action_space, check_lags, image_key, lag_key, observation_space
from rise_env.tasks import TaskSpec
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import CellConfig
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["Leader", "OracleVectorEnv", "Starts"]

type Leader = Callable[[WorkCell, CellRenderer], ScriptedPolicy]


class _Start(NamedTuple):
    state: CellState
    seen: list[tuple[np.ndarray, np.ndarray]]
    progress: float


class Starts(NamedTuple):
    """What agents ask of start states, one entry each: `split`, str, is "train"."""

    split: np.ndarray


class OracleVectorEnv(VectorEnv[dict[str, Any], Any, Any]):
    """Starts where a scripted policy has got to in an episode of its own; pays the chunk's true advantage.

    Spaces, infos and options are those of `rise_env.envs.vector.ImaginationVectorEnv` as far as agents use them; the
    reward is the mean true progress over the chunk less the true progress before it.

    Args:
        spec: The task.
        config: The cell.
        num_envs: Number of environments; one cell serves them all in turn.
        leaders: What leads to the start states, drawn at random: names of scripted policies, or functions that make a
            policy for the cell and its renderer.
        observation_lags: As in the other environments.
        max_chunks: Chunks from a start state until truncation.
        latest_start: Start states lie at most so many control steps after an episode's beginning.
        pool: Lead so many episodes (seeds from 0) at the first reset, and start from any state of any of them
            afterwards; 0 leads to every start state anew.
    """

    def __init__(
        self,
        spec: TaskSpec,
        config: CellConfig,
        num_envs: int,
        leaders: Sequence[str | Leader] = ("operator",),
        observation_lags: Sequence[int] = (),
        max_chunks: int = 2,
        latest_start: int = 60,
        pool: int = 0,
    ) -> None:
        self.task, self.num_envs, self.max_chunks = spec, num_envs, max_chunks
        self.lags = (0, *check_lags(spec, observation_lags))
        self.leaders, self.latest_start = tuple(leaders), latest_start
        self.autoreset_mode, self.output, self.render_mode = AutoresetMode.DISABLED, "numpy", None
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self.single_observation_space = observation_space(spec, self.lags[1:])
        self.single_action_space = action_space(spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._cell = WorkCell(spec, config)
        self._renderer = CellRenderer(self._cell.model, self._cell.data, config.supersample)
        self._states: dict[int, CellState] = {}
        self._seen: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._progress, self._chunks = np.zeros(num_envs), np.zeros(num_envs, int)
        self._pool_size, self._pool = pool, list[_Start]()

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lead every environment (of `reset_mask`) to a start state; `group_size` neighbours share one.

        With a pool, `start_index` says to which of its states, one for every environment.
        """
        options = options or {}
        index = options.get("start_index")
        mask = options.get("reset_mask", np.ones(self.num_envs, bool))
        group = options.get("group_size", 1)
        seeds = seed if seed is not None else np.random.default_rng().integers(2**31, size=self.num_envs).tolist()
        for i in np.flatnonzero(mask).tolist():
            leader = i // group * group
            if leader != i and mask[leader]:
                self._states[i], self._seen[i] = self._states[leader], self._seen[leader]
                self._progress[i] = self._progress[leader]
            else:
                self._states[i], self._seen[i], self._progress[i] = (
                    self._lead(int(seeds[i])) if index is None else self._pooled()[int(index[i])]
                )
            self._chunks[i] = 0
        return self._observe(), self._infos()

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Run a chunk in every environment."""
        rewards, finished = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for i, chunk in enumerate(np.asarray(actions)):
            self._cell.restore(self._states[i])
            progress, seen = [], []
            for step, target in enumerate(chunk, start=1):
                self._cell.step(target)
                progress.append(self._cell.status.progress)
                if self.task.chunk - step in self.lags:
                    seen.append(self._look())
            rewards[i] = np.mean(progress) - self._progress[i]
            self._states[i], self._seen[i] = self._cell.save(), seen[::-1]
            self._progress[i], finished[i] = progress[-1], self._cell.status.finished
            self._chunks[i] += 1
        infos = self._infos()
        return self._observe(), rewards, finished, ~finished & (self._chunks >= self.max_chunks), infos

    def evaluate_candidates(self, actions: Any) -> CandidateScores:
        """Run several chunks (num_envs, G, chunk, D) from every present state, and go on from none of them."""
        advantage = np.zeros(actions.shape[:2], np.float32)
        for i, chunks in enumerate(np.asarray(actions)):
            for member, chunk in enumerate(chunks):
                self._cell.restore(self._states[i])
                progress = [self._cell.step(target).progress for target in chunk]
                advantage[i, member] = np.mean(progress) - self._progress[i]
        return CandidateScores(advantage, np.zeros_like(advantage))

    def recorded_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """Nothing was recorded here."""
        shape = (self.num_envs, self.task.chunk, self.task.layout.dim)
        return np.full(shape, np.nan, np.float32), np.zeros(self.num_envs, bool)

    @property
    def starts(self) -> Starts:
        """The states of the pool."""
        return Starts(np.full(len(self._pooled()), "train"))

    def _lead(self, seed: int) -> _Start:
        if not self._pool_size:
            return self._lead_to(seed)
        pool = self._pooled()
        return pool[int(np.random.default_rng(seed).integers(len(pool)))]

    def _pooled(self) -> list[_Start]:
        if self._pool_size and not self._pool:
            self._fill_pool()
        return self._pool

    def _fill_pool(self) -> None:
        for seed in trange(self._pool_size, desc="leading to start states", unit=" episodes", disable=None):
            policy = self._leader(np.random.default_rng(seed), seed)
            self._cell.reset(episode_rng(seed))
            policy.reset()
            seen = [self._look()]
            while True:
                moments = [seen[max(0, len(seen) - 1 - lag)] for lag in self.lags]
                self._pool.append(_Start(self._cell.save(), moments, self._cell.status.progress))
                self._cell.step(policy.plan(1)[0])
                if self._cell.status.finished or self._cell.steps >= self.latest_start:
                    break
                seen.append(self._look())

    def _leader(self, rng: np.random.Generator, seed: int) -> ScriptedPolicy:
        leader = self.leaders[int(rng.integers(len(self.leaders)))]
        if isinstance(leader, str):
            return self._cell.task.scripted(leader, seed)
        return leader(self._cell, self._renderer)

    def _lead_to(self, seed: int) -> _Start:
        rng = np.random.default_rng(seed)
        policy = self._leader(rng, seed)
        start = int(rng.integers(self.latest_start))
        while True:  # an episode that ends before the drawn step: stop earlier
            self._cell.reset(episode_rng(seed))
            policy.reset()
            seen = {0: self._look()}
            while self._cell.steps < start and not self._cell.status.finished:
                self._cell.step(policy.plan(1)[0])
                if start - self._cell.steps in self.lags:
                    seen[self._cell.steps] = self._look()
            if not self._cell.status.finished:
                break
            start = int(rng.integers(self._cell.steps))
        moments = [seen[max(0, start - lag)] for lag in self.lags]
        return _Start(self._cell.save(), moments, self._cell.status.progress)

    def _look(self) -> tuple[np.ndarray, np.ndarray]:
        return self._renderer.render(list(self.task.cameras), self.task.image_size), self._cell.state()

    def _observe(self) -> dict[str, Any]:
        observation: dict[str, Any] = {}
        for place, lag in enumerate(self.lags):
            frames = np.stack([self._seen[i][place][0] for i in range(self.num_envs)])
            for view, camera in enumerate(self.task.cameras):
                observation[lag_key(image_key(camera), lag)] = frames[:, view].copy()
            observation[lag_key("state", lag)] = np.stack([self._seen[i][place][1] for i in range(self.num_envs)])
        return observation

    def _infos(self) -> dict[str, Any]:
        return {"progress": self._progress.copy(), "uncertainty": np.zeros(self.num_envs)}
