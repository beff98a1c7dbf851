"""Train a dynamics model that takes few denoising steps, from one that takes many (step distillation).

  rise train distill --teacher runs/dynamics/model --data data/* --sigmas 1 0.9375 0.8333 0.625 --out runs/four
  rise train distill --teacher runs/dynamics/model --data data/* --sigmas 1 --teacher-steps 25 --out runs/one

The student begins with the teacher's weights and learns to reach in each of its steps where the teacher gets in many.
Learning rate, batch size and the like are those of `dynamics.training` of the preset; the run folder is like that of
`rise train dynamics`. What the student has kept shows in `rise bench truth` with each of the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import at_least, finite

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--teacher", type=Path, required=True, metavar="MODEL", help="dynamics model that takes many")
    parser.add_argument(
        "--sigmas", type=finite, nargs="+", default=[1.0], metavar="LEVEL",
        help="noise levels of the student's steps, from 1, falling, above 0 (default: 1, a single step)",
    )  # fmt: skip
    parser.add_argument(
        "--teacher-steps", type=at_least(1), default=25, metavar="N",
        help="steps of the teacher, spread over those of the student (default: %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, print."""
    from rise_agents.cli.train import training_setup
    from rise_env.training.setup import distill_on

    with training_setup(args) as setup:
        model = distill_on(
            setup, args.out, args.teacher, args.sigmas,
            teacher_steps=args.teacher_steps, steps=args.steps, minutes=args.minutes,
        )  # fmt: skip
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {model}")
    return 0
