"""Run a policy on a robot: observation in, chunk out, smooth motion, with an operator at the keys and a record.

The policy is in this process (--policy: "base", a run folder, a checkpoint or a Hub id; with a simulation also a
scripted one such as "expert") or behind a server (--server HOST:PORT, see `rise serve`). No world model is loaded. The
driver is "ros" (a Piper, or `rise ros-cell`), "cell" (the MuJoCo cell in this process; --real-time for its true speed),
or one of a plug-in (`rise info` lists them).

Keys, in a terminal: q stop   s success   f failure   i take over   o hand back. Without a terminal there are none.
Any stop, Ctrl-C and SIGTERM among them, makes the arm hold and saves what was recorded; motors are never switched off.
docs/safety.md lists what else stops the robot. Exit code 1: the run was stopped early.

  rise deploy --policy base --driver cell --episodes 20 --json out/deploy.json
  rise deploy --server 127.0.0.1:8000 --driver ros --robot configs/robots/piper.yaml --episodes 10 --record data/real
  rise deploy --policy base --driver ros --dry-run        # everything but sending commands
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from rise_agents.cli.options import finite, new_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    who = parser.add_argument_group("policy")
    which = who.add_mutually_exclusive_group(required=True)
    which.add_argument("--policy", help="name or path of a policy")
    which.add_argument("--server", metavar="HOST:PORT", help="policy server")
    who.add_argument("--token-file", type=Path, metavar="FILE", help="token of the server (or RISE_SERVE_TOKEN)")
    who.add_argument("--advantage", metavar="BIN", help="advantage bin to ask a trained policy for (default: best)")
    who.add_argument("--guidance", type=finite, metavar="W", help="classifier-free guidance (default: the policy's)")
    who.add_argument("--device", default="cpu", help="where the policy computes (default: %(default)s)")
    robot = parser.add_argument_group("robot")
    robot.add_argument("--driver", default="ros", help="ros, cell or a plug-in's (default: %(default)s)")
    robot.add_argument("--robot", help="name or YAML file of the robot (default: the driver's)")
    robot.add_argument("--robot-set", action="append", default=[], metavar="KEY=VALUE", help="override of that file")
    robot.add_argument("--dry-run", action="store_true", help="do everything but send commands")
    robot.add_argument("--yes", action="store_true", help="do not ask the operator to set the scene")
    robot.add_argument("--real-time", action="store_true", help="simulations: keep to real time")
    robot.add_argument("--difficulty", help="simulations: easy, normal or hard (default: the preset's)")
    task = parser.add_argument_group("task")
    task.add_argument("--task", default="brick_sorting", help="task name, folder or YAML file (default: %(default)s)")
    task.add_argument("--preset", default="small", help="preset of the task (default: %(default)s)")
    task.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides such as task.fps=15")
    run_ = parser.add_argument_group("run")
    run_.add_argument("--episodes", type=int, default=10, help="number of episodes (default: %(default)s)")
    run_.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    run_.add_argument("--execution", metavar="STRATEGY", help="sync, smooth, ensemble or rtc (default: the robot's)")
    run_.add_argument("--delay-steps", type=int, default=0, metavar="N", help="simulations: steps an inference takes")
    run_.add_argument("--teleop", metavar="NAME", help="simulations: scripted policy that moves it after a take-over")
    run_.add_argument("--record", type=Path, metavar="DIR", help="record a LeRobot dataset; an existing one goes on")
    run_.add_argument("--tail-seconds", type=finite, help="hold and record so long after the end (default: one chunk)")
    run_.add_argument("--json", type=new_file, metavar="FILE", help="write the result as JSON, as `rise evaluate` does")
    run_.add_argument("--log", type=new_file, metavar="FILE", help="write latency, dropped steps and overlap as CSV")


def run(args: argparse.Namespace) -> int:
    """Deploy, print and write."""
    from rise_env.acting import Actor
    from rise_env.tasks import load_task
    from rise_robot.deploy import deploy

    if args.server:
        from rise_robot.serving import RemotePolicy, parse_address, read_token

        policy: Any = RemotePolicy(*parse_address(args.server), read_token(args.token_file))
        name = policy.name
    else:
        from rise_agents.policies.resolve import LeRobotSource, record_name, resolve_actor

        options = {"task": args.task, "device": args.device, "advantage": args.advantage, "guidance": args.guidance}
        policy = resolve_actor(args.policy, **options)
        if isinstance(policy, LeRobotSource):
            policy = policy.load(load_task(args.task, args.preset, args.overrides))
        name = record_name(args.policy)
        if not isinstance(policy, Actor):  # perhaps a scripted one of the driver
            policy, name = None, args.policy
    env_kwargs = {
        "task": args.task, "preset": args.preset, "driver": args.driver, "robot": args.robot,
        "difficulty": args.difficulty, "overrides": args.overrides, "robot_overrides": args.robot_set,
        "driver_options": {"real_time": True} if args.real_time else {}, "confirm": not args.yes,
        "dry_run": args.dry_run,
    }  # fmt: skip
    result = deploy(
        policy, name, args.episodes, args.seed, env_kwargs,
        strategy=args.execution, delay_steps=args.delay_steps, teleop=args.teleop, record=args.record,
        tail_seconds=args.tail_seconds, on_line=functools.partial(print, flush=True),
    )  # fmt: skip
    return _finish(args, result)


def _finish(args: argparse.Namespace, result: Any) -> int:
    """Print and write the result; returns the exit code."""
    from rise_agents.evaluation.results import Episode, summarise
    from rise_env.files import write_json
    from rise_env.provenance import provenance

    stop, log = result.stop, result.log.summary()
    if stop is not None:
        print(f"stopped: {stop.reason}: {stop.detail}", file=sys.stderr)
    content: dict[str, Any] = {"episodes": 0, "details": []}
    if result.episodes:
        episodes = [Episode(e.seed, e.success, e.score, e.failure_mode, e.seconds, e.chunks) for e in result.episodes]
        found = summarise(episodes, result.seconds)
        content = found.to_dict()
        low, high = found.success_interval
        print(f"{found.episodes} episodes: success {found.success_rate:.1%} ({low:.1%} to {high:.1%})")
        print(f"  failures    {', '.join(f'{mode} {count}' for mode, count in found.failure_modes.items()) or 'none'}")
        p50, p99 = ("-" if ms is None else f"{ms:.0f} ms" for ms in log["inference_ms"].values())
        print(f"  inference   p50 {p50}, p99 {p99}", end="")
        print(f"; {log['dropped_steps']} steps dropped, {log['held_steps']} held for want of a chunk")
        if corrected := sum(e.interventions for e in result.episodes):
            print(f"  corrected   {corrected} control steps")
    if args.record:
        print(f"  dataset     {args.record}")
    if args.log:
        result.log.write_csv(args.log)
    if args.json:
        outputs = "json", "log", "traceback", "token_file"  # say nothing of what was run
        given = sorted((key, value) for key, value in vars(args).items() if key not in outputs)
        config = {key: str(value) if isinstance(value, Path) else value for key, value in given}
        content |= {**result.to_dict(), "deploy": config, "provenance": provenance(config, args.seed)}
        write_json(args.json, content)
        print(f"  json        {args.json}")
    return 0 if stop is None else 1
