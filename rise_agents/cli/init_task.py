"""Write a task for recorded datasets: presets, joint layout and an agent, every line explained, guesses marked.

  rise init-task data/my_robot
  rise init-task data/monday data/tuesday --out tasks/my_robot

The folder is what other commands take as `--task`. It is made of YAML alone: read `_base.yaml` and `_layout.yaml`, and
correct what is marked GUESSED. DATASET is a directory or hub id of a LeRobot dataset, v3.0 or v2.1. Videos are not
decoded.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from rise_agents.cli.options import add_skip, folder

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="directory or hub id")
    parser.add_argument("--out", type=folder, metavar="DIR", help="folder to make (default: tasks/NAME)")
    parser.add_argument("--name", help="name of the task (default: from the first dataset's)")
    parser.add_argument("--state-key", metavar="KEY", help="feature with the joint state (default: observation.state)")
    parser.add_argument("--action-key", metavar="KEY", help="feature with the action (default: action)")
    add_skip(parser)


def run(args: argparse.Namespace) -> int:
    """Read, guess, write, say what comes next."""
    from rise_agents.pipelines.init_task import task_name, write_task
    from rise_env.data import open_dataset
    from rise_env.errors import ConfigError
    from rise_env.registry import TASKS

    dataset = open_dataset(
        args.datasets, state_key=args.state_key, action_key=args.action_key, skip_bad_episodes=args.skip_bad_episodes
    )
    name = args.name or task_name(args.out.name if args.out else dataset.root.name)
    registered = TASKS.find(name) if name in TASKS else None
    if registered is not None and registered.plugin is None:
        raise ConfigError(f"task {name!r} is registered already, with a bundle of its own: give another --name")
    task = write_task(dataset, args.out or Path("tasks") / name, name)
    print(f"task {task.name} in {task.folder}, from {dataset.num_episodes} episodes, {dataset.num_frames} frames")
    for guess in task.guesses:
        print(f"  guessed: {guess}")
    if registered is not None:
        print(
            f"The plug-in {registered.plugin!r} registers task {name!r}, and `--task {name}` goes on meaning its "
            "presets: copy these files over them for its work cell or simulation."
        )
    data, where = shlex.join(args.datasets), shlex.quote(str(task.folder))
    skip = " --skip-bad-episodes" if args.skip_bad_episodes else ""
    print(
        f"Read {task.folder}/_base.yaml and _layout.yaml, correct what is marked GUESSED, then:\n"
        + "".join(f"  rise check {shlex.quote(one)} --task {where}\n" for one in args.datasets)
        + f"  rise train bundle --task {where} --data {data}{skip} --out bundles/{name}\n"
        f"  rise train policy --task {where} --data {data}{skip} --bundle bundles/{name} --out runs/{name}-base\n"
        f"  rise improve --task {where} --policy runs/{name}-base --out runs/{name}-improved\n"
        "`--preset tiny` in the two trainings tries the whole way in minutes."
    )
    return 0
