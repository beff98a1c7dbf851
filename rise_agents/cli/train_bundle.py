"""Train dynamics and value on recorded data and put them, with start states, into a bundle.

  rise train bundle --task brick_sorting --data data/operator data/expert data/corrected --out bundles/brick_sorting \
      --minutes 60

One command from recordings to what `gym.make` needs. The minutes are shared: three quarters for the dynamics, the rest
for the value, of which the last part trains on imagined frames of recorded chunks. Everything in between stays in
`--runs` (default: `<out>-runs`); the same command goes on after an interruption. Parts that are trained already can be
given with `--dynamics` and `--value`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]

_DYNAMICS_SHARE, _FINE_TUNE_SHARE = 0.75, 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the training runs (default: <out>-runs)")
    parser.add_argument("--dynamics", type=Path, metavar="MODEL", help="trained dynamics model to use")
    parser.add_argument("--value", type=Path, metavar="MODEL", help="trained value model to use")
    parser.add_argument("--starts", type=int, default=512, metavar="N", help="start states (default: %(default)s)")
    parser.add_argument(
        "--imagined", type=int, default=1000, metavar="N", help="recorded chunks to imagine for the value"
    )


def run(args: argparse.Namespace) -> int:
    """Train what is not given, then write the bundle."""
    if args.steps is not None:
        raise ConfigError("`rise train bundle` is given --minutes; train the parts one by one to give --steps")
    from rise_agents.cli.progress import say
    from rise_env.bundle import save_bundle
    from rise_env.data import open_dataset
    from rise_env.dynamics.model import LatentDynamics
    from rise_env.starts import StartStates
    from rise_env.tasks import load_task
    from rise_env.value.model import ValueModel
    from rise_env.world_model import CompositionalWorldModel

    runs = args.runs or args.out.with_name(f"{args.out.name}-runs")
    minutes = None if args.minutes is None else float(args.minutes)
    dynamics = args.dynamics or _dynamics(args, runs / "dynamics", minutes)
    value = args.value or _value(args, runs, dynamics, minutes)

    spec = load_task(args.task, args.preset, args.overrides)
    say("drawing start states")
    starts = StartStates.from_dataset(open_dataset(args.data, spec), spec, args.starts, seed=0)
    model = CompositionalWorldModel(LatentDynamics.from_pretrained(dynamics), ValueModel.from_pretrained(value), spec)
    about = {"data": [Path(path).name for path in args.data], "minutes": minutes}
    bundle = save_bundle(args.out, starts, model, about=about, seed=0)
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    print(f"bundle: {bundle.path} ({size / 1e6:.1f} MB, {len(starts)} start states)")
    return 0


def _dynamics(args: argparse.Namespace, out: Path, minutes: float | None) -> Path:
    from rise_agents.cli.train import PARTS

    share = None if minutes is None else minutes * _DYNAMICS_SHARE
    PARTS["dynamics"].run(_part(args, out=out, minutes=share, autoencoder=None, autoencoder_steps=None))
    return out / "model"


def _value(args: argparse.Namespace, runs: Path, dynamics: Path, minutes: float | None) -> Path:
    from rise_agents.cli import train_value

    rest = None if minutes is None else minutes * (1 - _DYNAMICS_SHARE)
    first = None if rest is None else rest * (1 - _FINE_TUNE_SHARE)
    out = runs / "value"
    train_value.run(_part(args, out=out, minutes=first, dynamics=dynamics, initial=None, imagined=0))
    if not args.imagined:
        return out / "model"
    tuned = runs / "value-imagined"
    second = None if rest is None else rest * _FINE_TUNE_SHARE
    train_value.run(
        _part(args, out=tuned, minutes=second, dynamics=dynamics, initial=out / "model", imagined=args.imagined)
    )
    return tuned / "model"


def _part(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})
