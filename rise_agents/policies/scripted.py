"""Actors that are not trained: an environment's experts and operators, and random actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np

from rise_env.acting import Actor
from rise_env.errors import ConfigError

__all__ = ["RandomPolicy", "ScriptedInEnv", "scripted_actor"]


class ScriptedInEnv:
    """A policy that lives in the environment because it sees the ground truth (experts and operators).

    Args:
        envs: Vector environment with a method `scripted_chunks`.
        name: Name of the scripted policy.
    """

    lags: tuple[int, ...] = ()

    def __init__(self, envs: gymnasium.vector.VectorEnv, name: str) -> None:
        self._envs, self._name = envs.unwrapped, name
        self._seeds: Sequence[int] = [0] * envs.num_envs

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Take over the seeds."""
        del mask
        self._seeds = list(seeds)

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Ask the environments for their chunks, float32 (N, chunk, D), rad and m."""
        del observations
        return self._envs.scripted_chunks(self._name, self._seeds)  # type: ignore[attr-defined]


class RandomPolicy:
    """Uniformly random chunks; those of an episode depend on its seed alone.

    Args:
        space: Single action space, Box (chunk, D).
    """

    lags: tuple[int, ...] = ()

    def __init__(self, space: gymnasium.spaces.Box) -> None:
        self._space = space
        self._generators: list[np.random.Generator] = []

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed the episodes that start."""
        same = len(self._generators) == len(seeds)  # else other environments than before
        old = self._generators if same else [np.random.default_rng(0)] * len(seeds)
        self._generators = [np.random.default_rng(s) if m else g for s, m, g in zip(seeds, mask, old, strict=True)]

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw a chunk per environment, float32 (N, chunk, D), rad and m."""
        del observations
        low, high = self._space.low.astype(float), self._space.high.astype(float)
        return np.stack([g.uniform(low, high).astype(np.float32) for g in self._generators])


def scripted_actor(name: str, envs: gymnasium.vector.VectorEnv) -> Actor:
    """Actor by name: "random", or one of the environment's scripted policies ("expert", "operator", ...).

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
