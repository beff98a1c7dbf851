"""Train a part of the learned simulator. Run the same command again to go on after an interruption.

rise train bundle --data data/operator data/expert --out bundles/brick_sorting --minutes 60
rise train dynamics --data data/bricks-operator data/bricks-expert --preset small --out runs/dynamics --minutes 60
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rise_agents.cli.options import (
    add_dataset_keys,
    add_device,
    add_skip,
    add_task,
    add_threads,
    at_least,
    dataset_overrides,
    finite,
    folder,
    set_threads,
)
from rise_env.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rise_env.training.setup import TrainingSetup

__all__ = ["PARTS", "Part", "add_arguments", "run", "training_setup"]


class Part(NamedTuple):
    """Something that can be trained; its module has `add_arguments` and `run`, like a sub-command."""

    summary: str
    module: str


PARTS: Mapping[str, Part] = {
    "base": Part("record demonstrations and train a base policy on them, from nothing", "rise_agents.cli.train_base"),
    "bundle": Part("train all parts and put them into a bundle for gym.make", "rise_agents.cli.train_bundle"),
    "distill": Part(
        "train a dynamics model that takes few steps, from one that takes many", "rise_agents.cli.train_distill"
    ),
    "dynamics": Part("train the dynamics model: autoencoder, then transformer", "rise_agents.cli.train_dynamics"),
    "policy": Part("train a policy on recorded chunks and their advantages", "rise_agents.cli.train_policy"),
    "value": Part("train the value model: progress, then temporal differences", "rise_agents.cli.train_value"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, part in PARTS.items():
        module = importlib.import_module(part.module)
        one = parts.add_parser(
            name, help=part.summary, description=module.__doc__, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        _add_common_arguments(one, data=name != "base")
        module.add_arguments(one)


def run(args: argparse.Namespace) -> int:
    """Train; of several processes (`accelerate launch`), the first one speaks."""
    from rise_env.training.team import team

    set_threads(args.threads)
    together = team()
    args.out = together.folder(args.out)
    if together.rank:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            return int(importlib.import_module(PARTS[args.part].module).run(args))
    return int(importlib.import_module(PARTS[args.part].module).run(args))


@contextmanager
def training_setup(args: argparse.Namespace) -> Iterator[TrainingSetup]:
    """What all parts have in common, from the arguments; its progress is shown."""
    from rise_agents.progress import Bars, say
    from rise_env.training.setup import TrainingSetup
    from rise_env.training.team import team

    together, device = team(), args.device
    if together.device is not None:
        if device not in ("auto", together.device.type):
            raise ConfigError(f"--device {device}: the launcher chose {together.device} for this process; leave it out")
        device = str(together.device)
    setup = TrainingSetup(
        args.data, args.task, args.preset, [*dataset_overrides(args), *args.overrides], device,
        skip_bad_episodes=args.skip_bad_episodes,
    )  # fmt: skip
    if together.rank:
        yield setup
        return
    with Bars() as bars:
        yield replace(setup, report=bars.training, log=say)


def _add_common_arguments(parser: argparse.ArgumentParser, data: bool) -> None:
    parser.add_argument(
        "--data", type=Path, nargs="+", required=data, metavar="DIR",
        help="recorded datasets" if data else "recorded demonstrations (default: record some, into RUN/data)",
    )  # fmt: skip
    add_dataset_keys(parser)
    add_skip(parser)
    add_task(parser)
    parser.add_argument("--out", type=folder, required=True, metavar="RUN", help="run folder; an old one is resumed")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=finite, help="time to train, interruptions not counted")
    length.add_argument("--steps", type=at_least(1), help="updates (default: the preset's)")
    add_device(parser)
    add_threads(parser)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
        help="such as dynamics.training.learning_rate=5e-4; `rise info --settings` lists all, with ranges and defaults",
    )  # fmt: skip
