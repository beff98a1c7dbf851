"""The work cell as a Gymnasium environment with the spaces of the learned simulator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from rise_env.acting import ObservationHistory
from rise_env.envs.arguments import options_of, seeds_of
from rise_env.errors import ConfigError
from rise_env.spaces import action_space, check_lags, observation_space
from rise_robot.cell.acting import cell_observation
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.config import cell_overrides, load_cell
from rise_robot.cell.corrections import TakeoverGate
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["RENDER_MODES", "CellEnv"]

RENDER_MODES = ("rgb_array", "human")
_RENDER_HEIGHT, _RENDER_WIDTH = 360, 480


class CellEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """The work cell: two arms, three cameras and the task's objects in MuJoCo.

    **Observation**: Dict of `image_<camera>` uint8 (H, W, 3) and `state` float32 (D,), measured, in rad and m.
    **Action**: Box (chunk, D) float32, absolute joint targets in rad and m. The first `execute` of them are run, one
    per control step, and fewer where the episode ends before. Targets beyond the joint limits are clamped and counted
    in `info["clamped"]`; speeds are limited as on the arm. A wrong shape or a value that is not finite is an error and
    nothing moves.
    **Reward**: 1 when the task succeeds, else 0. `info["progress"]` is dense.
    **Start**: an episode drawn from the ranges of the difficulty; the same seed gives the same bytes.
    **End**: `terminated` when nothing can change the outcome any more; `truncated` at the task's time limit, with
    failure mode "timeout".
    **Info**: `task` (instruction), `progress` [0, 1], `score` [0, 10], `is_success`, `failure_mode` ("none" while
    nothing failed), `clamped` (components), `control_steps` (run in this step), `seconds` (since the reset).

    Args:
        task: Task name or the path of a YAML file with the sections `task` and `cell`.
        preset: Preset name.
        difficulty: "easy", "normal" or "hard"; None keeps the preset's.
        execute: Actions of each chunk to run; None keeps the preset's.
        image_size: Height and width of the images; None keeps the preset's.
        variation: Whether to vary lighting, colours, friction and camera; None keeps the preset's.
        observation_lags: Further observations of the past, so many control steps ago; see
            `rise_env.spaces.observation_space`. Before the start of an episode lies its first frame.
        overrides: Further configuration overrides, e.g. `["task.fps=20"]`.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ConfigError: If an argument or the configuration is wrong.

    Example:
        >>> env = CellEnv(preset="tiny")
        >>> observation, info = env.reset(seed=0)
        >>> observation["state"].shape, env.action_space.shape
        ((14,), (8, 14))
        >>> env.close()
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012  (Gymnasium's convention)

    def __init__(
        self,
        task: str = "brick_sorting",
        preset: str = "small",
        difficulty: str | None = None,
        execute: int | None = None,
        image_size: Sequence[int] | None = None,
        variation: bool | None = None,
        observation_lags: Sequence[int] = (),
        overrides: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode {render_mode!r} is not one of {RENDER_MODES} or None")
        options = [*cell_overrides(difficulty, execute, image_size, variation), *overrides]
        self.task, self.config = load_cell(task, preset, options)
        self.cell = WorkCell(self.task, self.config)
        self.observation_space = observation_space(self.task, observation_lags)  # type: ignore[assignment]
        self._history = ObservationHistory(check_lags(self.task, observation_lags, imagined=False))
        self._remembered = 0  # control step of the last observation in the history
        self.action_space = action_space(self.task)
        self.metadata = {**self.metadata, "render_fps": max(1, self.task.fps // self.task.execute)}
        self.render_mode = render_mode
        self._renderer = CellRenderer(self.cell.model, self.cell.data, self.config.supersample)
        self._scripted: dict[str, ScriptedPolicy] = {}
        self._gate = TakeoverGate(self.cell)
        self._viewer: Any = None
        self._headless = False
        self._film: list[np.ndarray] | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; the same seed gives the same bytes. Options are ignored."""
        options_of(options)
        (number,) = seeds_of(seed, 1)
        super().reset(seed=number)
        self.cell.reset(self.np_random)
        self._scripted.clear()
        self._gate.reset()
        self._forget()
        self._show()
        return self.observe(), self._info(0, 0)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Run the first `execute` actions of a chunk; ActionError if it has the wrong shape or is not finite."""
        chunk = self.cell.checked_target(action, (self.task.chunk,))
        clamped = executed = 0
        for target in chunk[: self.task.execute]:
            self.cell.step(target)
            executed += 1
            clamped += self.cell.clamped
            if any((self.cell.steps + lag) % self.task.execute == 0 for lag in self._history.lags):
                self._remember(cell_observation(self.cell, self._renderer))
            self._show()
            if self._film is not None:
                self._film.append(self.picture())
            if self.cell.status.finished or self.cell.steps >= self.task.max_steps:
                break
        status = self.cell.status
        terminated = status.finished
        truncated = not terminated and self.cell.steps >= self.task.max_steps
        info = self._info(clamped, executed)
        if truncated and info["failure_mode"] == "none":
            info["failure_mode"] = "timeout"
        return self.observe(), float(status.success), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The overview beside the policy's cameras, uint8 (H, W, 3); with "human" the window shows the cell itself."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" or "human" in gym.make')
            return None
        if self.render_mode == "human":
            self._show()
            return None
        return self.picture()

    def close(self) -> None:
        """Close the window, if any."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    def observe(self) -> dict[str, np.ndarray]:
        """Observation of the present state."""
        observation = cell_observation(self.cell, self._renderer)
        if not self._history.lags:
            return observation
        self._remember(observation)
        return {key: value[0] for key, value in self._history.observe().items()}

    def _remember(self, observation: dict[str, np.ndarray]) -> None:
        elapsed, self._remembered = self.cell.steps - self._remembered, self.cell.steps
        self._history.push({key: value[None] for key, value in observation.items()}, elapsed=elapsed)

    def _forget(self) -> None:
        self._history.reset()
        self._remembered = self.cell.steps

    def picture(self) -> np.ndarray:
        """The overview with the policy's cameras below it, for videos, uint8 (H, W, 3)."""
        cameras = list(self.task.cameras)
        overview = self._renderer.render(["overview"], (_RENDER_HEIGHT, _RENDER_WIDTH))[0]
        width = _RENDER_WIDTH // len(cameras)
        small = self._renderer.render(cameras, (width * self.task.image_size[0] // self.task.image_size[1], width))
        return np.concatenate([overview, np.concatenate(list(small), axis=1)], axis=0)

    def save_state(self) -> CellState:
        """Snapshot of the cell; see `WorkCell.save`."""
        return self.cell.save()

    def restore_state(self, state: CellState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return to a snapshot; what follows is bit for bit what followed it before.

        Snapshots hold no pictures: with `observation_lags` the present stands in for the past, as after a reset.
        """
        self.cell.restore(state)
        self._scripted.clear()
        self._gate.reset()
        self._forget()
        return self.observe(), self._info(0, 0)

    def start_film(self) -> None:
        """Keep a picture of every control step from now on."""
        self._film = []

    def take_film(self) -> list[np.ndarray]:
        """Pictures since `start_film`, uint8 (H, W, 3) each; filming stops."""
        film, self._film = self._film or [], None
        return film

    def scripted_chunk(self, name: str, seed: int = 0) -> np.ndarray:
        """Action chunk of a scripted policy at the present state, (chunk, D) float32; ConfigError if there is none of
        this name.

        `seed` is that of the policy's own randomness; it counts from the first call in an episode.
        """
        if name not in self._scripted:
            self._scripted[name] = self.cell.task.scripted(name, seed)
            self._scripted[name].reset()
        return self._scripted[name].plan(self.task.chunk).astype(np.float32)

    def true_advantages(self, chunks: np.ndarray) -> np.ndarray:
        """What chunks (G, chunk, D) gain from the present state on, float32 (G,); the cell stays where it is."""
        saved = self.cell.save()
        found = self.cell.advantages(saved, self.cell.status.progress, chunks)
        self.cell.restore(saved)
        return found

    def supervised_chunk(self, chunk: np.ndarray) -> tuple[np.ndarray, bool]:
        """What is to be run in place of a policy's chunk (chunk, D) under an expert's supervision, float32, alike.

        And whether that is the expert's: it takes over where the policy drifts off, see `rise_robot.cell.corrections`,
        for a while. To be called once per step.
        """
        expert = self.scripted_chunk("expert")
        if self._gate.ahead > len(chunk):
            raise ConfigError(f"the gate looks {self._gate.ahead} control steps ahead, chunks have {len(chunk)}")
        taken = self._gate.decide(chunk, expert, self.task.execute)
        return (expert if taken else np.asarray(chunk, np.float32)), taken

    def _info(self, clamped: int, executed: int) -> dict[str, Any]:
        outcome = self.cell.status.outcome()
        del outcome["finished"]
        counts = {"clamped": clamped, "control_steps": executed, "seconds": self.cell.seconds}
        return {"task": self.task.prompt, **outcome, **counts}

    def _show(self) -> None:
        """Bring the window up to date, opening it first where there is a display."""
        if self.render_mode != "human" or self._headless:
            return
        if self._viewer is None:
            self._viewer = _open_viewer(self.cell)
            self._headless = self._viewer is None
        if self._viewer is not None:
            self._viewer.sync()


def _open_viewer(cell: WorkCell) -> Any:
    """MuJoCo's interactive viewer, or None with a warning where there is no display to open it on."""
    import glfw
    import mujoco.viewer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GLFW reports a missing display as several warnings; ours says what to do
        available = glfw.init()
    if not available:
        gymnasium.logger.warn(
            'render_mode="human" found no display (DISPLAY or WAYLAND_DISPLAY); the episode runs without a window. '
            'Use render_mode="rgb_array" for pictures.'
        )
        return None
    return mujoco.viewer.launch_passive(cell.model, cell.data, show_left_ui=False, show_right_ui=False)
