"""Normalisation statistics of a dataset: mean, std, min, max and the 1st and 99th percentile of state and action.

Printed beside them: how long after a command the measured joints follow it (`lag`, s), with a warning where that takes
more than a third of an action chunk.

  rise stats data/bricks
  rise stats ../shared/data/g1_bottle --json stats.json --openpi norm_stats.json

DATASET is a directory or hub id of a LeRobot dataset, v3.0 or v2.1; several are taken together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from rise_agents.cli.options import add_dataset_keys, add_skip, add_task, dataset_overrides, new_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="directory or hub id")
    parser.add_argument(
        "--json", type=new_file, metavar="FILE", help="write all statistics as JSON (/dev/stdout works)"
    )
    parser.add_argument("--openpi", type=new_file, metavar="FILE", help="write openpi's norm_stats.json")
    add_dataset_keys(parser)
    add_skip(parser)
    add_task(parser, default=None, help="check the dataset against this task (name, folder or YAML file)")


def run(args: argparse.Namespace) -> int:
    """Compute, print, write."""
    from rise_env.data import command_lag, compute_stats, open_dataset
    from rise_env.tasks import load_task

    spec = load_task(args.task, args.preset, dataset_overrides(args)) if args.task else None
    dataset = open_dataset(
        args.datasets, spec,
        state_key=args.state_key, action_key=args.action_key, skip_bad_episodes=args.skip_bad_episodes,
    )  # fmt: skip
    stats = compute_stats(dataset)
    if args.json != Path("/dev/stdout") and args.openpi != Path("/dev/stdout"):
        outcomes = [episode.success for episode in dataset.episodes]
        known = "" if None in outcomes else f", {sum(map(bool, outcomes))} successful"
        print(f"{dataset.name}: {dataset.num_episodes} episodes, {dataset.num_frames} frames", end="")
        print(f" at {dataset.spec.fps} Hz{known}")
        width = max(map(len, stats.names))
        for title, feature in (("state", stats.state), ("action", stats.action)):
            columns = ("mean", "std", "min", "q01", "q99", "max")
            print(f"\n{title:<{width}}" + "".join(f"{column:>11}" for column in columns))
            for i, name in enumerate(stats.names):
                print(f"{name:<{width}}" + "".join(f"{getattr(feature, column)[i]:>11.4f}" for column in columns))
        lags = command_lag(dataset)
        print(f"\n{'lag':<{width}}{'s':>11}   measured velocity behind commanded; - where a joint does not show it")
        for name, lag in zip(stats.names, lags, strict=True):
            print(f"{name:<{width}}" + (f"{'-':>11}" if np.isnan(lag) else f"{lag:>11.3f}"))
        _warn_of_lag(dict(zip(stats.names, lags.tolist(), strict=True)), dataset.spec.chunk / dataset.spec.fps)
    if args.json:
        stats.save(args.json)
    if args.openpi:
        stats.save_openpi(args.openpi)
    return 0


def _warn_of_lag(lags: dict[str, float], chunk: float) -> None:
    slow = {name: lag for name, lag in lags.items() if lag > chunk / 3}
    if slow:
        worst = max(slow, key=lambda name: slow[name])
        print(
            f"warning: {len(slow)} joints follow their commands by more than a third of a chunk of {chunk:.2f} s "
            f"({worst}: {slow[worst]:.2f} s). The end of a chunk then shows what earlier commands did: choose a longer "
            "chunk (task.chunk), and let the policy see the past (policy.model.lags).",
            file=sys.stderr,
        )
