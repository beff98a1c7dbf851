"""LeRobotView: our vector environments as lerobot-eval drives them, one joint target at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.arguments import real_numbers
from rise_env.errors import ActionError, ConfigError, requirement
from rise_env.spaces import image_key
from rise_env.tasks import TaskSpec

__all__ = ["LeRobotView"]

_PREFIX = "observation.images."
_ONE_EPISODE = "lerobot_new_rollout"


class LeRobotView(VectorEnv[dict[str, Any], np.ndarray, np.ndarray]):
    """View with LeRobot's observations (`pixels`, `agent_pos`) and single actions (D,).

    Actions are collected until there are as many as the environment executes of a chunk; only then it is stepped. Until
    then the last observation is repeated and the reward is 0: a policy should choose its next chunk (`n_action_steps`)
    where a new observation comes. What a chunk has beyond the executed actions is filled up with the last one.

    After a reset with LeRobot's option "lerobot_new_rollout" an environment whose episode has ended stays as it ended,
    with reward 0 and without another success, until the next such reset: LeRobot counts what comes one step later.

    Args:
        envs: One of our vector environments, with `autoreset_mode="same_step"`.
        actions_per_step: Actions that the environment executes of a chunk. By default the whole chunk in imagination
            and `TaskSpec.execute` elsewhere.

    Raises:
        ConfigError: If autoreset mode or output of the environment do not fit, or it has no TaskSpec.

    Example:
        >>> from rise_env.testing import counting_envs
        >>> envs = LeRobotView(counting_envs(2, autoreset_mode="same_step"))
        >>> observation, _ = envs.reset(seed=[0, 1], options={"lerobot_new_rollout": True})
        >>> observation["pixels"]["head"].shape, envs.action_space.shape, envs.call("_max_episode_steps")
        ((2, 36, 40, 3), (2, 3), (16, 16))
        >>> envs.close()
    """

    def __init__(self, envs: VectorEnv, actions_per_step: int | None = None) -> None:
        core: Any = envs.unwrapped
        require, mode = requirement("LeRobotView"), envs.metadata.get("autoreset_mode")
        require(mode == AutoresetMode.SAME_STEP, f'make the environment with autoreset_mode="same_step", not {mode}')
        require(getattr(core, "output", "numpy") == "numpy", 'make the environment with output="numpy"')
        known = isinstance(getattr(core, "task", None), TaskSpec)
        require(known, f"{type(core).__name__} has no TaskSpec in its attribute 'task'")
        self.envs, self.spec_of_task = envs, core.task
        spec = self.spec_of_task
        self.actions_per_step: int = actions_per_step or getattr(core, "actions_per_step", spec.execute)
        require.within(f"[1, {spec.chunk}]", self, "actions_per_step")
        self.num_envs, self.render_mode, self.spec = envs.num_envs, envs.render_mode, envs.spec
        self.metadata = {**envs.metadata, "render_fps": spec.fps}
        inner = envs.single_observation_space
        assert isinstance(inner, spaces.Dict)
        #: Camera names as in the dataset, so that a policy trained on it finds its inputs.
        self.pixel_keys = {camera: key.removeprefix(_PREFIX) for camera, key in spec.cameras.items()}
        pixels = {self.pixel_keys[camera]: inner[image_key(camera)] for camera in spec.cameras}
        self.single_observation_space = spaces.Dict({"pixels": spaces.Dict(pixels), "agent_pos": inner["state"]})
        self.single_action_space = spaces.Box(spec.layout.low, spec.layout.high, dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        #: Steps after which every episode has ended; lerobot-eval asks for it.
        steps = core.max_chunks * spec.chunk if hasattr(core, "max_chunks") else spec.max_steps
        self._max_episode_steps = -(-steps // self.actions_per_step) * self.actions_per_step
        self._prompts = [spec.prompt] * self.num_envs
        self._collected: list[np.ndarray] = []
        self._last: dict[str, Any] = {}
        self._one_episode = False
        self._over = np.zeros((2, self.num_envs), bool)  # terminated, truncated

    @property
    def task_description(self) -> tuple[str, ...]:
        """Instruction of every environment."""
        return tuple(self._prompts)

    #: Lerobot's older name.
    task = task_description

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes in all environments; unknown options are ignored.

        Raises:
            ConfigError: If `options` holds a `reset_mask`: the environments collect their actions in step.
        """
        if (options or {}).get("reset_mask") is not None:
            raise ConfigError("LeRobotView resets all environments at once; leave reset_mask out")
        observation, infos = self.envs.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._collected, self._one_episode = [], bool((options or {}).get(_ONE_EPISODE))
        self._over[:] = False
        self._take_prompts(infos)
        self._last = self._view(observation)
        return _copy(self._last), infos

    def step(self, actions: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one joint target per environment, (num_envs, D).

        Raises:
            ActionError: If the actions have the wrong shape or are not finite.
        """
        actions = real_numbers(actions).astype(np.float32)
        if actions.shape != self.action_space.shape:
            raise ActionError(f"actions have shape {actions.shape}, expected {self.action_space.shape}")
        if not np.isfinite(actions).all():
            raise ActionError("actions are not finite (NaN or infinity)")
        self._collected.append(actions.copy())
        if len(self._collected) < self.actions_per_step:
            return _copy(self._last), np.zeros(self.num_envs), *self._over.copy(), {}
        filled = self._collected + [actions] * (self.spec_of_task.chunk - len(self._collected))
        self._collected = []
        observation, rewards, terminated, truncated, infos = self.envs.step(np.stack(filled, axis=1))
        self._take_prompts(infos)
        view = self._view(observation)
        if "final_obs" in infos:
            final = infos["final_obs"]
            for i in np.flatnonzero(infos["_final_obs"]):
                final[i] = self._view(final[i])
        if self._one_episode:
            before = self._over[0] | self._over[1]
            ended = np.stack([terminated, truncated]) & ~before
            for i in np.flatnonzero(ended.any(axis=0)):
                _put(view, i, infos["final_obs"][i])
            for i in np.flatnonzero(before):
                _put(view, i, _row(self._last, i))
            self._over |= ended
            (terminated, truncated), rewards = self._over.copy(), np.where(before, 0.0, rewards)
            infos = _without(infos, before)
        self._last = view
        return _copy(view), rewards, terminated, truncated, infos

    def render(self) -> Any:
        """One picture per environment."""
        return self.envs.render()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method or read an attribute, of this view or else of the environment; one result per environment."""
        if not hasattr(self, name):
            return self.envs.unwrapped.call(name, *args, **kwargs)  # type: ignore[attr-defined]
        attribute = getattr(self, name)
        result = attribute(*args, **kwargs) if callable(attribute) else attribute
        own = name in ("render", "task", "task_description") and result is not None
        return tuple(result) if own else (result,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every environment."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment."""
        self.envs.close()

    def _take_prompts(self, infos: dict[str, Any]) -> None:
        for i in np.flatnonzero(infos.get("_task", np.zeros(self.num_envs, bool))):
            self._prompts[i] = str(infos["task"][i])

    def _view(self, observation: dict[str, np.ndarray]) -> dict[str, Any]:
        pixels = {name: np.array(observation[image_key(camera)]) for camera, name in self.pixel_keys.items()}
        return {"pixels": pixels, "agent_pos": np.array(observation["state"])}


def _copy(view: dict[str, Any]) -> dict[str, Any]:
    return {
        "pixels": {name: array.copy() for name, array in view["pixels"].items()},
        "agent_pos": view["agent_pos"].copy(),
    }


def _row(view: dict[str, Any], i: int) -> dict[str, Any]:
    return {"pixels": {name: array[i] for name, array in view["pixels"].items()}, "agent_pos": view["agent_pos"][i]}


def _put(view: dict[str, Any], i: int, row: dict[str, Any]) -> None:
    for name, array in view["pixels"].items():
        array[i] = row["pixels"][name]
    view["agent_pos"][i] = row["agent_pos"]


def _without(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Infos without those of some environments: no success of theirs, and nothing final if theirs alone was."""
    kept: dict[str, Any] = {}
    for key, value in infos.items():
        if isinstance(value, dict):
            kept[key] = _without(value, rows)
        elif key.startswith("_") or key == "is_success":
            kept[key] = np.where(rows, False, value)
        else:
            kept[key] = value
    if "_final_info" in kept and not kept["_final_info"].any():
        kept = {key: value for key, value in kept.items() if key.lstrip("_") not in ("final_info", "final_obs")}
    return kept
