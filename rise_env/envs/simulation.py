"""A simulation of somebody else's as an environment with the spaces of imagination: `RISE-<Title>-Sim-v0`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.acting import ObservationHistory
from rise_env.envs.arguments import autoreset_mode as parse_mode
from rise_env.envs.arguments import checked_target, options_of, seeds_of
from rise_env.errors import ConfigError, requirement
from rise_env.registry import load_object
from rise_env.spaces import action_space, check_lags, observation_space
from rise_env.tasks import load_task

__all__ = ["Outcome", "Simulation", "SimulationEnv", "SimulationVectorEnv", "checked_view"]


@dataclass(frozen=True)
class Outcome:
    """What is known after a control step.

    Attributes:
        success: Whether the task is solved; the episode ends with it.
        over: Whether nothing can change the outcome any more.
        score: How much of the task was done so far, [0, 10].
        progress: How far the task is at present, [0, 1]; may fall. None where nobody measures it.
            A value model learns from recorded progress what a moment is worth (`value.labels.progress: dense`).
    """

    success: bool = False
    over: bool = False
    score: float = 0.0
    progress: float | None = None


class Simulation(Protocol):
    """What a simulation has to be able to do, at the task's control rate.

    Chunks, past observations, time limits and infos are `SimulationEnv`'s affair. It is made without arguments.
    """

    def start(self, seed: int) -> None:
        """Begin the episode of a seed; the same seed is the same episode."""

    def advance(self, target: np.ndarray) -> Outcome:
        """One control step, 1 / fps s, towards joint targets float64 (D,), within the limits of the task's layout."""

    def observe(self) -> Mapping[str, np.ndarray]:
        """`image_<camera>` uint8 (H, W, 3) for every camera of the task, and `state` float32 (D,).

        Asked for only where somebody will look at it, since drawing costs most.
        """

    def picture(self) -> np.ndarray:
        """A picture for people, uint8 (H, W, 3)."""

    def close(self) -> None:
        """Give back what was taken."""


def checked_view(simulation: Simulation, task: str, expected: gymnasium.spaces.Dict) -> dict[str, np.ndarray]:
    """What a simulation shows now, if it is what the task of this name has: its observation space without the past.

    Raises:
        ConfigError: If it shows other cameras, sizes or joints.
    """
    seen = dict(simulation.observe())
    if not expected.contains(seen):
        shown = {key: (value.dtype.name, value.shape) for key, value in seen.items()}
        wanted = {key: (str(space.dtype), space.shape) for key, space in expected.spaces.items()}
        raise ConfigError(
            f"the simulation of {task!r} shows {shown}, the task has {wanted}. Change `observe`, or "
            "`cameras`, `image_size` and `layout` of the task."
        )
    return seen


class SimulationEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A `Simulation` that runs action chunks.

    **Observation** and **action** are those of the learned simulator. `step` runs the first `execute` actions of a
    chunk, fewer where the episode ends; targets beyond the joint limits are clamped and counted in `info["clamped"]`.
    **Reward**: 1 at success, else 0.
    **End**: `terminated` at success, and where the simulation says that nothing can change the outcome; `truncated` at
    `max_seconds`.
    **Info**: `task` (instruction), `score` [0, 10], `is_success`, `failure_mode` ("none" while nothing failed,
    "failed", "timeout"), `clamped` (components), `control_steps` (run in this step), `seconds` (since the reset).

    Args:
        task: Name of the task, or a path of its folder.
        simulation: "module:Class" of the `Simulation`.
        preset: Preset name.
        execute: Actions of each chunk to run; None keeps the preset's.
        observation_lags: Further observations of the past, so many control steps ago; before the start lies the first.
        overrides: Further configuration overrides.
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: If an argument is wrong, or the simulation shows other cameras, sizes or joints than the task has.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012  (Gymnasium's convention)

    def __init__(
        self,
        task: str,
        simulation: str,
        preset: str = "small",
        execute: int | None = None,
        observation_lags: Sequence[int] = (),
        overrides: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode {render_mode!r} is not 'rgb_array' or None")
        chosen = [] if execute is None else [f"task.execute={execute}"]
        self.task, self.render_mode = load_task(task, preset, [*chosen, *overrides]), render_mode
        self.observation_space = observation_space(self.task, observation_lags)  # type: ignore[assignment]
        self.action_space = action_space(self.task)
        self.metadata = {**self.metadata, "render_fps": max(1, self.task.fps // self.task.execute)}
        self.simulation: Simulation = load_object(simulation, f"simulation of {self.task.name!r}")()
        self._history = ObservationHistory(check_lags(self.task, observation_lags, imagined=False))
        self._outcome, self._steps, self._remembered = Outcome(), 0, 0
        self._film: list[np.ndarray] | None = None
        self._shown = observation_space(self.task)  # what the simulation gives, without the past

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode. Options are ignored."""
        options_of(options)
        (number,) = seeds_of(seed, 1)
        super().reset(seed=number)
        self.simulation.start(int(self.np_random.integers(2**31)) if number is None else number)
        self._outcome, self._steps, self._remembered = Outcome(), 0, 0
        self._history.reset()
        return self._observe(), self._info(0, 0)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Run the first `execute` actions of a chunk; ActionError if it has the wrong shape or is not finite."""
        task, first = self.task, self._steps
        chunk = checked_target(action, task.layout, (task.chunk,))[: task.execute]
        targets = np.clip(chunk, task.layout.low, task.layout.high)
        for target in targets:
            self._outcome = self.simulation.advance(target)
            self._steps += 1
            if any((self._steps + lag) % task.execute == 0 for lag in self._history.lags):
                self._remember(self._seen())
            if self._film is not None:
                self._film.append(self.simulation.picture())
            if self._outcome.success or self._outcome.over or self._steps >= task.max_steps:
                break
        terminated = self._outcome.success or self._outcome.over
        truncated = not terminated and self._steps >= task.max_steps
        executed = self._steps - first
        info = self._info(int((targets != chunk)[:executed].sum()), executed)
        if not self._outcome.success:
            info["failure_mode"] = "failed" if terminated else "timeout" if truncated else "none"
        return self._observe(), float(self._outcome.success), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The simulation's picture, uint8 (H, W, 3)."""
        return None if self.render_mode is None else self.simulation.picture()

    def close(self) -> None:
        """Close the simulation."""
        self.simulation.close()

    def start_film(self) -> None:
        """Keep a picture of every control step from now on."""
        self._film = []

    def take_film(self) -> list[np.ndarray]:
        """Pictures since `start_film`, uint8 (H, W, 3) each; filming stops."""
        film, self._film = self._film or [], None
        return film

    def _observe(self) -> dict[str, np.ndarray]:
        seen = self._seen()
        if not self._history.lags:
            return seen
        self._remember(seen)
        return {key: value[0] for key, value in self._history.observe().items()}

    def _seen(self) -> dict[str, np.ndarray]:
        return checked_view(self.simulation, self.task.name, self._shown)

    def _remember(self, observation: dict[str, np.ndarray]) -> None:
        elapsed, self._remembered = self._steps - self._remembered, self._steps
        self._history.push({key: value[None] for key, value in observation.items()}, elapsed=elapsed)

    def _info(self, clamped: int, executed: int) -> dict[str, Any]:
        return {
            "task": self.task.prompt, "score": float(self._outcome.score), "is_success": bool(self._outcome.success),
            "failure_mode": "none", "clamped": clamped, "control_steps": executed,
            "seconds": self._steps / self.task.fps,
        }  # fmt: skip


class SimulationVectorEnv(SyncVectorEnv):
    """`num_envs` simulations in this process, one after the other.

    Args:
        num_envs: Number of simulations.
        autoreset_mode: "next_step", "same_step" or "disabled".
        **kwargs: Arguments of `SimulationEnv`.

    Raises:
        ConfigError: If an argument is wrong.
    """

    def __init__(self, num_envs: int = 1, autoreset_mode: str | AutoresetMode = "next_step", **kwargs: Any) -> None:
        requirement("simulations").whole(1, num_envs=num_envs)
        super().__init__([lambda: SimulationEnv(**kwargs)] * num_envs, autoreset_mode=parse_mode(autoreset_mode))
        self.task = self.envs[0].unwrapped.task  # type: ignore[attr-defined]
        #: Names that `scripted_chunks` would take; a simulation has none.
        self.scripted_policies: tuple[str, ...] = ()

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start episodes in all simulations, or in those of `options["reset_mask"]`; `options` is not changed."""
        return super().reset(seed=seed, options=None if options is None else dict(options))  # type: ignore[arg-type]
