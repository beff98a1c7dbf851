"""SB3VecEnv: a Gymnasium vector environment as Stable-Baselines3 wants it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.vector_env import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from rise_env.envs.infos import info_of
from rise_env.errors import ConfigError, RiseError, requirement

__all__ = ["SB3VecEnv"]

#: Options that our environments take one by one; others must be the same for all.
_OWN_OPTIONS = ("episode_index", "frame_index", "group", "start_index")


class SB3VecEnv(VecEnv):
    """View of a vector environment in autoreset mode "same_step" as a Stable-Baselines3 `VecEnv`.

    `step` returns SB3's infos: a list of dicts, of which those of finished episodes hold `terminal_observation`,
    `TimeLimit.truncated`, `episode` (`r`, `l`, `t`) and the environment's last infos (`is_success`, ...). Infos
    of the first observations of episodes are in `reset_infos`. Images stay (H, W, 3): SB3's algorithms, and its
    `VecTransposeImage`, turn them to (3, H, W).

    Args:
        envs: Vector environment with `autoreset_mode="same_step"` that gives NumPy arrays.

    Raises:
        ConfigError: If the environment's autoreset mode or output is another.

    Example:
        >>> from rise_env.testing import counting_envs
        >>> envs = SB3VecEnv(counting_envs(2, autoreset_mode="same_step"))
        >>> envs.seed(0)
        [0, 1]
        >>> envs.reset()["state"].shape
        (2, 3)
        >>> envs.close()
    """

    def __init__(self, envs: VectorEnv) -> None:
        require, mode = requirement("SB3VecEnv"), envs.metadata.get("autoreset_mode")
        require(mode == AutoresetMode.SAME_STEP, f'make the environment with autoreset_mode="same_step", not {mode}')
        require(getattr(envs.unwrapped, "output", "numpy") == "numpy", 'make the environment with output="numpy"')
        self.envs = envs
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, np.int64)
        self._begun = time.time()
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    @property
    def observation_space(self) -> gymnasium.spaces.Space:
        """A copy for whoever asks: SB3's VecNormalize writes into the space that it is given."""
        return copy.deepcopy(self._observation_space)

    @observation_space.setter
    def observation_space(self, space: gymnasium.spaces.Space) -> None:
        self._observation_space = space

    def reset(self) -> Any:
        """Observation of the beginning of episodes; seeds and options set before are used once."""
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observation, infos = self.envs.reset(seed=seeds, options=self._joined_options())  # type: ignore[arg-type]
        self.reset_infos = [info_of(infos, i) for i in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:], self._actions = 0, 0, None
        self._begun = time.time()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Step; see the class for the infos."""
        if self._actions is None:
            raise RiseError("call step_async() before step_wait()")
        actions, self._actions = self._actions, None
        observation, rewards, terminated, truncated, infos = self.envs.step(actions)
        dones = np.asarray(terminated | truncated)
        self._returns += rewards
        self._lengths += 1
        rows = [info_of(infos, i) for i in range(self.num_envs)]
        for i in np.flatnonzero(dones):
            rows[i] = self._info(infos, i, bool(terminated[i]))
        self._returns[dones], self._lengths[dones] = 0, 0
        return observation, np.array(rewards, np.float32), dones, rows

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def _info(self, infos: dict[str, Any], i: int, terminated: bool) -> dict[str, Any]:
        """Info of an episode that ended."""
        begun = {key: value for key, value in infos.items() if key.lstrip("_") not in ("final_obs", "final_info")}
        self.reset_infos[i] = info_of(begun, i)
        info = info_of(infos["final_info"], i)
        info["terminal_observation"] = copy.deepcopy(infos["final_obs"][i])
        info["TimeLimit.truncated"] = not terminated
        reward, seconds = round(float(self._returns[i]), 6), round(time.time() - self._begun, 6)
        return {**info, "episode": {"r": reward, "l": int(self._lengths[i]), "t": seconds}}

    def _joined_options(self) -> dict[str, Any] | None:
        """The options of all environments as one dict."""
        options = self._options
        joined: dict[str, Any] = {}
        for key in dict.fromkeys(key for one in options for key in one):
            values = [one.get(key) for one in options]
            if all(value is values[0] or bool(np.array_equal(value, values[0])) for value in values):
                joined[key] = values[0]
            elif key in _OWN_OPTIONS:
                joined[key] = values
            else:
                raise ConfigError(f"option {key!r} differs between environments ({values}), but it is for all of them")
        return joined or None

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Attribute of some environments."""
        source: Any = self.envs if attr_name == "render_mode" else self.envs.unwrapped
        each = attr_name != "render_mode" and hasattr(source, "get_attr")
        values = source.get_attr(attr_name) if each else [getattr(source, attr_name)] * self.num_envs
        return [values[i] for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of some environments."""
        chosen = set(self._get_indices(indices))
        olds = [value] * self.num_envs if len(chosen) == self.num_envs else self.get_attr(attr_name)
        values = [value if i in chosen else old for i, old in enumerate(olds)]
        self.envs.unwrapped.set_attr(attr_name, values)  # type: ignore[attr-defined]

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method. It runs in all environments; `indices` chooses whose results are returned."""
        results = self.envs.unwrapped.call(method_name, *method_args, **method_kwargs)  # type: ignore[attr-defined]
        return [results[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """True for SB3's Monitor, whose work is done above; single environments have no wrappers here."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture per environment."""
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def _get_indices(self, indices: Any) -> Iterable[int]:
        return super()._get_indices(int(indices) if isinstance(indices, np.integer) else indices)
