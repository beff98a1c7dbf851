"""A robot, or a few simulated ones, as a vector environment: `gym.make_vec("RISE-BrickSorting-Piper-v0")`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.arguments import autoreset_mode as parse_mode
from rise_env.errors import ConfigError
from rise_robot.env import make_robot_env

__all__ = ["RobotVectorEnv"]


class RobotVectorEnv(SyncVectorEnv):
    """`num_envs` robots, one after the other; more than one only of a driver that does not run in real time.

    Args:
        num_envs: Number of robots.
        autoreset_mode: "next_step", "same_step" or "disabled".
        **kwargs: Arguments of `rise_robot.env.make_robot_env`.

    Raises:
        ConfigError: If an argument is wrong, or several real robots are asked for.
    """

    def __init__(self, num_envs: int = 1, autoreset_mode: str | AutoresetMode = "next_step", **kwargs: Any) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}, expected at least 1")
        first = make_robot_env(**kwargs)
        if num_envs > 1 and first.driver.real_time:
            driver = first.driver.name
            raise ConfigError(f"num_envs is {num_envs}: there is one robot behind driver {driver!r}. Use --num-envs 1.")
        more = [lambda: make_robot_env(**kwargs)] * (num_envs - 1)
        super().__init__([lambda: first, *more], autoreset_mode=parse_mode(autoreset_mode))
        self.task = first.task
        #: Names that `scripted_chunks` takes.
        self.scripted_policies = first.scripted_policies

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start episodes in all robots, or in those of `options["reset_mask"]`; `options` is not changed."""
        return super().reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]

    def scripted_chunks(self, name: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Action chunks of a scripted policy, float32 (num_envs, chunk, D); see `RobotEnv.scripted_chunk`."""
        chosen = [0] * self.num_envs if seeds is None else seeds
        chunks = [env.scripted_chunk(name, int(s)) for env, s in zip(self.envs, chosen, strict=True)]  # type: ignore[attr-defined]
        return np.stack(chunks)
