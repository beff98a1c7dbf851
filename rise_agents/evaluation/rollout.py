"""Episodes of an actor in a vector environment."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np

from rise_agents.evaluation.results import Episode
from rise_env.acting import Actor

__all__ = ["run_episodes"]


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
    count = envs.num_envs
    done: list[Episode] = []
    seeds, started = [seed + i for i in range(count)], count
    active, chunks = np.ones(count, bool), np.zeros(count, int)
    observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]  # ours take a list
    actor.reset(seeds, active)
    while active.any():
        observations, _, terminated, truncated, infos = envs.step(actor.act(observations))
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
            actor.reset(seeds, over)
            chunks[over] = 0
    return done
