"""A policy on a robot, episode after episode, with people in the loop and a record."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_env.acting import Actor
from rise_env.errors import ConfigError, RobotError
from rise_env.spaces import image_key
from rise_robot.drivers.base import SceneDriver
from rise_robot.env import RobotEnv
from rise_robot.execution.asynchronous import ChunkRunner
from rise_robot.recording import EpisodeRecorder
from rise_robot.safety import Stop, StopReason
from rise_robot.teleoperation import Teleoperator

__all__ = ["DeployedEpisode", "Deployment"]

#: Stops after which a simulated scene is simply reset. After any other, and on a real robot, people must look first.
_OVER_WITH_RESET = {
    StopReason.BAD_ACTION,
    StopReason.OUTSIDE_LIMITS,
    StopReason.TRACKING_GAP,
    StopReason.FROZEN_JOINTS,
    StopReason.POLICY_LATE,
}


@dataclass(frozen=True)
class DeployedEpisode:
    """Outcome of one episode.

    Attributes:
        seed: Seed it was reset with.
        success: Whether the task succeeded: by ground truth, or in the operator's words.
        score: Sub-goal score, [0, 10]; without ground truth 10 at success.
        failure_mode: "none", "timeout", "stop_<reason>", "operator_failure" or one of the task's.
        seconds: Duration, s.
        chunks: Chunks that arrived.
        interventions: Control steps during which somebody had taken over.
        stop: Why the robot was stopped, or None.
    """

    seed: int
    success: bool
    score: float
    failure_mode: str
    seconds: float
    chunks: int
    interventions: int
    stop: Stop | None

    def __str__(self) -> str:
        corrected = f", {self.interventions} steps corrected" if self.interventions else ""
        outcome = "success" if self.success else self.failure_mode
        return f"episode {self.seed}: {outcome} after {self.seconds:.1f} s, {self.chunks} chunks{corrected}"


class Deployment:
    """Runs a policy on a robot.

    Args:
        env: The robot; its observation lags must be the policy's.
        policy: What acts, on a batch of one.
        name: Its name, for records.
        runner: See `rise_robot.deploy.make_runner`.
        recorder: Where every control step is recorded: the state, and the admitted target as its action.
        teleoperator: Who moves the robot while the operator has taken over; without one the robot holds meanwhile.
        tail_seconds: How long to hold and record after the outcome is clear, s; one chunk when None. So a chunk that
            begins at any earlier frame has its whole future on record.

    Raises:
        ConfigError: If environment and policy do not fit.
    """

    def __init__(
        self,
        env: RobotEnv,
        policy: Actor,
        name: str,
        runner: ChunkRunner,
        *,
        recorder: EpisodeRecorder | None = None,
        teleoperator: Teleoperator | None = None,
        tail_seconds: float | None = None,
    ) -> None:
        if recorder is not None and env.session.dry_run:
            raise ConfigError("in a dry run nothing is executed, so there is nothing to record")
        if missing := set(policy.lags) - set(env.observation_lags):
            raise ConfigError(f"policy {name!r} reads observation_lags {sorted(missing)} that the robot lacks")
        self.env, self.policy, self.name, self.runner = env, policy, name, runner
        self._recorder, self._teleoperator = recorder, teleoperator
        tail = env.task.chunk / env.task.fps if tail_seconds is None else tail_seconds
        self._tail = round(tail * env.task.fps) if recorder is not None else 0
        self._warm = False
        self._frames = 0

    def run(
        self, episodes: int, seed: int, on_episode: Callable[[DeployedEpisode], None] | None = None
    ) -> tuple[list[DeployedEpisode], Stop | None]:
        """Run episodes `seed ... seed + episodes - 1`; RobotError if the first one cannot begin.

        `on_episode` is called at the end of every episode, after it was saved. Returns the episodes, and what ended the
        run early, if anything.
        """
        done: list[DeployedEpisode] = []
        for index in range(episodes):
            if (asked := self.env.session.asked_to_stop()) is not None:
                return done, asked
            try:
                episode = self.episode(seed + index)
            except RobotError as error:
                if not done:
                    raise
                return done, self.env.session.stop or Stop(StopReason.LINK, str(error))
            done.append(episode)
            if on_episode is not None:
                on_episode(episode)
            simulated = isinstance(self.env.driver, SceneDriver)
            if episode.stop is not None and not (simulated and episode.stop.reason in _OVER_WITH_RESET):
                return done, episode.stop
        return done, None

    def episode(self, seed: int) -> DeployedEpisode:
        """Run one episode and save it. Whatever happens, what was recorded of it until then is saved."""
        env, runner = self.env, self.runner
        self._frames = 0
        runner.reset(wait=True)
        observation, _ = env.reset(seed=seed)
        if not self._warm:  # the first inference of a process is slow
            self._reset_policy(seed)
            self.policy.act({key: value[None] for key, value in observation.items()})
            self._warm = True
        self._reset_policy(seed)
        runner.log.begin()
        before, interventions = len(runner.log.merges), 0
        try:
            interventions = self._control()
        finally:  # also where a person interrupts the program
            info = env.info()
            if sys.exception() is not None:
                self._save(seed, False, "interrupted")
        self._hold_and_record()
        chunks, success, mode = len(runner.log.merges) - before, bool(info["is_success"]), str(info["failure_mode"])
        self._save(seed, success, mode)
        score, seconds = float(info["score"]), float(info["seconds"])
        return DeployedEpisode(seed, success, score, mode, seconds, chunks, interventions, env.session.stop)

    def _reset_policy(self, seed: int) -> None:
        self.policy.reset([seed], np.ones(1, bool))

    def _control(self) -> int:
        """Control periods until the episode ends; returns those of interventions."""
        env, session = self.env, self.env.session
        # Policies that look back, and recordings, need every moment; the others only those at which they are asked.
        look_always = self._recorder is not None or bool(env.observation_lags)
        interventions, taken_over = 0, False
        while not any(env.ends()):
            observation = env.observe() if look_always else None
            outcome = env.info() if self._recorder is not None else {}
            if session.stop is not None:
                break
            if session.intervening != taken_over:
                taken_over = session.intervening
                self.runner.reset()
                if taken_over and self._teleoperator is not None:
                    self._teleoperator.begin()
            sent = env.advance(self._operated() if taken_over else self._planned(observation))
            if sent is None:  # stopped, just now or before
                break
            interventions += taken_over
            if observation is not None:
                self._record(observation, sent, taken_over, outcome)
        return interventions

    def _planned(self, observation: dict[str, np.ndarray] | None) -> np.ndarray | None:
        env = self.env
        look = env.observe if observation is None else lambda: observation
        target = self.runner.target(look, env.steps, env.driver.now())
        if isinstance(target, Stop):
            env.session.halt(target)
            return None
        return target

    def _operated(self) -> np.ndarray | None:
        if self._teleoperator is None:
            return None
        try:
            return self._teleoperator.target()
        except Exception as error:  # noqa: BLE001  (somebody's own code, on hardware)
            self.env.session.halt(Stop(StopReason.LINK, f"teleoperation: {type(error).__name__}: {error}"))
            return None

    def _hold_and_record(self) -> None:
        """The frames after the outcome is clear."""
        env = self.env
        if env.session.stop is not None:
            return
        for left in range(self._tail, -1, -1):
            if self._recorder is None:
                return
            observation, outcome = env.observe(), env.info()
            held = env.session.guard.last
            if env.session.stop is not None or held is None:
                return
            self._record(observation, held, False, outcome)
            if left and not env.linger():
                return

    def _record(self, observation: dict[str, np.ndarray], action: np.ndarray, taken: bool, outcome: Any) -> None:
        if self._recorder is None:
            return
        self._recorder.add_frame(
            images={camera: observation[image_key(camera)] for camera in self.env.task.cameras},
            state=observation["state"],
            action=action.astype(np.float32),
            is_intervention=taken,
            progress=float(outcome["progress"]),
            subgoal=float(outcome["score"]),
        )
        self._frames += 1

    def _save(self, seed: int, success: bool, failure_mode: str) -> None:
        if self._recorder is None:
            return
        if self._frames < 2:  # stopped before anything happened
            self._recorder.discard_episode()
            return
        self._recorder.end_episode(success=success, failure_mode=failure_mode, seed=seed, operator=self.name)
