r"""Train a value model: progress first, then temporal differences on recorded successes and failures.

  rise train value --data data/bricks-operator data/bricks-expert --preset small --out runs/value
  rise train value --data ... --out runs/value-2 --initial runs/value/model \
      --dynamics runs/dynamics/model --imagined 500

The second form goes on from the first on imagined frames of recorded chunks, whose true labels are known: a value
model trained on recorded frames alone misreads imagined ones. The run folder holds `model/` (what
`ValueModel.from_pretrained` loads), `metrics.json` (measured on held-out episodes), `tensorboard/`, and the full state,
from which the same command goes on to the very same result after any interruption.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import at_least

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--initial", type=Path, metavar="MODEL", help="value model to start from")
    parser.add_argument("--dynamics", type=Path, metavar="MODEL", help="dynamics model, for latents or imagined frames")
    parser.add_argument(
        "--imagined",
        type=at_least(0),
        default=0,
        metavar="N",
        help="mix in imagined frames of N recorded chunks (0: none)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print."""
    from rise_agents.cli.train import training_setup
    from rise_env.files import to_json
    from rise_env.training.setup import train_value_on

    with training_setup(args) as setup:
        report = train_value_on(
            setup, args.out, steps=args.steps, minutes=args.minutes,
            initial=args.initial, dynamics=args.dynamics, imagined=args.imagined,
        )  # fmt: skip
    print(to_json({name: value for name, value in report.items() if name != "provenance"}))
    print(f"model: {args.out / 'model'}")
    return 0
