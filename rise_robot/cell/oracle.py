"""The work cell in place of imagination: the same chunks, rewarded by what really happens.

An agent that learns in imagination learns here without knowing the difference; what it gains here and not there is what
the world model costs. It is an upper bound and nothing a robot could offer: it goes back to the same state at will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode
from tqdm import trange

from rise_env.acting import Actor
from rise_env.envs.arguments import autoreset_mode as parse_mode
from rise_env.envs.arguments import (
    checked_actions,
    checked_candidates,
    mask_of,
    option_of,
    options_of,
    real_numbers,
    seeds_of,
)
from rise_env.envs.batch import CandidateScores, Continuation, check_lookahead
from rise_env.errors import ActionError, ConfigError, RiseError, requirement
from rise_env.spaces import action_space, check_lags, lag_key, observation_space
from rise_robot.cell.acting import ActorInCell, ScriptedActor, cell_observation
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import load_cell
from rise_robot.cell.render import CellRenderer

__all__ = ["OracleStarts", "OracleVectorEnv"]

type BehaviourPolicy = str | Actor | Callable[[], Actor]


class _Start(NamedTuple):
    """A start state: the cell, what was seen at every lag (the present first), the progress so far, and the step."""

    state: CellState
    seen: list[dict[str, np.ndarray]]
    progress: float
    step: int
    success: bool = False
    finished: bool = False


@dataclass(frozen=True)
class OracleStarts:
    """What algorithms ask of start states, one entry each.

    Attributes:
        split: "train" everywhere.
        success: Whether the episode succeeded, float32; NaN: not known.
        frame_index: int64, control steps since the episode began.
    """

    split: np.ndarray
    success: np.ndarray
    frame_index: np.ndarray

    def __len__(self) -> int:
        return len(self.split)


class OracleVectorEnv(VectorEnv[dict[str, Any], Any, Any]):
    """The work cell in place of imagination: chunks from states like the recorded ones, rewarded by what truly happens.

    Spaces, infos and options are those of `rise_env.envs.vector.ImaginationVectorEnv` as far as algorithms use them.

    **Observation**: as in imagination.
    **Action**: Box (chunk, D) float32, absolute joint targets, all of which are run.
    **Reward**: the chunk's true advantage: the mean true progress over the chunk less the true progress before it.
    **Start**: where a behaviour policy has got to in an episode of its own.
    **End**: `terminated` when nothing can change the outcome any more, `truncated` after `max_chunks`.
    **Info**: `progress` [0, 1], `is_success`, `uncertainty` (0).

    Args:
        task: Task name or the path of a YAML file with the sections `task` and `cell`.
        preset: Preset name.
        num_envs: Number of environments; one cell serves them all in turn.
        behaviour_policies: Who leads to the start states, drawn at random: names of scripted policies, actors for one
            environment, or functions that make one.
        observation_lags: As in the other environments.
        max_chunks: Chunks from a start state until truncation.
        latest_start: Start states lie at most so many control steps after an episode's beginning.
        pool: Run so many episodes (seeds from 0) at the first reset, and start from any state of any of them
            afterwards; 0 runs one for every start state.
        start_frames: Steps of an episode that count for the pool; all when empty.
        autoreset_mode: "disabled", the only one.
        overrides: Further configuration overrides, e.g. `["cell.difficulty=hard"]`.

    Raises:
        ConfigError: If an argument or the configuration is wrong.

    Example:
        >>> envs = OracleVectorEnv(preset="tiny", num_envs=2, behaviour_policies=["expert"], latest_start=4)
        >>> observations, infos = envs.reset(seed=0)
        >>> observations["state"].shape, infos["progress"].shape
        ((2, 14), (2,))
        >>> envs.close()
    """

    def __init__(
        self,
        task: str = "brick_sorting",
        preset: str = "small",
        num_envs: int = 1,
        behaviour_policies: Sequence[BehaviourPolicy] = ("operator",),
        observation_lags: Sequence[int] = (),
        max_chunks: int = 2,
        latest_start: int = 60,
        pool: int = 0,
        start_frames: Sequence[int] = (),
        autoreset_mode: str | AutoresetMode = "disabled",
        overrides: Sequence[str] = (),
    ) -> None:
        require = requirement("oracle environment")
        require.whole(1, num_envs=num_envs, max_chunks=max_chunks, latest_start=latest_start)
        require.whole(0, pool=pool)
        if not behaviour_policies:
            raise ConfigError("behaviour_policies is empty: somebody must lead to the start states")
        self.autoreset_mode = parse_mode(autoreset_mode)
        if self.autoreset_mode != AutoresetMode.DISABLED:
            raise ConfigError(f"autoreset_mode {autoreset_mode!r}: the oracle environment knows 'disabled' only")
        self.task, config = load_cell(task, preset, overrides)
        self.num_envs, self.max_chunks, self.latest_start = num_envs, max_chunks, latest_start
        self.lags = (0, *check_lags(self.task, observation_lags))
        self.output, self.render_mode = "numpy", None
        fps = max(1, self.task.fps // self.task.chunk)
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": [], "render_fps": fps}
        self.single_observation_space = observation_space(self.task, self.lags[1:])
        self.single_action_space = action_space(self.task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._cell = WorkCell(self.task, config)
        self._renderer = CellRenderer(self._cell.model, self._cell.data, config.supersample)
        self._behaviour = tuple(behaviour_policies)
        for policy in self._behaviour:
            if isinstance(policy, str):
                self._cell.task.scripted(policy, 0)  # an unknown name is told now
        self._starts: list[_Start | None] = [None] * num_envs
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._success: np.ndarray = np.zeros(num_envs, bool)
        self._chunks, self._done = np.zeros(num_envs, int), np.zeros(num_envs, bool)
        self._pool_size, self._pool, self._start_frames = pool, list[_Start](), frozenset(start_frames)
        if start_frames:
            require(pool > 0, "start_frames are of a pool: say how many episodes it has")
            self.latest_start = max(start_frames) + 1

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lead all environments, or those of `options["reset_mask"]`, to a start state; ConfigError if seeds or options
        do not fit.

        Args:
            seed: One seed per environment, or an int s that gives environment i the seed s + i.
            options: `reset_mask`; `group_size`: so many neighbours share a start state; with a pool, `start_index`:
                which of its states, one for every environment.
        """
        options = options_of(options)
        mask, group, index = mask_of(options.get("reset_mask"), self.num_envs), options.get("group_size", 1), None
        requirement("reset").whole(1, group_size=group)
        if options.get("start_index") is not None:
            index = option_of("start_index", options["start_index"], range(self.num_envs), self.num_envs)
            states = len(self._pooled()) if self._pool_size else 0
            if any(one is None or one >= states for one in index):
                raise ConfigError(
                    f"start_index {index}: expected for every environment one of the {states} states of the pool"
                )
        seeds = seeds_of(seed, self.num_envs)
        for i in np.flatnonzero(mask).tolist():
            first = i // group * group
            if first != i and mask[first]:
                self._starts[i] = self._starts[first]
            elif index is None:
                self._starts[i] = self._start(self._next_seed(i, seeds[i]))
            else:
                self._starts[i] = self._pooled()[int(index[i])]
        self._chunks[mask], self._done[mask], self._success[mask] = 0, False, False
        return self._observe(), self._infos(mask)

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Run a chunk in every environment.

        Args:
            actions: (num_envs, chunk, D) absolute joint targets, rad and m; an array or a tensor.

        Raises:
            ActionError: If the actions have the wrong shape or are not finite; nothing has moved then.
            RiseError: Before the first reset, or if an episode has ended and was not reset.
        """
        starts = self._present()
        if self._done.any():
            raise RiseError(
                f"the episodes of environments {np.flatnonzero(self._done).tolist()} have ended: reset them first with "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        spec = self.task
        chunks, _ = checked_actions(actions, ~self._done, spec.chunk, spec.layout, torch.device("cpu"))
        ends, gained = self._run(starts, chunks.numpy())
        rewards = gained - np.array([start.progress for start in starts])
        self._starts[:] = ends
        finished = np.array([end.finished for end in ends])
        self._success = np.array([end.success for end in ends])
        self._chunks += 1
        truncated = ~finished & (self._chunks >= self.max_chunks)
        self._done |= finished | truncated
        return self._observe(), rewards, finished, truncated, self._infos()

    def evaluate_candidates(
        self, actions: Any, continuation: Continuation | None = None, lookahead: int = 0
    ) -> CandidateScores:
        """Run several chunks (num_envs, G, chunk, D) from every present state, and go on from none of them.

        With a continuation, that goes on after each for `lookahead` chunks, the last of which counts; see
        `rise_env.envs.vector.ImaginationVectorEnv.evaluate_candidates`.
        """
        check_lookahead(continuation, lookahead)
        candidates = real_numbers(checked_candidates(actions, self.num_envs, self.task.chunk, self.task.layout))
        if not np.isfinite(candidates).all():
            raise ActionError("candidate chunks are not finite (NaN or infinity); nothing was executed")
        advantage = np.zeros(candidates.shape[:2], np.float32)
        for i, (start, chunks) in enumerate(zip(self._present(), candidates, strict=True)):
            if continuation is None or not lookahead:
                advantage[i] = self._cell.advantages(start.state, start.progress, chunks)
                continue
            branches, gained = self._run([start] * len(chunks), chunks)
            for _ in range(lookahead):
                branches, gained = self._run(branches, real_numbers(continuation(self._observation(branches))))
            advantage[i] = gained - start.progress
        return CandidateScores(advantage, np.zeros_like(advantage))

    def start_observations(self, rows: np.ndarray) -> dict[str, Any]:
        """What `reset` would show at states of the pool, by their numbers, int64 (n,); nothing is started."""
        pool = self._pooled()
        return self._observation([pool[row] for row in np.asarray(rows).tolist()])

    def recorded_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """Nothing was recorded here."""
        shape = (self.num_envs, self.task.chunk, self.task.layout.dim)
        return np.full(shape, np.nan, np.float32), np.zeros(self.num_envs, bool)

    @property
    def starts(self) -> OracleStarts:
        """The states of the pool."""
        steps = np.array([start.step for start in self._pooled()], np.int64)
        return OracleStarts(np.full(len(steps), "train"), np.full(len(steps), np.nan, np.float32), steps)

    def _next_seed(self, i: int, seed: int | None) -> int:
        """Seed of an environment's next start: the one given, else one that follows from the last one given."""
        if seed is not None:
            self._generators[i] = np.random.default_rng(seed)
            return seed
        return int(self._generators[i].integers(2**31))

    def _start(self, seed: int) -> _Start:
        if not self._pool_size:
            return self._lead(seed)
        pool = self._pooled()
        return pool[int(np.random.default_rng(seed).integers(len(pool)))]

    def _pooled(self) -> list[_Start]:
        if self._pool_size and not self._pool:
            for seed in trange(self._pool_size, desc="reaching start states", unit=" episodes", disable=None):
                self._fill_pool(seed)
        return self._pool

    def _fill_pool(self, seed: int) -> None:
        """Every state of one episode; pictures are shared by the states that see them."""
        acting = self._acting(np.random.default_rng(seed), seed)
        self._cell.reset(episode_rng(seed))
        acting.reset()
        seen = [self._look()]
        while True:
            if not self._start_frames or self._cell.steps in self._start_frames:
                moments = [seen[max(0, len(seen) - 1 - lag)] for lag in self.lags]
                self._pool.append(_Start(self._cell.save(), moments, self._cell.status.progress, self._cell.steps))
            self._cell.step(acting.target(lambda: seen[-1]))
            if self._cell.status.finished or self._cell.steps >= self.latest_start:
                break
            seen.append(self._look())

    def _lead(self, seed: int) -> _Start:
        """A random state of the episode of a seed."""
        rng = np.random.default_rng(seed)
        acting = self._acting(rng, seed)
        start = int(rng.integers(self.latest_start))
        while True:  # an episode that ends before the drawn step: stop earlier
            self._cell.reset(episode_rng(seed))
            acting.reset()
            seen = {0: self._look()}
            while self._cell.steps < start and not self._cell.status.finished:
                self._cell.step(acting.target(self._look))
                if start - self._cell.steps in self.lags:
                    seen[self._cell.steps] = self._look()
            if not self._cell.status.finished:
                break
            start = int(rng.integers(self._cell.steps))
        moments = [seen[max(0, start - lag)] for lag in self.lags]
        return _Start(self._cell.save(), moments, self._cell.status.progress, self._cell.steps)

    def _acting(self, rng: np.random.Generator, seed: int) -> ActorInCell:
        policy = self._behaviour[int(rng.integers(len(self._behaviour)))]
        if isinstance(policy, str):
            policy = ScriptedActor(self._cell.task.scripted(policy, seed))
        return ActorInCell(self._cell, policy if isinstance(policy, Actor) else policy())

    def _present(self) -> list[_Start]:
        starts = [start for start in self._starts if start is not None]
        if len(starts) < self.num_envs:
            raise RiseError("call reset before anything else")
        return starts

    def _run(self, starts: Sequence[_Start], chunks: np.ndarray) -> tuple[list[_Start], np.ndarray]:
        """Where chunks (n, chunk, D) lead from n states, and their mean progress, (n,)."""
        ends, means = [], np.zeros(len(starts))
        for i, (start, chunk) in enumerate(zip(starts, chunks, strict=True)):
            self._cell.restore(start.state)
            progress, seen = [], []
            for step, target in enumerate(chunk, start=1):
                progress.append(self._cell.step(target).progress)
                if len(chunk) - step in self.lags:
                    seen.append(self._look())
            means[i], status = np.mean(progress), self._cell.status
            ends.append(
                _Start(self._cell.save(), seen[::-1], progress[-1], self._cell.steps, status.success, status.finished)
            )
        return ends, means

    def _look(self) -> dict[str, np.ndarray]:
        return cell_observation(self._cell, self._renderer)

    def _observe(self) -> dict[str, Any]:
        return self._observation(self._present())

    def _observation(self, starts: Sequence[_Start]) -> dict[str, Any]:
        return {
            lag_key(key, lag): np.stack([start.seen[place][key] for start in starts])
            for place, lag in enumerate(self.lags)
            for key in starts[0].seen[0]
        }

    def _infos(self, mask: np.ndarray | None = None) -> dict[str, Any]:
        progress = np.array([start.progress for start in self._present()])
        infos = {"progress": progress, "is_success": self._success.copy(), "uncertainty": np.zeros(self.num_envs)}
        known = np.ones(self.num_envs, bool) if mask is None else mask
        return {**infos, **{f"_{key}": known.copy() for key in infos}}
