"""Value curves: how the value model judges an episode as it goes on, seen through the robot's own cameras."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from rise_agents.algorithms.best_of_n import BestOfN
from rise_agents.policies.base import PolicyRunner
from rise_env.world_model import CompositionalWorldModel

__all__ = ["remaining", "value_curve"]


def remaining(chunk: np.ndarray, done: int) -> np.ndarray:
    """What is left of chunks (N, chunk, D) after `done` steps, filled up with their last action."""
    return np.concatenate([chunk[:, done:], np.repeat(chunk[:, -1:], done, axis=1)], axis=1)


def value_curve(
    env_id: str, runner: PolicyRunner, world_model: CompositionalWorldModel, seed: int, env_kwargs: Any = None
) -> list[tuple[float, float]]:
    """Run one episode and judge every moment that the world model would imagine.

    The policy is asked as often as in an evaluation, so the episode is the one that an evaluation counts (up to
    rounding, see `rise_agents.reporting.filming.film_episodes`).

    Args:
        env_id: Registered environment id.
        runner: Policy.
        world_model: Whose value model judges; every `stride` control steps.
        seed: Seed of the episode.
        env_kwargs: Further keyword arguments of the environment.

    Returns:
        Time since the start in seconds, and value; one pair per moment.
    """
    spec, history = world_model.spec, BestOfN(runner.policy, world_model, 1)
    asked_every = max(1, spec.execute // spec.stride)  # moments
    kwargs = {**(env_kwargs or {}), "execute": spec.stride, "observation_lags": list(history.lags)}
    env: Any = gymnasium.make_vec(env_id, num_envs=1, autoreset_mode="disabled", **kwargs)
    points: list[tuple[float, float]] = []
    try:
        observations, _ = env.reset(seed=seed)
        runner.begin([seed], np.ones(1, bool))
        over = np.zeros(1, bool)
        while True:
            session = world_model.open(history.history(observations))
            points.append((len(points) * spec.stride / spec.fps, float(session.value[0])))
            world_model.close(session)
            if over.any():
                return points
            step = (len(points) - 1) % asked_every
            if step == 0:
                chunk = runner.act(observations)
            observations, _, terminated, truncated, _ = env.step(remaining(chunk, step * spec.stride))
            over = terminated | truncated
    finally:
        env.close()
