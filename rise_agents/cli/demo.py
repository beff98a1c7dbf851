"""The whole idea in one command: a policy gets better without touching the robot.

  rise demo
  rise demo --preset choice
  rise demo --json out/demo.json --out out/demo

1. the base policy is evaluated in the MuJoCo work cell, which stands for the robot;
2. episodes are recorded there, of it and for some tasks of operators: the offline data;
3. it is improved from these; the cell is not used;
4. the improved policy meets the same episodes in the cell;
5. one HTML report shows numbers with intervals, curves and films. Its path is printed last.

Brick sorting has two demos. By default a policy that was shown 30 demonstrations, and misses half of the bricks, clones
what succeeded of its own episodes and learns from a critic of outcomes how to come down on them: nothing is imagined as
pictures. With `--preset choice` a policy that puts half of them into the wrong bin is improved inside the world model,
which imagines what the cameras would see, as are the policies of the other tasks (`--task box_closing`).

Some minutes on two idle CPU cores, those in imagination ten to thirty. A slow or busy machine takes longer and gets the
same policy: what is learned depends on the number of judged chunks (`--chunks`) and the seed alone. Safe to interrupt:
what is finished is kept in `--out`, and the same command goes on from there. A task without a bundle gets one first:
its episodes are recorded, and world model and base policy are trained as its preset says.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rise_agents.cli.options import add_imagine, add_task, at_least, cell_of, folder, new_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_task(parser, help="task with a work cell (default: %(default)s)")
    parser.add_argument("--out", type=folder, help="directory (default: out/demo, out/demo-<task>, -<preset>)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--episodes", type=at_least(1), help="episodes per evaluation (default: the preset's)")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="seed of evaluation and training (default: %(default)s)"
    )
    parser.add_argument("--agent", help="agent that improves the policy (default: the preset's)")
    parser.add_argument("--chunks", type=at_least(1), help="chunks to judge (default: the agent's)")
    parser.add_argument("--policy", help="policy to improve (default: the preset's, of the bundle)")
    parser.add_argument(
        "--bundle", type=Path, metavar="BUNDLE", help="directory or Hub id, in place of the shipped bundle"
    )
    add_imagine(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="agent settings")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="overrides such as demo.episodes=50")


def run(args: argparse.Namespace) -> int:
    """Run the demo, print what came of it."""
    import dataclasses

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.pipelines.config import load_demo_config
    from rise_agents.pipelines.demo import Demo
    from rise_agents.training.presets import parse_settings
    from rise_env.files import write_json

    given = {"episodes": args.episodes, "agent": args.agent}
    config = dataclasses.replace(
        load_demo_config(args.task, args.preset, args.overrides),
        **{key: value for key, value in given.items() if value is not None},
    )
    cell_of(args.task)  # without one there is nothing to prove it in, which is said now
    task = args.task.replace("-", "_")
    parts = ["demo", *([task] if task != "brick_sorting" else []), *([args.preset] if args.preset != "small" else [])]
    out = args.out or Path("out") / "-".join(parts)
    command = shlex.join(["rise", *sys.argv[1:]]) if Path(sys.argv[0]).name == "rise" else "rise demo"
    result = Demo(
        config, task, args.preset, out, args.seed, args.policy, args.bundle, args.chunks,
        parse_settings(args.settings), command,
    ).run()  # fmt: skip
    if args.json:
        write_json(args.json, result.to_dict(args.seed))
    for name, found in (("base", result.base), ("improved", result.improved)):
        low, high = found.success_interval
        print(f"{name:<9} {found.success_rate:6.1%}   95 % interval {low:.1%} to {high:.1%}   {found.failure_modes}")
    print(f"{result.minutes:.1f} minutes in all. Report:")
    print(result.report.resolve())
    return 0
