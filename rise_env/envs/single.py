"""One imagination: `gym.make("RISE-BrickSorting-v0")`."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch

from rise_env.envs.arguments import options_of, real_numbers, seeds_of
from rise_env.envs.infos import info_of
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec
from rise_env.threads import forked

__all__ = ["ImaginationEnv"]

_FORKED = (
    "an imagination in a forked process has a copy of the models, computes with one thread and cannot use a GPU: "
    "gymnasium.make_vec(ID, num_envs=N) without vectorization_mode imagines all environments in one batch; or use "
    'vector_kwargs={"context": "spawn"}'
)


class ImaginationEnv(gymnasium.Env[dict[str, Any], Any]):
    """An `ImaginationVectorEnv` of one environment, without the batch axis.

    Args:
        render_mode: None or "rgb_array".
        **kwargs: Arguments of `ImaginationVectorEnv` but for `num_envs` and `autoreset_mode`.

    Example:
        >>> from rise_env.testing import counting_starts, counting_world_model
        >>> env = ImaginationEnv(starts=counting_starts(), world_model=counting_world_model())
        >>> observation, info = env.reset(seed=0)
        >>> observation["state"].shape, info["state_source"]
        ((3,), 'dataset')
        >>> env.close()
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012  (Gymnasium's convention)
    core_class: ClassVar[type[ImaginationVectorEnv]] = ImaginationVectorEnv

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        for name in ("num_envs", "autoreset_mode", "group_size"):
            if name in kwargs:
                raise ConfigError(f"{name} is for many environments: use gymnasium.make_vec")
        if forked():
            warnings.warn(_FORKED, stacklevel=2)
        #: The batch of one that does the work.
        self.core = self.core_class(1, autoreset_mode="disabled", render_mode=render_mode, **kwargs)
        self.render_mode = render_mode
        self.observation_space = self.core.single_observation_space
        self.action_space = self.core.single_action_space
        self.metadata = {**self.metadata, "render_fps": self.core.metadata["render_fps"]}

    @property
    def task(self) -> TaskSpec:
        """The task."""
        return self.core.task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start from a recorded state; `options` as for the vector environment, `reset_mask` aside."""
        (number,) = seeds_of(seed, 1)
        super().reset(seed=number)
        kept = {key: value for key, value in options_of(options).items() if key not in ("reset_mask", "group_size")}
        observation, infos = self.core.reset(seed=number, options=kept)
        return self._single(observation), info_of(infos, 0)

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Imagine a chunk (chunk, D)."""
        batch = action[None] if isinstance(action, torch.Tensor) else real_numbers(action)[None]
        observation, rewards, terminated, truncated, infos = self.core.step(batch)
        ends = bool(terminated[0]), bool(truncated[0])
        return self._single(observation), float(rewards[0]), *ends, info_of(infos, 0)

    def render(self) -> np.ndarray | None:
        """Picture uint8 (H, W, 3) of the present state."""
        pictures = self.core.render()
        return None if pictures is None else pictures[0]

    def film(self) -> list[np.ndarray]:
        """Pictures of every imagined frame of the last chunk."""
        return self.core.film()[0]

    def close(self) -> None:
        """End the imagination."""
        self.core.close()

    @staticmethod
    def _single(observation: dict[str, Any]) -> dict[str, Any]:
        return {key: value[0] for key, value in observation.items()}
