r"""Train dynamics and value on recorded data and put them, with start states, into a bundle.

  rise train bundle --task brick_sorting --data data/operator data/expert data/corrected --out bundles/brick_sorting
  rise train bundle --task brick_sorting --data data/operator data/expert data/corrected --out bundles/brick_sorting \
      --minutes 60

One command from recordings to what `gym.make` needs. Without `--minutes` every part gets the preset's number of
updates, and on one machine the result depends on data, preset and seed alone: after an interruption, `kill -9`
included, the same command goes on to the very same bundle. `--steps N` is a shorter or longer run of that kind: N
updates of the transformer, and of every other part in the preset's proportion. `--minutes` are shared: three quarters
for the dynamics, the rest for the value, of which the last three tenths train on imagined frames of recorded chunks;
how far that comes depends on the speed of the machine.

Everything in between stays in `--runs` (default: `<out>-runs`). Parts that are trained already can be given with
`--dynamics` and `--value`; `--policy` puts a base policy in, for `--policy base` of other commands and for the demo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import model

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the training runs (default: <out>-runs)")
    parser.add_argument("--dynamics", type=model, metavar="MODEL", help="trained dynamics model to use")
    parser.add_argument("--value", type=model, metavar="MODEL", help="trained value model to use")
    parser.add_argument("--policy", type=model, metavar="MODEL", help="base policy to put in (`rise train policy`)")
    parser.add_argument("--starts", type=int, default=512, metavar="N", help="start states (default: %(default)s)")
    parser.add_argument(
        "--imagined", type=int, default=3000, metavar="N",
        help="recorded chunks to imagine for the value; 0 for none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--imagined-steps", type=int, metavar="N",
        help="updates of the value on imagined frames (default: three sevenths of its updates before)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train what is not given, then write the bundle."""
    from rise_agents.cli.train import training_setup
    from rise_agents.policies.loading import load_policy
    from rise_env.training.bundle import train_bundle

    if args.policy is not None:
        load_policy(args.policy)  # an hour of training is no moment to find a wrong path
    with training_setup(args) as setup:
        bundle = train_bundle(
            setup, args.out,
            runs=args.runs, steps=args.steps, minutes=args.minutes, dynamics=args.dynamics, value=args.value,
            policy=args.policy, starts=args.starts, imagined=args.imagined, imagined_steps=args.imagined_steps,
        )  # fmt: skip
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    print(f"bundle: {bundle.path} ({size / 1e6:.1f} MB, {args.starts} start states)")
    return 0
