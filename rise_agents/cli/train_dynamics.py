"""Train a dynamics model: the autoencoder, then the transformer.

  rise train dynamics --data data/bricks-operator data/bricks-expert --preset small --out runs/dynamics --minutes 60

The run folder holds `model/` (what `LatentDynamics.from_pretrained` loads), `samples/` (real above imagined frames),
`tensorboard/`, `metrics.json`, and the full state, from which a run by `--steps` goes on to the very same result after
any interruption.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import at_least

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument(
        "--autoencoder-steps", type=at_least(1), help="updates of the autoencoder (default: the preset's)"
    )
    parser.add_argument(
        "--autoencoder", type=Path, metavar="MODEL", help="take the autoencoder of this model instead of training one"
    )
    parser.add_argument(
        "--initial", type=Path, metavar="MODEL", help="go on from this model (on new recordings), autoencoder included"
    )


def run(args: argparse.Namespace) -> int:
    """Train, print."""
    from rise_agents.cli.train import training_setup
    from rise_env.training.setup import train_dynamics_on

    with training_setup(args) as setup:
        model = train_dynamics_on(
            setup, args.out, steps=args.steps, minutes=args.minutes,
            autoencoder_steps=args.autoencoder_steps, autoencoder=args.autoencoder, initial=args.initial,
        )  # fmt: skip
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {model}")
    return 0
