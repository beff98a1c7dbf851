"""Imagination in shards: batches of a fixed number of environments, each imagined by some worker.

A shard is imagined in one batch wherever that happens, so results do not depend on the number of workers. What a shard
was asked since its last seeded reset is sent along with every call: a worker that knows nothing of it, because it
replaces one that died, gets there by itself. Nothing here knows Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from rise_env.envs.arguments import mask_of, option_of, options_of, real_numbers, seeds_of
from rise_env.envs.batch import CandidateScores, Continuation
from rise_env.envs.starts import FILTERS
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ActionError, ConfigError, RiseError, requirement

__all__ = ["ATTRIBUTES", "Call", "Perform", "ShardWorker", "ShardedVectorEnv"]

#: Methods that leave an environment as it is.
_READING = ("evaluate_candidates", "recorded_actions")
#: Options of a reset besides its mask.
_OPTIONS = (*FILTERS, "split", "group_size")
#: What a learner asks of its environment that no imagination is needed for.
ATTRIBUTES = (
    "task", "starts", "world_model", "lags", "output", "max_chunks", "group_size", "split", "autoreset_mode",
    "advantage_mode", "success_threshold", "actions_per_step", "metadata", "single_observation_space",
    "single_action_space", "start_observations",
)  # fmt: skip


class Call(NamedTuple):
    """One call of an environment's method: `number` is its own in the whole run."""

    number: int
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012  (never changed)


type _Arguments = tuple[tuple[Any, ...], dict[str, Any]]
#: Given the numbers of shards, their sizes and all calls of each since its last seeded reset, the results of the last
#: calls; an exception in place of a result where the call failed.
type Perform = Callable[[Sequence[tuple[int, int, list[Call]]]], list[Any]]


class ShardWorker:
    """Environments of some shards, in a worker.

    Args:
        make: Makes a vector environment of so many environments.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._shards: dict[int, tuple[Any, list[int]]] = {}

    def run(self, shard: int, size: int, calls: Sequence[Call]) -> Any:
        """Result of the last call.

        Args:
            shard: Number of the shard.
            size: Its number of environments.
            calls: All calls since its last seeded reset; those that are done already are not done again.
        """
        env, done = self._shards.pop(shard, (None, []))
        if [call.number for call in calls[: len(done)]] != done or len(done) >= len(calls):
            done = []
        env, result = env or self._make(size), None
        for number, name, args, kwargs in calls[len(done) :]:
            try:
                result = getattr(env, name)(*args, **kwargs)
            except BaseException:
                self._shards[shard] = env, []  # it may be anywhere: the next call begins at the reset
                raise
            if name not in _READING:
                done.append(number)
        self._shards[shard] = env, done
        return result


class ShardedVectorEnv(VectorEnv[dict[str, Any], Any, Any]):
    """A vector environment in autoreset mode "disabled", imagined in shards by whoever performs the calls.

    Args:
        env: The same environment in this process; its world model has a `max_batch`, the size of a shard.
        num_envs: Number of environments.
        perform: Performs calls.

    Raises:
        ConfigError: If the environment cannot be divided.
    """

    def __init__(self, env: ImaginationVectorEnv, num_envs: int, perform: Perform) -> None:
        require, size = requirement("cluster"), env.world_model.max_batch or num_envs
        mode = env.autoreset_mode.value.lower()
        require(mode == "disabled" and env.output == "numpy", 'imagination needs autoreset_mode="disabled" and NumPy')
        require(
            size % env.group_size == 0, f"group_size {env.group_size} does not divide shards of {size} environments"
        )
        for name in ATTRIBUTES:
            setattr(self, name, getattr(env, name))
        self.num_envs, self.render_mode = num_envs, None
        self.observation_space = batch_space(env.single_observation_space, num_envs)
        self.action_space = batch_space(env.single_action_space, num_envs)
        self._shards = [slice(first, min(first + size, num_envs)) for first in range(0, num_envs, size)]
        self._calls: list[list[Call]] = [[] for _ in self._shards]
        self._seen: list[dict[str, Any]] = [{} for _ in self._shards]
        self._perform, self._number, self._done = perform, 0, np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As of `ImaginationVectorEnv`."""
        options, seeds = options_of(options), seeds_of(seed, self.num_envs)
        mask = mask_of(options.pop("reset_mask", None), self.num_envs)
        if not all(self._calls):
            if not mask.all():
                raise ConfigError("reset_mask leaves environments out, but the first reset must be of all")
            drawn = np.random.SeedSequence().generate_state(self.num_envs)  # a worker that is lost must be replaceable
            seeds = [int(new) if one is None else one for one, new in zip(seeds, drawn, strict=True)]
        given = {key: value for key, value in options.items() if key in _OPTIONS and value is not None}
        if self._shards[0].stop % (given.get("group_size") or 1):
            raise ConfigError(f"group_size {given['group_size']} does not divide shards of {self._shards[0].stop}")
        for key in FILTERS:
            option_of(key, given.get(key), range(self.num_envs), self.num_envs)
        asked: list[_Arguments | None] = []
        for rows in self._shards:
            here = {key: value if isinstance(value, str) or np.ndim(value) == 0 else value[rows]
                    for key, value in given.items()}  # fmt: skip
            if "split" in options:  # None stands for both
                here.setdefault("split", None)
            arguments: _Arguments = ((), {"seed": seeds[rows], "options": {**here, "reset_mask": mask[rows]}})
            asked.append(arguments if mask[rows].any() else None)
        found = self._ask("reset", asked)
        self._done[mask] = False
        return self._observed([part and part[0] for part in found]), self._infos([part and part[1] for part in found])

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """As of `ImaginationVectorEnv`."""
        if self._done.any():
            raise RiseError(
                f"the episodes of environments {np.flatnonzero(self._done).tolist()} have ended: reset them first with "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        found = self._ask("step", self._divided(actions))
        seen, rewards, terminated, truncated, infos = zip(*found, strict=True)
        ended, cut = np.concatenate(terminated), np.concatenate(truncated)
        self._done = ended | cut
        return self._observed(seen), np.concatenate(rewards), ended, cut, self._infos(infos)

    def evaluate_candidates(
        self, actions: Any, continuation: Continuation | None = None, lookahead: int = 0
    ) -> CandidateScores:
        """As of `ImaginationVectorEnv`, without a continuation: the policy is not on the other machines.

        Raises:
            ConfigError: If there is one.
        """
        if continuation is not None and lookahead:
            raise ConfigError("a cluster looks no chunk ahead: set lookahead=0, or leave --cluster out")
        found = self._ask("evaluate_candidates", self._divided(actions))
        return CandidateScores(*(np.concatenate([getattr(part, name) for part in found])
                                 for name in ("advantage", "uncertainty")))  # fmt: skip

    def recorded_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """As of `ImaginationVectorEnv`."""
        chunks, masks = zip(*self._ask("recorded_actions", [((), {})] * len(self._shards)), strict=True)
        return np.concatenate(chunks), np.concatenate(masks)

    def _divided(self, actions: Any) -> list[_Arguments | None]:
        """Arguments of every shard, of an array with one row per environment."""
        chunks = real_numbers(actions)
        if chunks.shape[:1] != (self.num_envs,):
            raise ActionError(f"actions of shape {chunks.shape} for {self.num_envs} environments; nothing was executed")
        return [((chunks[rows],), {}) for rows in self._shards]

    def _ask(self, name: str, asked: Sequence[_Arguments | None]) -> list[Any]:
        """Results of a method by shard; None where nothing is asked."""
        if name != "reset" and not all(self._calls):
            raise RiseError("call reset() first")
        jobs = []
        for shard, given in enumerate(asked):
            if given is None:
                continue
            self._number += 1
            call, before = Call(self._number, name, *given), self._calls[shard]
            if name == "reset" and given[1]["options"]["reset_mask"].all() and None not in given[1]["seed"]:
                before = []
            jobs.append((shard, self._shards[shard].stop - self._shards[shard].start, [*before, call]))
        results = self._perform(jobs)
        for (shard, _, _), result in zip(jobs, results, strict=True):
            if isinstance(result, BaseException):  # no shard remembers this call: all are where they were
                if len(self._shards) > 1 and isinstance(result, RiseError):
                    raise type(result)(f"{result} (numbers count from environment {self._shards[shard].start})")
                raise result
        found: list[Any] = [None] * len(asked)
        for (shard, _, calls), result in zip(jobs, results, strict=True):
            found[shard] = result
            if name not in _READING:
                self._calls[shard] = calls
        return found

    def _observed(self, parts: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
        self._seen = [old if new is None else new for old, new in zip(self._seen, parts, strict=True)]
        return {key: np.concatenate([part[key] for part in self._seen]) for key in self._seen[0]}

    def _infos(self, parts: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
        """One array per key; where a shard has none its mask is False."""
        kinds = {key: value for part in parts if part for key, value in part.items()}
        found: dict[str, Any] = {}
        for key, kind in kinds.items():
            sizes = [rows.stop - rows.start for rows in self._shards]
            found[key] = np.concatenate([
                part[key] if part and key in part else np.zeros(size, kind.dtype)
                for part, size in zip(parts, sizes, strict=True)
            ])  # fmt: skip
        return found
