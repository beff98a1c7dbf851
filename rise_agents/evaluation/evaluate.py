"""Evaluation of any actor in any of our environments: paired seeds, Wilson intervals, failure modes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from rise_agents.evaluation.results import Episode, EvaluationResult, summarise
from rise_env.acting import Actor, ActorSource, actor_in, needed_by
from rise_env.errors import ConfigError, requirement

__all__ = ["evaluate", "run_episodes"]

#: Infos of an episode that only something real has.
_TRUTH = ("is_success", "score", "failure_mode", "seconds")


def evaluate(
    env_id: str,
    actor: ActorSource,
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
        actor: Who acts: an actor, or a function that makes it for the vector environment. By name: `resolve_actor`.
        episodes: Number of episodes.
        seed: Seed of the first episode.
        num_envs: Environments that run at the same time.
        env_kwargs: Further keyword arguments of the environment; it gets the actor's `observation_lags` anyway.
        on_episode: Called at the end of every episode.

    Raises:
        ConfigError: If an argument is wrong.
    """
    requirement("evaluate").at_least(1, episodes=episodes)
    started = time.perf_counter()
    count = min(num_envs, episodes)
    kwargs = {**needed_by(actor), **(env_kwargs or {}), "autoreset_mode": "disabled"}
    try:
        envs = gymnasium.make_vec(env_id, num_envs=count, **kwargs)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ConfigError(f"environment {env_id!r} cannot be made with {', '.join(kwargs)}: {error}") from error
    try:
        done = run_episodes(envs, actor_in(actor, envs), episodes, seed, on_episode)
    finally:
        envs.close()
    return summarise(done, time.perf_counter() - started)


def run_episodes(
    envs: gymnasium.vector.VectorEnv,
    actor: Actor,
    episodes: int,
    seed: int,
    on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Run episodes `seed ... seed + episodes - 1` in environments with autoreset mode "disabled".

    Every environment is kept busy until no episode is left for it; it then idles on its last one.
    """
    done: list[Episode] = []
    count = started = envs.num_envs
    seeds, active, chunks = [seed + i for i in range(count)], np.ones(count, bool), np.zeros(count, int)
    observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]  # ours take a list
    actor.reset(seeds, active)
    while active.any():
        observations, _, terminated, truncated, infos = envs.step(actor.act(observations))
        if missing := [key for key in _TRUTH if key not in infos]:
            raise ConfigError(
                f"{envs.spec and envs.spec.id!r} tells no {', '.join(missing)}, as an imagination cannot: success is "
                "measured in the work cell or on a robot (RISE-<Task>-Cell-v0, -Piper-v0). For what a policy gains in "
                "imagination: rise_agents.evaluation.imagined"
            )
        chunks += 1
        over = terminated | truncated
        for i in np.flatnonzero(over & active):
            success, score, mode = bool(infos["is_success"][i]), float(infos["score"][i]), infos["failure_mode"][i]
            done.append(Episode(seeds[i], success, score, str(mode), float(infos["seconds"][i]), int(chunks[i])))
            if on_episode is not None:
                on_episode(done[-1])
        # A finished environment must be reset before it may step again, also where no episode is left for it.
        for i in np.flatnonzero(over):
            active[i] = bool(active[i]) and started < episodes
            if active[i]:
                seeds[i], started = seed + started, started + 1
        if over.any() and active.any():
            observations, _ = envs.reset(seed=seeds, options={"reset_mask": over})  # type: ignore[arg-type]
            actor.reset(seeds, over)
            chunks[over] = 0
    return done
