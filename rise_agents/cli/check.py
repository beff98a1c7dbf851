"""Is this data good enough to train on? Says so before any training, with what spoils it and what mends that.

  rise check ../shared/data/g1_bottle
  rise check data/ours --task configs/ours/small.yaml --json check.json --page check.html
  rise check data/large --episodes 40

Looked at are cameras (rates, delays, frozen pictures, exposure), joints (units, limits, noise, commands against what
was measured), outcomes, episodes and coverage. The dataset, LeRobot v3.0 or v2.1, needs no task; with one, layout,
cameras and chunk are compared as well. docs/check.md lists all findings.

Exit code: 0 without errors (warnings and notes there may be), 1 with errors: a training would stop, or learn nonsense.
2 is wrong usage, as of every command, or that there is no dataset.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rise_agents.cli.options import add_dataset_keys, add_overrides, add_task, at_least, dataset_overrides, new_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("dataset", metavar="DATASET", help="directory or hub id")
    add_task(parser, default=None, help="task that the data are for: name or YAML path")
    add_dataset_keys(parser)
    parser.add_argument("--episodes", type=at_least(1), metavar="N", help="look at N episodes, evenly spread")
    parser.add_argument("--no-pictures", action="store_true", help="joints, episodes and outcomes alone: no decoding")
    parser.add_argument(
        "--time-training",
        action="store_true",
        help="train the task's models for seconds, to say how long it takes here",
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write findings as JSON (/dev/stdout works)")
    parser.add_argument("--page", type=new_file, metavar="FILE", help="page (default: check-DATASET.html)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print, write."""
    from rise_agents.pipelines.check import all_successes, cost_of, updates_of
    from rise_agents.progress import Bars
    from rise_agents.reporting.check_page import write_check_page
    from rise_env.data.check import check_dataset
    from rise_env.errors import ConfigError
    from rise_env.files import write_json
    from rise_env.tasks import load_task

    if more := [one for one in args.overrides if "=" not in one]:
        raise ConfigError(f"one dataset at a time: run `rise check` again for {shlex.join(more)}")
    overrides = [*dataset_overrides(args), *args.overrides]
    if args.time_training and args.task is None:
        raise ConfigError("--time-training needs the models of a task: give --task (`rise init-task` writes one)")
    task = (args.task, args.preset, overrides) if args.task else None
    spec = load_task(*task) if task else None
    with Bars() as bars:
        checked = check_dataset(
            args.dataset, spec,
            state_key=args.state_key, action_key=args.action_key, trust_layout=args.trust_layout,
            all_successes=all_successes(*task) if task else None, episodes=args.episodes, pictures=not args.no_pictures,
            progress=lambda phase, done, total: bars.show(phase, done, total, "frames"),
        )  # fmt: skip
    cost = cost_of(checked, spec, updates_of(*task) if task and args.time_training else None)
    page = args.page or Path(f"check-{checked.name}.html")
    write_check_page(page, checked, cost, shlex.join(["rise", *sys.argv[1:]]))
    if args.json != Path("/dev/stdout"):
        print(f"{checked.name}: {checked.verdict()}")
        for finding in checked.findings:
            plain: dict[str, Any] = finding.plain()
            print(f"\n{finding.severity}: {finding.code}: {finding.message}")
            print(f"  spoils: {plain['spoils']}\n  mends:  {plain['mends']}")
        print()
        for what, much in cost.items():
            print(f"{what}: {much}")
        print(page)
    if args.json:
        write_json(args.json, {**checked.plain(), "cost": cost, "page": str(page)})
    return 1 if checked.errors else 0
