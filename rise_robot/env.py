"""RobotEnv: a robot as a Gymnasium environment with the spaces of the learned simulator and of the work cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from rise_env.acting import ObservationHistory
from rise_env.envs.arguments import real_numbers
from rise_env.errors import ConfigError, RobotError, requirement
from rise_env.spaces import action_space, check_lags, image_key, observation_space
from rise_robot.cell.config import cell_overrides
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.config import RobotConfig, default_robot, load_robot
from rise_robot.drivers import make_driver
from rise_robot.drivers.base import Driver, SceneDriver, ScriptedDriver
from rise_robot.operator_keys import Key, Keys, ask_in_terminal, terminal_keys
from rise_robot.safety import Stop, StopReason
from rise_robot.session import RobotSession

__all__ = ["RobotEnv", "make_robot_env"]

RENDER_MODES = ("rgb_array",)
_RENDER_HEIGHT = 240
_NOTHING_KNOWN = {"progress": 0.0, "score": 0.0, "is_success": False, "failure_mode": "none", "finished": False}


class RobotEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A robot behind a driver: real, or the work cell in its place.

    Observation and action spaces are those of `CellEnv` and of the learned simulator. `step` runs the first `execute`
    actions of a chunk, one per control period, each under the safety guard; meanwhile nobody computes the next chunk,
    and between two steps the robot holds. (`rise deploy` computes while the robot moves.)

    **Observation**: as `CellEnv`, measured.
    **Action**: as `CellEnv`; every target passes the safety rules before it is sent.
    **Start**: the first `reset` connects; the constructor does not. On a real robot `reset` moves slowly to the start
    pose and lets `ask` wait for the operator to set the scene; a simulated scene is drawn as in the work cell.
    **End**: `terminated` when the outcome is certain: by the ground truth of a `SceneDriver`, elsewhere by the
    operator's keys. `truncated` at the time limit, and when the robot was stopped: a stop says nothing of what the
    state is worth, so learners must not treat it as a failure of the task. The robot then holds;
    `info["stop_reason"]` has the reason, `info["stop_detail"]` the sentence, `failure_mode` is "stop_<reason>", and the
    next call must be `reset`. An action of the wrong shape or with NaN is such a stop, and nothing of it is run.
    **Reward**: 1 at success, else 0.
    **Info**: as `CellEnv`, and `stop_reason` ("" if none), `stop_detail`, `slowed` (components cut to the speed limit),
    `outcome_source` ("scene": ground truth; "operator": keys; "none": nobody says, every episode runs to the time
    limit), `observation_age` (s, of the oldest part of this observation), `command_latency` (s, from the stamp of the
    observation before to the first command of this step).
    `progress` and `score` are 0 until success where there is no ground truth.

    Args:
        driver: The robot.
        robot: Its configuration.
        observation_lags: As in `CellEnv`.
        keys: Operator's keys; none when omitted.
        ask: Shows the operator a question and waits until it is done; needed where there is no `SceneDriver`, unless
            the scene needs no hands (None).
        interrupted: Says the name of a signal that asks to stop, or None.
        dry_run: Do everything but send commands.
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: If an argument is wrong or the robot does not fit the task.

    Example:
        >>> from rise_robot.drivers.cell import make_driver as make_cell
        >>> from rise_robot.config import load_robot
        >>> env = RobotEnv(make_cell("brick_sorting", "tiny", [], load_robot("cell")), load_robot("cell"))
        >>> observation, info = env.reset(seed=0)
        >>> info["outcome_source"], env.action_space.shape
        ('scene', (8, 14))
        >>> env.close()
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012  (Gymnasium's convention)

    def __init__(
        self,
        driver: Driver,
        robot: RobotConfig,
        *,
        observation_lags: Sequence[int] = (),
        keys: Keys | None = None,
        ask: Callable[[str], None] | None = None,
        interrupted: Callable[[], str | None] | None = None,
        dry_run: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ConfigError(f"render_mode {render_mode!r} is not one of {RENDER_MODES} or None")
        requirement("robot environment").boolean(dry_run=dry_run)
        self.task, self.driver, self.render_mode = driver.task, driver, render_mode
        self.session = RobotSession(driver, robot, keys=keys, interrupted=interrupted, dry_run=dry_run)
        self.observation_space = observation_space(self.task, observation_lags)  # type: ignore[assignment]
        self.action_space = action_space(self.task)
        self.metadata = {**self.metadata, "render_fps": max(1, self.task.fps // self.task.execute)}
        self.observation_lags = check_lags(self.task, observation_lags, imagined=False)
        self._ask = ask
        self._scene = driver if isinstance(driver, SceneDriver) else None
        self._scripted: dict[str, ScriptedPolicy] = {}
        self._history = ObservationHistory(self.observation_lags)
        self._last: dict[str, np.ndarray] | None = None
        self._known: dict[str, Any] = dict(_NOTHING_KNOWN)
        self._observed_at, self._observed_step, self._over = 0.0, 0, True
        self.steps = self.episode_seed = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode. Options are ignored.

        Raises:
            RobotError: If the robot cannot be connected, cannot go to its start pose, or is not well.
        """
        requirement("reset").whole(0, seed=seed)
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self._over = True
        self.session.connect()
        if self._scene is not None:
            self.session.answer(partial(self._scene.reset_scene, self.episode_seed))
        else:
            self.session.go_to_start()
            if self._ask is not None:
                self._ask(f"Set the scene: {self.task.prompt}")
        self.session.begin()
        self._scripted.clear()
        self._history.reset()
        self._last, self._known, self.steps, self._observed_step = None, dict(_NOTHING_KNOWN), 0, 0
        observation = self.observe()
        if (stop := self.session.stop) is not None:
            raise RobotError(f"the episode cannot begin ({stop.reason}): {stop.detail}")
        self._over = False
        return observation, self.info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Run the first `execute` actions of a chunk, or fewer where the episode ends or the robot is stopped;
        RobotError if no episode is running.
        """
        self._require_episode()
        clamped = slowed = executed = 0
        seen_at, latency = self._observed_at, 0.0
        if (stop := self.session.guard.check_chunk(action, self.action_space.shape)) is not None:
            self.session.halt(stop)
        for target in () if stop is not None else real_numbers(action)[: self.task.execute]:
            admitted = self.session.tick(target)
            if admitted is None:
                break
            if executed == 0 and self.session.sent_at is not None:
                latency = self.session.sent_at - seen_at
            self.steps += 1
            executed += 1
            clamped += admitted.clamped
            slowed += admitted.slowed
            remember = any((self.steps + lag) % self.task.execute == 0 for lag in self.observation_lags)
            if remember and not self._remember():
                break
            if any(self.ends()):
                break
        observation = self.observe()
        terminated, truncated = self.ends()
        self._over = terminated or truncated
        info = self.info(clamped, slowed, executed, latency)
        return observation, float(info["is_success"]), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The policy's cameras side by side as last observed, uint8 (H, W, 3)."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() needs render_mode="rgb_array" in gym.make')
            return None
        height, width = self.task.image_size
        row = np.zeros((height, width * len(self.task.cameras), 3), np.uint8)
        if self._last is not None:
            row = np.concatenate([self._last[image_key(camera)] for camera in self.task.cameras], axis=1)
        scale = max(1, _RENDER_HEIGHT // height)
        return row.repeat(scale, axis=0).repeat(scale, axis=1)

    def close(self) -> None:
        """Hold and disconnect."""
        self._over = True
        self.session.close()

    def advance(self, target: np.ndarray | None) -> np.ndarray | None:
        """Run one control period; for those who execute chunks in another way than `step`; RobotError if no episode is
        running.

        Args:
            target: Joint targets (D,), rad and m; None to hold.

        Returns:
            The admitted target, float64 (D,); None if the robot was stopped and nothing was sent.
        """
        self._require_episode()
        admitted = self.session.tick(target)
        if admitted is not None:
            self.steps += 1
        self._over = any(self.ends())
        return None if admitted is None else admitted.target

    def linger(self) -> bool:
        """Hold for one control period more after the end, for recordings; False if the robot was stopped."""
        self.steps += 1
        return self.session.tick(None) is not None

    def observe(self) -> dict[str, np.ndarray]:
        """The present observation. Where that stops the robot, the last good one."""
        if not self._remember():
            if self._last is None:
                assert self.session.stop is not None
                raise RobotError(f"no observation ({self.session.stop.reason}): {self.session.stop.detail}")
            return {key: value.copy() for key, value in self._last.items()}
        observation = {key: value[0] for key, value in self._history.observe().items()}
        self._last = observation
        return {key: value.copy() for key, value in observation.items()}

    def ends(self) -> tuple[bool, bool]:
        """Whether the episode is terminated, and whether it is truncated, by now."""
        terminated = bool(self._outcome()["finished"])
        stopped = self.session.stop is not None
        return terminated, not terminated and (stopped or self.steps >= self.task.max_steps)

    @property
    def scripted_policies(self) -> tuple[str, ...]:
        """Names that `scripted_chunk` takes: those of a `ScriptedDriver`, none elsewhere."""
        return tuple(self.driver.scripted_policies) if isinstance(self.driver, ScriptedDriver) else ()

    def scripted(self, name: str, seed: int = 0) -> ScriptedPolicy:
        """A scripted policy of the driver; see `ScriptedDriver.scripted`; ConfigError if the driver has no such policy:
        scripted policies see the ground truth of a simulation.
        """
        if not isinstance(self.driver, ScriptedDriver) or name not in self.scripted_policies:
            known = ", ".join(self.scripted_policies) or "none"
            raise ConfigError(f"driver {self.driver.name!r} has no scripted policy {name!r}; it has: {known}")
        return self.driver.scripted(name, seed)

    def scripted_chunk(self, name: str, seed: int = 0) -> np.ndarray:
        """Action chunk of a scripted policy at the present state, float32 (chunk, D); see `CellEnv.scripted_chunk`."""
        if name not in self._scripted:
            self._scripted[name] = self.scripted(name, seed)
            self._scripted[name].reset()
        return self._scripted[name].plan(self.task.chunk).astype(np.float32)

    def _require_episode(self) -> None:
        if self._over:
            stop = self.session.stop
            why = f" (stopped, {stop.reason}: {stop.detail})" if stop is not None else ""
            raise RobotError(f"no episode is running{why}: call reset first")

    def _remember(self) -> bool:
        """Look, and keep it under the present step; False if that stopped the robot."""
        seen = self.session.observe()
        if seen is None:
            return False
        self._observed_at = seen.stamp
        present: dict[str, np.ndarray] = {"state": np.asarray(seen.joints.position, np.float32)[None]}
        for camera in self.task.cameras:
            present[image_key(camera)] = np.asarray(seen.images[camera], np.uint8)[None]
        elapsed, self._observed_step = self.steps - self._observed_step, self.steps
        self._history.push(present, elapsed=elapsed)
        return True

    def _outcome(self) -> dict[str, Any]:
        """The truth where there is one, the last that is known where it does not arrive; else the operator's word."""
        if self._scene is not None:
            try:
                self._known = dict(self.session.answer(self._scene.outcome))
            except RobotError as error:
                self.session.halt(Stop(StopReason.LINK, str(error)))
            return self._known
        said = self.session.verdict
        success, mode = said is Key.SUCCESS, "operator_failure" if said is Key.FAILURE else "none"
        values = {"progress": float(success), "score": 10.0 * success, "is_success": success, "failure_mode": mode}
        return {**values, "finished": said is not None}

    def info(self, clamped: int = 0, slowed: int = 0, executed: int = 0, latency: float = 0.0) -> dict[str, Any]:
        """What is known of the episode now, as `step` gives it; the arguments are entries of its last step."""
        outcome = self._outcome()
        (terminated, truncated), stop = self.ends(), self.session.stop
        mode = outcome["failure_mode"]
        if truncated and mode == "none":
            mode = "timeout" if stop is None else f"stop_{stop.reason}"
        source = "scene" if self._scene is not None else "operator" if self.session.keys.available else "none"
        return {
            "task": self.task.prompt,
            **{key: outcome[key] for key in ("progress", "score", "is_success")},
            "failure_mode": mode,
            "clamped": clamped,
            "control_steps": executed,
            "seconds": self.steps / self.task.fps,
            "slowed": slowed,
            "stop_reason": "" if stop is None or terminated else str(stop.reason),
            "stop_detail": "" if stop is None or terminated else stop.detail,
            "outcome_source": source,
            "observation_age": self.driver.now() - self._observed_at,
            "command_latency": latency,
        }


def make_robot_env(
    task: str = "brick_sorting",
    preset: str = "small",
    driver: str = "ros",
    robot: str | None = None,
    difficulty: str | None = None,
    execute: int | None = None,
    image_size: Sequence[int] | None = None,
    variation: bool | None = None,
    observation_lags: Sequence[int] = (),
    overrides: Sequence[str] = (),
    robot_overrides: Sequence[str] = (),
    driver_options: dict[str, Any] | None = None,
    confirm: bool = True,
    dry_run: bool = False,
    render_mode: str | None = None,
    keys: Keys | None = None,
    interrupted: Callable[[], str | None] | None = None,
) -> RobotEnv:
    """What `gym.make("RISE-<Task>-Piper-v0")` calls; every argument but the last two is plain JSON; ConfigError if an
    argument is wrong.

    Args:
        task: Task name or the path of a YAML file.
        preset: Preset name.
        driver: Name in `rise_env.registry.DRIVERS`: "ros", "cell" for the work cell in this process, or a plug-in's.
        robot: Name or path of the robot's YAML; None for that of the driver, see `rise_robot.config.default_robot`.
        difficulty: As `CellEnv`; for simulations.
        execute: Actions of each chunk to run; None keeps the preset's.
        image_size: Height and width of the images; None keeps the preset's.
        variation: As `CellEnv`; for simulations.
        observation_lags: As `CellEnv`.
        overrides: Further overrides of the task's configuration.
        robot_overrides: Overrides of the robot's, e.g. `["safety.speed.rad=0.3"]`.
        driver_options: Further arguments of the driver, e.g. `{"real_time": True}` of "cell".
        confirm: Whether the operator, in the terminal, sets the scene where the driver cannot, and confirms it.
        dry_run: Do everything but send commands.
        render_mode: None or "rgb_array".
        keys: Operator's keys; None for those of the terminal where the driver does not know the ground truth.
        interrupted: As `RobotEnv`.
    """
    requirement("robot environment").boolean(confirm=confirm)
    options = [*cell_overrides(difficulty, execute, image_size, variation), *overrides]
    config = load_robot(robot or default_robot(driver), robot_overrides)
    made = make_driver(driver, task, preset, options, config, **(driver_options or {}))
    scene = isinstance(made, SceneDriver)
    return RobotEnv(
        made,
        config,
        observation_lags=observation_lags,
        keys=keys or (None if scene else terminal_keys()),
        ask=ask_in_terminal if confirm and not scene else None,
        interrupted=interrupted,
        dry_run=dry_run,
        render_mode=render_mode,
    )
