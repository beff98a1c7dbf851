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
from rise_robot.closing import Closing
from rise_robot.config import ExecutionConfig
from rise_robot.deployment import DeployedEpisode, Deployment
from rise_robot.drivers.base import ScriptedDriver
from rise_robot.env import RobotEnv, make_robot_env
from rise_robot.execution import RtcConstraints, make_executor
from rise_robot.execution.asynchronous import ChunkRunner, DelayedInference, Inference, ThreadedInference
from rise_robot.execution.log import ExecutionLog
from rise_robot.operator_keys import HELP, terminal_keys
from rise_robot.recording import EpisodeRecorder
from rise_robot.safety import Stop
from rise_robot.serving import RemotePolicy
from rise_robot.signals import StopSignals
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
    policy: Actor | None,
    name: str,
    episodes: int,
    seed: int,
    env_kwargs: Mapping[str, Any],
    *,
    strategy: str | None = None,
    delay_steps: int = 0,
    teleop: str | None = None,
    record: str | Path | None = None,
    tail_seconds: float | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> DeployResult:
    """Run episodes `seed ... seed + episodes - 1` on a robot, under the keys of the terminal and until a signal.

    Args:
        policy: What acts, on a batch of one; None for the driver's scripted policy `name`.
        name: Name of the policy, for records.
        episodes: Their number.
        seed: Seed of the first.
        env_kwargs: Arguments of `make_robot_env`.
        strategy: As of `make_runner`.
        delay_steps: As of `make_runner`.
        teleop: Scripted policy of the driver that moves the robot while the operator has taken over; without one the
            robot holds meanwhile.
        record: Directory of a LeRobot dataset to record; an existing one goes on.
        tail_seconds: As of `Deployment`.
        on_line: Called with what people should know: what runs, the keys, the outcome of every episode that was saved.

    Raises:
        ConfigError: If an argument is wrong, or policy, robot and strategy do not fit.
        RobotError: If the first episode cannot begin.
    """
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}, expected at least 1")
    log = ExecutionLog()
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        if isinstance(policy, Closing):
            stack.enter_context(policy)
        lags = () if policy is None else policy.lags
        env = make_robot_env(**env_kwargs, observation_lags=lags, keys=terminal_keys(), interrupted=signals)
        stack.callback(env.close)
        actor = policy or ScriptedInDriver(env, name)
        runner = make_runner(env, actor, name, env.session.robot.execution, strategy, delay_steps, log)
        stack.callback(runner.close)
        teleoperator = None if teleop is None else ScriptedTeleoperator(env.scripted(teleop, seed))
        recorder = None if record is None else stack.enter_context(EpisodeRecorder(record, env.task))
        deployment = Deployment(
            env, actor, name, runner, recorder=recorder, teleoperator=teleoperator, tail_seconds=tail_seconds
        )
        session = env.session
        on_line(
            f"{name} on {session.driver.name} ({session.robot.name}), {runner.executor.name} execution"
            f"{', dry run: nothing is sent' if session.dry_run else ''}\n"
            f"keys: {HELP if session.keys.available else 'none (standard input is no terminal)'}"
        )
        begun = time.perf_counter()
        done, stop = deployment.run(episodes, seed, lambda episode: on_line(f"  {episode}"))
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
    """Put a policy and an execution strategy together; ConfigError if they do not fit.

    Args:
        env: The robot.
        policy: What acts; for the strategy "rtc" an `RtcActor`.
        name: Its name, for messages.
        config: Settings of the strategies.
        strategy: One of `rise_robot.config.STRATEGIES`; the configured one when None.
        delay_steps: For simulated time: control steps that an inference takes.
        log: Where merges are written down.
    """
    if isinstance(policy, RemotePolicy):
        policy.check(env.task)
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
    """The scripted policy `name` of a robot with a `ScriptedDriver`: an `Actor` on a batch of one.

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
