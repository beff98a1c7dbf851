"""Run a policy on a robot: observation in, chunk out, smooth motion, with an operator at the keys and a record.

The policy is in this process (--policy: "base", a run folder, a checkpoint or a Hub id; with the driver "cell" also
"expert" or "operator") or behind a server (--server HOST:PORT, see `rise serve`). No world model is loaded. The driver
is "cell" (the MuJoCo cell in this process; --real-time for its true speed) or "ros" (a Piper, or `rise ros-cell`).

Keys, in a terminal: q stop   s success   f failure   i take over   o hand back. Without a terminal there are none.
Any stop, Ctrl-C and SIGTERM among them, makes the arm hold and saves what was recorded; motors are never switched off.
docs/safety.md lists what else stops the robot. Exit code 1: the run was stopped early.

  rise deploy --policy base --driver cell --episodes 20 --json out/deploy.json
  rise deploy --server 127.0.0.1:8000 --driver ros --robot configs/robots/piper.yaml --episodes 10 --record data/real
  rise deploy --policy base --driver ros --dry-run        # everything but sending commands
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_env.errors import ConfigError

if TYPE_CHECKING:
    from rise_robot.deploy import DeployedEpisode
    from rise_robot.deployed import DeployedPolicy
    from rise_robot.env import RobotEnv

__all__ = ["add_arguments", "run"]

_STOPPED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    who = parser.add_argument_group("policy")
    which = who.add_mutually_exclusive_group(required=True)
    which.add_argument("--policy", help="name or path of a policy")
    which.add_argument("--server", metavar="HOST:PORT", help="policy server")
    who.add_argument("--token-file", type=Path, metavar="FILE", help="token of the server (or RISE_SERVE_TOKEN)")
    who.add_argument("--advantage", default="best", metavar="LEVEL", help="what to ask a trained policy for")
    who.add_argument("--guidance", type=float, metavar="W", help="classifier-free guidance (default: the policy's)")
    who.add_argument("--device", default="cpu", help="where the policy computes (default: %(default)s)")
    robot = parser.add_argument_group("robot")
    robot.add_argument("--driver", default="ros", help="cell or ros (default: %(default)s)")
    robot.add_argument("--robot", help="name or YAML file of the robot (default: piper; cell for --driver cell)")
    robot.add_argument("--robot-set", action="append", default=[], metavar="KEY=VALUE", help="override of that file")
    robot.add_argument("--dry-run", action="store_true", help="do everything but send commands")
    robot.add_argument("--yes", action="store_true", help="do not ask the operator to set the scene")
    robot.add_argument("--real-time", action="store_true", help="driver cell: keep to real time")
    robot.add_argument("--difficulty", help="driver cell: easy, normal or hard (default: the preset's)")
    task = parser.add_argument_group("task")
    task.add_argument("--task", default="brick_sorting", help="task name or YAML path (default: %(default)s)")
    task.add_argument("--preset", default="small", help="preset of the task (default: %(default)s)")
    task.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides such as task.fps=15")
    run_ = parser.add_argument_group("run")
    run_.add_argument("--episodes", type=int, default=10, help="number of episodes (default: %(default)s)")
    run_.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    run_.add_argument("--execution", metavar="STRATEGY", help="sync, smooth, ensemble or rtc (default: the robot's)")
    run_.add_argument(
        "--delay-steps", type=int, default=0, metavar="N", help="simulated time: steps an inference takes"
    )
    run_.add_argument("--teleop", metavar="NAME", help="driver cell: scripted policy that moves it after a take-over")
    run_.add_argument("--record", type=Path, metavar="DIR", help="record a LeRobot dataset; an existing one goes on")
    run_.add_argument(
        "--tail-seconds", type=float, help="hold and record so long after the outcome (default: one chunk)"
    )
    run_.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, as `rise evaluate` does")
    run_.add_argument("--log", type=Path, metavar="FILE", help="write latency, dropped steps and overlap as CSV")


def run(args: argparse.Namespace) -> int:
    """Deploy, print and write."""
    if args.episodes < 1:
        raise ConfigError(f"--episodes is {args.episodes}, expected at least 1")
    import rise_robot.deploy as deployment
    from rise_agents.evaluation.evaluate import Episode, summarise
    from rise_env.files import write_json
    from rise_env.provenance import provenance
    from rise_robot.execution.log import ExecutionLog
    from rise_robot.operator_keys import HELP
    from rise_robot.signals import StopSignals

    log = ExecutionLog()
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        env, policy = _parts(args, signals, stack)
        runner = deployment.make_runner(env, policy, env.session.robot.execution, args.execution, args.delay_steps, log)
        stack.callback(runner.close)
        deployed = deployment.Deployment(
            env, policy, runner,
            recorder=_recorder(args, env, stack),
            teleoperator=_teleoperator(args, env),
            tail_seconds=args.tail_seconds,
        )  # fmt: skip
        print(
            f"{policy.name} on {env.driver.name} ({env.session.robot.name}), {runner.executor.name} execution", end=""
        )
        print(", dry run: nothing is sent" if args.dry_run else "")
        print(f"keys: {HELP}" if env.session.keys.available else "keys: none (standard input is no terminal)")
        timer = stack.enter_context(_timer())
        done, stop = deployed.run(args.episodes, args.seed, _say)
        seconds = timer()
    episodes = [Episode(e.seed, e.success, e.score, e.failure_mode, e.seconds, e.chunks) for e in done]
    stopped = None if stop is None else {"reason": str(stop.reason), "detail": stop.detail}
    if stop is not None:
        print(f"stopped: {stop.reason}: {stop.detail}", file=sys.stderr)
    found = log.summary()
    content: dict[str, Any] = {"episodes": 0, "details": []}
    if episodes:
        result = summarise(episodes, seconds)
        content = result.to_dict()
        low, high = result.success_interval
        print(f"{result.episodes} episodes: success {result.success_rate:.1%} ({low:.1%} to {high:.1%})")
        print(f"  failures    {', '.join(f'{mode} {count}' for mode, count in result.failure_modes.items()) or 'none'}")
        print(f"  inference   p50 {_ms(found['inference_ms']['p50'])}, p99 {_ms(found['inference_ms']['p99'])}", end="")
        print(f"; {found['dropped_steps']} steps dropped, {found['held_steps']} held for want of a chunk")
        if corrected := sum(e.interventions for e in done):
            print(f"  corrected   {corrected} control steps")
    if args.record:
        print(f"  dataset     {args.record}")
    if args.log:
        log.write_csv(args.log)
    if args.json:
        config = {key: str(value) if isinstance(value, Path) else value for key, value in sorted(vars(args).items())}
        for key in ("json", "log", "traceback", "token_file"):
            config.pop(key, None)
        extra = {"execution": found, "interventions": [e.interventions for e in done], "stopped": stopped}
        write_json(args.json, {**content, **extra, "deploy": config, "provenance": provenance(config, args.seed)})
        print(f"  json        {args.json}")
    return 0 if stop is None else _STOPPED


def _parts(args: argparse.Namespace, signals: Any, stack: contextlib.ExitStack) -> tuple[RobotEnv, DeployedPolicy]:
    """The robot and the policy; closed with the stack."""
    from rise_robot.cell.env import cell_overrides
    from rise_robot.config import load_robot
    from rise_robot.deployed import ServerPolicy
    from rise_robot.drivers import make_driver
    from rise_robot.drivers.base import SceneDriver
    from rise_robot.env import RobotEnv
    from rise_robot.operator_keys import ask_in_terminal, terminal_keys

    policy = _policy(args)
    if policy is not None:
        stack.callback(policy.close)
    robot = load_robot(args.robot or ("cell" if args.driver == "cell" else "piper"), args.robot_set)
    options = {"real_time": True} if args.real_time else {}
    overrides = [*cell_overrides(args.difficulty, None, None, None), *args.overrides]
    driver = make_driver(args.driver, args.task, args.preset, overrides, robot, **options)
    env = RobotEnv(
        driver,
        robot,
        observation_lags=() if policy is None else policy.lags,
        keys=terminal_keys(),
        ask=None if args.yes or isinstance(driver, SceneDriver) else ask_in_terminal,
        interrupted=signals,
        dry_run=args.dry_run,
    )
    stack.callback(env.close)
    if isinstance(policy, ServerPolicy):
        policy.check(env.task)
    if policy is None:
        from rise_agents.cli.deployed_policy import ScriptedPolicyInCell

        if args.driver == "cell" and args.real_time:  # it would plan in a thread while the physics move on
            raise ConfigError(f"policy {args.policy!r} is scripted: here it needs simulated time, without --real-time")
        if args.policy not in env.scripted_policies:
            known = ", ".join(env.scripted_policies)
            raise ConfigError(
                f"unknown policy {args.policy!r}: give base, a run folder, a checkpoint or a Hub id"
                + (f", or a scripted one: {known}" if known else "")
            )
        policy = ScriptedPolicyInCell(env, args.policy)
    return env, policy


def _policy(args: argparse.Namespace) -> DeployedPolicy | None:
    """The policy; None for the name of what may be a scripted one."""
    if args.server:
        from rise_robot.deployed import ServerPolicy
        from rise_robot.serving import PolicyClient

        host, colon, port = args.server.rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigError(f"--server {args.server!r} is not of the form HOST:PORT")
        token = os.environ.get("RISE_SERVE_TOKEN")
        if args.token_file:
            token = args.token_file.read_text(encoding="utf-8").strip()
        return ServerPolicy(PolicyClient(host, int(port), token).connect())
    from rise_agents.policies.loading import find_policy, level_of, load_policy

    path = find_policy(args.policy, args.task)
    if path is None:
        return None
    from rise_agents.cli.deployed_policy import LocalPolicy
    from rise_agents.policies.real_time import RealTimeRunner

    policy = load_policy(path, device=args.device)
    runner = RealTimeRunner(policy, level_of(policy, args.advantage), args.guidance)
    return LocalPolicy(runner, "policy-" + Path(args.policy).name)


def _recorder(args: argparse.Namespace, env: RobotEnv, stack: contextlib.ExitStack) -> Any:
    if args.record is None:
        return None
    from rise_robot.recording import EpisodeRecorder

    return stack.enter_context(EpisodeRecorder(args.record, env.task))


def _teleoperator(args: argparse.Namespace, env: RobotEnv) -> Any:
    if args.teleop is None:
        return None
    from rise_robot.teleoperation import ScriptedTeleoperator

    if args.teleop not in env.scripted_policies:
        known = ", ".join(env.scripted_policies) or "none with this driver"
        raise ConfigError(f"unknown teleoperation source {args.teleop!r}. Known: {known}.")
    return ScriptedTeleoperator(env.driver.scripted(args.teleop, args.seed))  # type: ignore[attr-defined]


def _say(episode: DeployedEpisode) -> None:
    outcome = "success" if episode.success else episode.failure_mode
    corrected = f", {episode.interventions} steps corrected" if episode.interventions else ""
    print(
        f"  episode {episode.seed}: {outcome} after {episode.seconds:.1f} s, {episode.chunks} chunks{corrected}",
        flush=True,
    )


@contextlib.contextmanager
def _timer() -> Iterator[Any]:
    import time

    begun = time.perf_counter()
    yield lambda: time.perf_counter() - begun


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
