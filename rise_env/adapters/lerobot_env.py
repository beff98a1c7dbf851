"""Our environments for lerobot-eval and lerobot-train: importing this module registers `--env.type=rise`.

The distribution `lerobot_env_rise` (in `plugins/` of the repository) does so whenever LeRobot looks for plug-ins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

import rise_env  # noqa: F401  (registers the ids)
from rise_env.adapters.lerobot import LeRobotView
from rise_env.errors import ConfigError

__all__ = ["RiseEnvConfig"]


@EnvConfig.register_subclass("rise")
@dataclass
class RiseEnvConfig(EnvConfig):
    """One of our environments, by its id, for LeRobot.

    What a policy is fed comes from the environment's task: `fps`, `features` and `features_map` are filled in.

    Attributes:
        task: Environment id.
        preset: Preset of its task; the environment's when None.
        actions_per_step: As of `LeRobotView`.
        arguments: Further keyword arguments of the environment.

    Raises:
        ConfigError: If there is no such environment, or an argument is wrong.
    """

    task: str | None = "RISE-BrickSorting-Cell-v0"
    preset: str | None = None
    actions_per_step: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        view = self._view(1)
        spec = view.spec_of_task
        view.close()
        self.fps, size = round(spec.fps), (*spec.image_size, 3)
        joints = (spec.layout.dim,)
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, joints),
            "agent_pos": PolicyFeature(FeatureType.STATE, joints),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for key in view.pixel_keys.values():
            self.features[f"pixels/{key}"] = PolicyFeature(FeatureType.VISUAL, size)
            self.features_map[f"pixels/{key}"] = f"{OBS_IMAGES}.{key}"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the environment."""
        preset = {} if self.preset is None else {"preset": self.preset}
        return {"autoreset_mode": "same_step", "render_mode": "rgb_array", **preset, **self.arguments}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """The environments as LeRobot asks for them; they run side by side by themselves, whatever `use_async_envs`."""
        return {self.type: {0: self._view(n_envs)}}

    def _view(self, num_envs: int) -> LeRobotView:
        try:
            envs = gymnasium.make_vec(str(self.task), num_envs=num_envs, **self.gym_kwargs)
        except (gymnasium.error.Error, TypeError) as error:
            raise ConfigError(f"--env.task={self.task}: {error}") from error
        return LeRobotView(envs, self.actions_per_step)
