"""Evaluation of any policy on any of our environments: paired seeds, Wilson intervals, failure modes, videos."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import gymnasium
import numpy as np

from rise_env.errors import ConfigError

__all__ = [
    "ChunkPolicy",
    "Episode",
    "EvaluationResult",
    "PolicyMaker",
    "RandomPolicy",
    "ScriptedInEnv",
    "evaluate",
    "named_policy",
    "policy_of",
    "run_episodes",
    "summarise",
    "wilson_interval",
]


class ChunkPolicy(Protocol):
    """What can be evaluated: a batch of observations in, a batch of action chunks out."""

    def begin(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """New episodes start in the environments of `mask`, bool (N,); `seeds` has one seed per environment."""

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """Action chunks, (N, chunk, D) float32 in rad and m, for observations with a leading axis N."""


type PolicyMaker = Callable[[gymnasium.vector.VectorEnv], ChunkPolicy]


class ScriptedInEnv:
    """A policy that lives in the environment because it sees the ground truth (experts and operators).

    Args:
        envs: Vector environment with a method `scripted_chunks`.
        name: Name of the scripted policy.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, name: str) -> None:
        self._envs, self._name = envs.unwrapped, name
        self._seeds: Sequence[int] = [0] * envs.num_envs

    def begin(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Take over the seeds."""
        self._seeds = list(seeds)

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """Ask the environments."""
        del observations
        return self._envs.scripted_chunks(self._name, self._seeds)  # type: ignore[attr-defined]


class RandomPolicy:
    """Uniformly random chunks; the sequence of an episode depends on its seed alone.

    Args:
        space: Single action space, Box (chunk, D).
    """

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        self._space = space
        self._generators: list[np.random.Generator] = []

    def begin(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed the episodes that start."""
        old = self._generators or [np.random.default_rng(0)] * len(seeds)
        self._generators = [np.random.default_rng(s) if m else g for s, m, g in zip(seeds, mask, old, strict=True)]

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        """Draw a chunk per environment."""
        del observations
        low, high = self._space.low.astype(float), self._space.high.astype(float)
        return np.stack([g.uniform(low, high).astype(np.float32) for g in self._generators])


def policy_of(name: str, env_id: str, **options: Any) -> tuple[PolicyMaker, dict[str, Any]]:
    """What acts, and what the environment must offer it.

    Args:
        name: "base", the path or Hub id of a policy, or a name for `named_policy`.
        env_id: Environment id, which decides on the task of "base".
        **options: For trained policies: `advantage` (see `policies.loading.level_of`), `guidance`, `steps` and `noise`
            (see `PolicyRunner`), `device`; `best_of`: imagine so many proposals and take the best; `bundle`: whose
            world model imagines them.

    Returns:
        A function that makes the policy for a vector environment, and keyword arguments for that environment.

    Raises:
        ConfigError: If there is no such policy, or options are given to one that takes none.
        CheckpointError: If it cannot be read.
    """
    from rise_agents.policies.loading import find_policy

    task = gymnasium.spec(env_id).kwargs.get("task")
    path = find_policy(name, task)
    if path is None:
        if given := [key for key, value in options.items() if value is not None and key != "device"]:
            raise ConfigError(f"policy {name!r} is scripted: it takes no {', '.join(given)}")
        return lambda envs: named_policy(name, envs), {}
    from rise_agents.policies.base import PolicyRunner
    from rise_agents.policies.loading import level_of, load_policy

    policy = load_policy(path, device=options.get("device") or "cpu")
    level = level_of(policy, options.get("advantage") or "best")
    guidance = options.get("guidance")
    noise = options.get("noise")
    if count := options.get("best_of"):
        from rise_agents.algorithms.best_of_n import BestOfN
        from rise_env.bundle import find_bundle, load_bundle

        bundle = load_bundle(options.get("bundle") or find_bundle(policy.spec.name))
        model = bundle.world_model(device=options.get("device") or "cpu")
        chooser = BestOfN(policy, model, count, level, guidance, noise=1.0 if noise is None else noise)
        return lambda envs: chooser, {"observation_lags": list(chooser.lags)}
    runner = PolicyRunner(policy, level, guidance, options.get("steps"), noise)
    return lambda envs: runner, {"observation_lags": list(policy.lags)} if policy.lags else {}


def named_policy(name: str, envs: gymnasium.vector.VectorEnv) -> ChunkPolicy:
    """Policy by name: "random", or one of the environment's scripted policies ("expert", "operator", ...).

    Raises:
        ConfigError: If there is no such policy.
    """
    if name == "random":
        assert isinstance(envs.single_action_space, gymnasium.spaces.Box)
        return RandomPolicy(envs.single_action_space)
    scripted = getattr(envs.unwrapped, "scripted_policies", ())
    if name in scripted:
        return ScriptedInEnv(envs, name)
    raise ConfigError(
        f"unknown policy {name!r} for {envs.unwrapped!r}. Known here: random{''.join(f', {n}' for n in scripted)}."
    )


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode.

    Attributes:
        seed: Seed it was reset with.
        success: Whether the task succeeded.
        score: Sub-goal score, [0, 10].
        failure_mode: "none", "timeout" or one of the task's.
        seconds: Duration in the environment, s.
        chunks: Action chunks used.
    """

    seed: int
    success: bool
    score: float
    failure_mode: str
    seconds: float
    chunks: int


@dataclass(frozen=True)
class EvaluationResult:
    """Outcome of an evaluation.

    Attributes:
        success_rate: Share of successes.
        success_interval: 95 % Wilson interval of the success rate.
        score_mean: Mean sub-goal score, [0, 10].
        episodes: Number of episodes.
        failure_modes: Failed episodes by mode.
        seconds: Wall-clock time of the whole evaluation, s.
        episode_seconds: Mean duration of an episode in the environment, s.
        details: Every episode, by seed.
    """

    success_rate: float
    success_interval: tuple[float, float]
    score_mean: float
    episodes: int
    failure_modes: dict[str, int]
    seconds: float
    episode_seconds: float
    details: tuple[Episode, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationResult:
        """From `to_dict`, also as read back from JSON; further entries are ignored.

        Raises:
            ConfigError: If entries are missing.
        """
        try:
            values = {field.name: content[field.name] for field in fields(cls)}
            values["details"] = tuple(Episode(**episode) for episode in values["details"])
            values["success_interval"] = tuple(values["success_interval"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is no evaluation result: {error}") from error


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927); z = 1.96 gives 95 %."""
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def evaluate(
    env_id: str,
    policy: str | PolicyMaker,
    episodes: int,
    seed: int = 0,
    *,
    num_envs: int = 16,
    env_kwargs: dict[str, Any] | None = None,
    on_episode: Callable[[Episode], None] | None = None,
) -> EvaluationResult:
    """Run episodes `seed ... seed + episodes - 1` and sum up.

    Episode i uses seed `seed + i` whatever the number of environments, so that two policies meet the same episodes.

    Args:
        env_id: Registered environment id.
        policy: Name or path for `policy_of`, or a function that makes the policy for the vector environment.
        episodes: Number of episodes.
        seed: Seed of the first episode.
        num_envs: Environments that run at the same time.
        env_kwargs: Further keyword arguments of the environment.
        on_episode: Called at the end of every episode.

    Raises:
        ConfigError: If an argument is wrong.
    """
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}, expected at least 1")
    started = time.perf_counter()
    count = min(num_envs, episodes)
    make, needs = policy_of(policy, env_id) if isinstance(policy, str) else (policy, {})
    kwargs = {**needs, **(env_kwargs or {}), "autoreset_mode": "disabled"}
    envs = gymnasium.make_vec(env_id, num_envs=count, **kwargs)
    try:
        chosen = make(envs)
        done = list(run_episodes(envs, chosen, episodes, seed, on_episode))
    finally:
        envs.close()
    return summarise(done, time.perf_counter() - started)


def summarise(episodes: Sequence[Episode], seconds: float) -> EvaluationResult:
    """Sum up episodes; `seconds` is the wall-clock time they took."""
    ordered = tuple(sorted(episodes, key=lambda e: e.seed))
    successes = sum(e.success for e in ordered)
    return EvaluationResult(
        success_rate=successes / len(ordered),
        success_interval=wilson_interval(successes, len(ordered)),
        score_mean=float(np.mean([e.score for e in ordered])),
        episodes=len(ordered),
        failure_modes=dict(Counter(e.failure_mode for e in ordered if not e.success).most_common()),
        seconds=seconds,
        episode_seconds=float(np.mean([e.seconds for e in ordered])),
        details=ordered,
    )


def run_episodes(
    envs: gymnasium.vector.VectorEnv,
    policy: ChunkPolicy,
    episodes: int,
    seed: int,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Run episodes `seed ... seed + episodes - 1` in environments with autoreset mode "disabled".

    Every environment is kept busy until no episode is left for it; it then idles on its last one.
    """
    count = envs.num_envs
    done: list[Episode] = []
    seeds, started = [seed + i for i in range(count)], count
    active, chunks = np.ones(count, bool), np.zeros(count, int)
    observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]  # ours take a list
    policy.begin(seeds, active)
    while active.any():
        observations, _, terminated, truncated, infos = envs.step(policy.act(observations))
        chunks += 1
        over = terminated | truncated
        for i in np.flatnonzero(over & active):
            episode = Episode(
                seed=seeds[i],
                success=bool(infos["is_success"][i]),
                score=float(infos["score"][i]),
                failure_mode=str(infos["failure_mode"][i]),
                seconds=float(infos["seconds"][i]),
                chunks=int(chunks[i]),
            )
            done.append(episode)
            if on_episode is not None:
                on_episode(episode)
        # A finished environment must be reset before it may step again, also where no episode is left for it.
        for i in np.flatnonzero(over):
            active[i] = bool(active[i]) and started < episodes
            if active[i]:
                seeds[i], started = seed + started, started + 1
        if over.any() and active.any():
            observations, _ = envs.reset(seed=seeds, options={"reset_mask": over})  # type: ignore[arg-type]
            policy.begin(seeds, over)
            chunks[over] = 0
    return done
