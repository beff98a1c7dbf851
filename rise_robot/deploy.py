"""Deployment put together: robot, policy, execution strategy, teleoperation and recorder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.acting import Actor, RtcActor
from rise_env.errors import ConfigError
from rise_robot.config import ExecutionConfig
from rise_robot.deployment import DeployedEpisode, Deployment
from rise_robot.drivers.base import ScriptedDriver
from rise_robot.env import RobotEnv
from rise_robot.execution import RtcConstraints, make_executor
from rise_robot.execution.asynchronous import ChunkRunner, DelayedInference, Inference, ThreadedInference
from rise_robot.execution.log import ExecutionLog
from rise_robot.recording import EpisodeRecorder
from rise_robot.safety import Stop
from rise_robot.teleoperation import ScriptedTeleoperator

__all__ = ["DeployResult", "ScriptedInDriver", "deploy", "make_runner"]


@dataclass(frozen=True)
class DeployResult:
    """What came of a deployment.

    Attributes:
        episodes: The episodes that were begun and ended.
        stop: What ended the run early, if anything.
        seconds: Wall-clock time, s.
        log: Latency, dropped steps and overlap of every chunk.
    """

    episodes: list[DeployedEpisode]
    stop: Stop | None
    seconds: float
    log: ExecutionLog

    def to_dict(self) -> dict[str, Any]:
        """What `rise deploy` adds to the results of an evaluation, as plain values for JSON."""
        return {
            "execution": self.log.summary(),
            "interventions": [episode.interventions for episode in self.episodes],
            "stopped": None if self.stop is None else {"reason": str(self.stop.reason), "detail": self.stop.detail},
        }


def deploy(
    env: RobotEnv,
    policy: Actor,
    name: str,
    episodes: int,
    seed: int = 0,
    *,
    strategy: str | None = None,
    delay_steps: int = 0,
    teleop: str | None = None,
    record: str | Path | None = None,
    tail_seconds: float | None = None,
    on_start: Callable[[Deployment], None] | None = None,
    on_episode: Callable[[DeployedEpisode], None] | None = None,
) -> DeployResult:
    """Run episodes `seed ... seed + episodes - 1` of a policy on a robot.

    Args:
        env: The robot, with the policy's lags as its observation lags; not closed.
        policy: What acts, on a batch of one.
        name: Its name, for records.
        episodes: Their number.
        seed: Seed of the first.
        strategy: As of `make_runner`.
        delay_steps: As of `make_runner`.
        teleop: Scripted policy of the driver that moves the robot while the operator has taken over; without one the
            robot holds meanwhile.
        record: Directory of a LeRobot dataset to record; an existing one goes on.
        tail_seconds: As of `Deployment`.
        on_start: Called before the first episode.
        on_episode: Called at the end of every episode, after it was saved.

    Raises:
        ConfigError: If an argument is wrong, or policy, robot and strategy do not fit.
        RobotError: If the first episode cannot begin.
    """
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}, expected at least 1")
    log = ExecutionLog()
    with contextlib.ExitStack() as stack:
        runner = make_runner(env, policy, name, env.session.robot.execution, strategy, delay_steps, log)
        stack.callback(runner.close)
        teleoperator = None if teleop is None else ScriptedTeleoperator(env.scripted(teleop, seed))
        recorder = None if record is None else stack.enter_context(EpisodeRecorder(record, env.task))
        deployment = Deployment(
            env, policy, name, runner, recorder=recorder, teleoperator=teleoperator, tail_seconds=tail_seconds
        )
        if on_start is not None:
            on_start(deployment)
        begun = time.perf_counter()
        done, stop = deployment.run(episodes, seed, on_episode)
        return DeployResult(done, stop, time.perf_counter() - begun, log)


def make_runner(
    env: RobotEnv,
    policy: Actor,
    name: str,
    config: ExecutionConfig,
    strategy: str | None = None,
    delay_steps: int = 0,
    log: ExecutionLog | None = None,
) -> ChunkRunner:
    """Put a policy and an execution strategy together.

    Args:
        env: The robot.
        policy: What acts; for the strategy "rtc" an `RtcActor`.
        name: Its name, for messages.
        config: Settings of the strategies.
        strategy: One of `rise_robot.config.STRATEGIES`; the configured one when None.
        delay_steps: For simulated time: control steps that an inference takes.
        log: Where merges are written down.

    Raises:
        ConfigError: If the policy does not support the strategy.
    """
    executor = make_executor(config, env.task, strategy)
    if executor.name == "rtc" and not (isinstance(policy, RtcActor) and policy.supports_rtc):
        raise ConfigError(
            f"policy {name!r} does not support real-time chunking (act_rtc), so its chunks would not agree with what "
            "is played. Use the execution strategy smooth or ensemble."
        )

    def infer(observation: Mapping[str, np.ndarray], constraints: RtcConstraints | None) -> np.ndarray:
        batch = {key: value[None] for key, value in observation.items()}
        if constraints is None:
            return policy.act(batch)[0]
        assert isinstance(policy, RtcActor)
        return policy.act_rtc(batch, constraints.previous[None], constraints.delay, constraints.horizon)[0]

    if env.driver.real_time:
        if delay_steps:
            raise ConfigError("a delay in control steps is for simulated time; here inferences take the time they take")
        inference: Inference = ThreadedInference(infer)
    else:
        inference = DelayedInference(infer, delay_steps)
    shape = env.action_space.shape
    return ChunkRunner(executor, inference, lambda chunk: env.session.guard.check_chunk(chunk, shape), config.late, log)


class ScriptedInDriver:
    """An expert or operator that sees the ground truth behind a driver: an `Actor` on a batch of one.

    Args:
        env: Robot with a `ScriptedDriver`.
        name: Name of the scripted policy.

    Raises:
        ConfigError: If the driver has no such policy, or it cannot plan beside control, in real time.
    """

    lags: tuple[int, ...] = ()

    def __init__(self, env: RobotEnv, name: str) -> None:
        driver = env.driver
        if not isinstance(driver, ScriptedDriver) or name not in driver.scripted_policies:
            scripted = f", or a scripted one: {', '.join(env.scripted_policies)}" if env.scripted_policies else ""
            raise ConfigError(f"unknown policy {name!r}: give base, a run folder, a checkpoint or a Hub id{scripted}")
        if driver.real_time and not driver.scripted_in_thread:
            raise ConfigError(f"policy {name!r} is scripted: with this driver it needs simulated time, not --real-time")
        self._env, self._name, self._seed = env, name, 0

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed its habits."""
        del mask
        self._seed = int(seeds[0])

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """A chunk from the present state, (1, chunk, D)."""
        del observations
        return self._env.scripted_chunk(self._name, self._seed)[None]
