"""Write values and chunk advantages of every frame of a dataset into sidecar files, and pictures of them; or outcomes.

  rise label data/bricks-operator --value runs/value/model --tag v1
  rise label data/bricks-expert --value runs/value/model --tag v1 --demonstrations
  rise label data/ours --outcome success 3,7-9=failure

`meta/returns_TAG.parquet` holds the values, `meta/advantages_TAG.parquet` the advantages; the dataset's own files are
not touched. Demonstrations, and frames whose column `is_intervention` is true, get the best advantage and are not
scored: whether a dataset is a demonstration is what you say, never what it is called. A picture per episode, frames
above and value below (blue; orange: recorded progress; yellow: not scored), is written beside the sidecars.

`--outcome` says how episodes ended, for a dataset that does not: `meta/episode_success.parquet`, which value models and
algorithms read as if it were the dataset's own column. Later ones win; every episode needs one.
"""

from __future__ import annotations

import argparse
import sys

from rise_agents.cli.options import (
    add_dataset_keys,
    add_device,
    add_overrides,
    add_skip,
    add_task,
    at_least,
    dataset_overrides,
    finite,
    folder,
)
from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("dataset", metavar="DATASET", help="directory or hub id")
    parser.add_argument("--value", metavar="MODEL", help="value model: directory or hub id")
    parser.add_argument("--tag", help="name of this labelling")
    parser.add_argument(
        "--outcome", nargs="+", action="extend", metavar="[EPISODES=]OUTCOME",
        help="success or failure, of all episodes or of some: 0-9=success 10,12=failure",
    )  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="replace outcomes that were written before")
    add_dataset_keys(parser)
    add_skip(parser)
    add_task(parser)
    parser.add_argument("--dynamics", metavar="MODEL", help="dynamics model, where the value model reads its latents")
    parser.add_argument("--demonstrations", action="store_true", help="the dataset is an expert's: do not score it")
    parser.add_argument("--chunk", type=at_least(1), help="control steps per chunk (default: the task's)")
    parser.add_argument(
        "--positive", type=finite, default=0.3, metavar="PART", help="part of the frames called positive (default: 0.3)"
    )
    parser.add_argument(
        "--pictures", type=at_least(0), default=4, metavar="N", help="episodes to draw (default: %(default)s)"
    )
    parser.add_argument("--directory", type=folder, metavar="DIR", help="write here instead of into the dataset")
    add_device(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Label."""
    if args.outcome is not None:
        return _outcomes(args)
    if args.value is None or args.tag is None:
        raise ConfigError("give --value MODEL and --tag NAME for values and advantages, or --outcome for outcomes")
    from rise_agents.progress import advance, bar
    from rise_env.data import open_dataset
    from rise_env.pretrained import load_registered
    from rise_env.registry import DYNAMICS
    from rise_env.tasks import load_task
    from rise_env.value.labelling import draw_labels, label_frames, ranking_problem_of, write_labels
    from rise_env.value.labels import FrameDataset
    from rise_env.value.latents import LatentDataset, weights_digest
    from rise_env.value.model import ValueModel
    from rise_env.world_model import resolve_device

    spec = load_task(args.task, args.preset, [*dataset_overrides(args), *args.overrides])
    device = resolve_device(args.device)
    model = ValueModel.from_pretrained(args.value, device=device)
    if tuple(spec.cameras) != model.input_shape.cameras:
        raise ConfigError(
            f"{args.value} reads the cameras {', '.join(model.input_shape.cameras)}, task {spec.name!r} has "
            f"{', '.join(spec.cameras)}"
        )
    dataset = open_dataset(args.dataset, spec, skip_bad_episodes=args.skip_bad_episodes)
    source: FrameDataset = dataset
    if model.reads_latents:
        if args.dynamics is None:
            raise ConfigError(f"{args.value} reads latents: give the dynamics model that makes them, --dynamics MODEL")
        dynamics = load_registered(args.dynamics, DYNAMICS, device=device)
        source = LatentDataset(dataset, dynamics, weights_digest(dynamics))
    with bar(dataset.num_frames, "labelling", "frames") as progress:
        labels = label_frames(
            model, source, args.chunk or spec.chunk,
            demonstrations=args.demonstrations, positive_fraction=args.positive,
            on_frames=lambda done: advance(progress, done),
        )  # fmt: skip
    paths = write_labels(dataset, args.tag, labels, args.directory)
    folder = (args.directory or dataset.root / "meta") / f"values_{args.tag}"
    drawn = draw_labels(dataset, labels, folder, args.pictures) if args.pictures else []
    print(
        f"{dataset.num_frames} frames: value {labels.value.mean():.3f} (spread {labels.spread.mean():.3f}), advantage "
        f"{labels.measured.mean():+.3f} from {labels.measured.min():+.3f} to {labels.measured.max():+.3f}, "
        f"{int(labels.forced.sum())} not scored, {int(labels.positive.sum())} positive"
    )
    if problem := ranking_problem_of(dataset, labels.value):
        print(f"WARNING: {problem}", file=sys.stderr)
    for path in [*paths, *([folder] if drawn else [])]:
        print(path)
    return 0


def _outcomes(args: argparse.Namespace) -> int:
    """Write the sidecar of outcomes."""
    import numpy as np

    from rise_env.data.outcomes import OUTCOMES_PATH, parse_outcomes, read_outcomes, write_outcomes
    from rise_env.data.source import locate, read_source

    if args.value or args.tag:
        raise ConfigError("--outcome goes without --value and --tag: give outcomes first, then label values")
    source = read_source(locate(args.dataset))
    if "episode_success" in source.features or source.episode_success is not None:
        raise ConfigError(f"{args.dataset} has outcomes of its own (episode_success); they are not overruled")
    outcomes = parse_outcomes(args.outcome, len(source.lengths))
    before = None if args.replace else read_outcomes(source.root, len(outcomes))
    if before is not None and (changed := np.flatnonzero(before != outcomes)).size:
        raise ConfigError(
            f"{source.root / OUTCOMES_PATH} says otherwise of {changed.size} of {len(outcomes)} episodes, of episode "
            f"{changed[0]} first; add --replace to overwrite it"
        )
    print(f"{len(outcomes)} episodes, {int(outcomes.sum())} successful")
    print(write_outcomes(source.root, outcomes))
    return 0
