"""Value curves: what the value model says of an episode as it goes on, seen through the robot's own cameras."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rise_agents.algorithms.best_of_n import history_lags, observed_history
from rise_env.acting import Actor
from rise_env.world_model import CompositionalWorldModel

__all__ = ["remaining", "value_curve"]


def remaining(chunk: np.ndarray, done: int) -> np.ndarray:
    """What is left of chunks (N, chunk, D) after `done` steps, filled up with their last action."""
    return np.concatenate([chunk[:, done:], np.repeat(chunk[:, -1:], done, axis=1)], axis=1)


def value_curve(
    env_id: str, actor: Actor, world_model: CompositionalWorldModel, seed: int, env_kwargs: Any = None
) -> list[tuple[float, float]]:
    """Run one episode and evaluate every moment that the world model would imagine.

    The policy is asked as often as in an evaluation, so the episode is the one that an evaluation counts (up to
    rounding, see `rise_agents.reporting.filming.film_episodes`).

    Args:
        env_id: Registered environment id.
        actor: Who acts.
        world_model: Whose value model is asked, every `stride` control steps.
        seed: Seed of the episode.
        env_kwargs: Further keyword arguments of the environment.

    Returns:
        Time since the start in seconds, and value; one pair per moment.
    """
    spec = world_model.spec
    asked_every = max(1, spec.execute // spec.stride)  # moments
    kwargs = {
        **(env_kwargs or {}),
        "execute": spec.stride,
        "observation_lags": sorted({*history_lags(spec), *actor.lags}),
    }
    env: Any = gymnasium.make_vec(env_id, num_envs=1, autoreset_mode="disabled", **kwargs)
    points: list[tuple[float, float]] = []
    try:
        observations, _ = env.reset(seed=seed)
        actor.reset([seed], np.ones(1, bool))
        over = np.zeros(1, bool)
        while True:
            session = world_model.open(observed_history(world_model, observations))
            points.append((len(points) * spec.stride / spec.fps, float(session.value[0])))
            world_model.close(session)
            if over.any():
                return points
            step = (len(points) - 1) % asked_every
            if step == 0:
                chunk = actor.act(observations)
            observations, _, terminated, truncated, _ = env.step(remaining(chunk, step * spec.stride))
            over = terminated | truncated
    finally:
        env.close()
