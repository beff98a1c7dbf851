"""Train a policy on recorded chunks: demonstrations at the best advantage, rollouts at their labelled one.

  rise label data/operator --value runs/value/model --tag v1
  rise label data/expert   --value runs/value/model --tag v1 --demonstrations
  rise train policy --data data/operator data/expert --labels v1 --out runs/policy --closed-loop-eval 50
  rise train policy --task tasks/mine --data data/mine --bundle bundles/mine --out runs/mine
  rise train policy --data data/operator --plain --out runs/bc
  rise train policy --data data/expert --demonstrations --encoders base --out runs/few

`--bundle` measures advantages by the value model of a bundle, without labelling first: the dataset is not written to.
`--demonstrations` takes everything for worth doing, `--successes` the episodes that succeeded (filtered behaviour
cloning, of a policy's own recordings too), `--plain` clones whatever was recorded, without advantages.
`--encoders` takes over what another policy has learned to see, so that few demonstrations suffice to learn to act. With
`--closed-loop-eval N` the policy acts in the environment `--env` for N episodes (seeds from 500000) at every
evaluation, so that its success curve lies beside its loss in TensorBoard: a policy whose curve still rises is not a
base to improve. The run folder holds `model/`, `metrics.json`, `tensorboard/` and the full state, from which a run by
`--steps` goes on to the very same result after any interruption.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.aliases import add_alias
from rise_agents.cli.options import at_least, evaluated_in

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--labels", metavar="TAG", help="tag of the advantages that `rise label` wrote")
    which.add_argument("--bundle", type=Path, metavar="DIR", help="bundle whose value model measures the advantages")
    which.add_argument(
        "--demonstrations", action="store_true", help="all of it is worth doing: the best advantage, without labels"
    )
    which.add_argument(
        "--successes", action="store_true", help="the episodes that succeeded are: the others are left out"
    )
    which.add_argument("--plain", action="store_true", help="plain behaviour cloning, without advantages")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--initial", metavar="POLICY", help="policy to go on from")
    begin.add_argument(
        "--encoders", metavar="POLICY", help="see with the image encoders of this policy, and learn all else anew"
    )
    parser.add_argument("--episodes", type=at_least(1), metavar="N", help="use the first N episodes only")
    parser.add_argument(
        "--closed-loop-eval",
        type=at_least(0),
        default=0,
        metavar="N",
        help="episodes at every evaluation (default: none)",
    )
    add_alias(parser, "--try-out", "--closed-loop-eval", type=int)
    parser.add_argument("--env", metavar="ID", help="where to act (default: the task's simulation or work cell)")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print."""
    from rise_agents.cli.train import training_setup
    from rise_agents.pipelines.policy import closed_loop_eval, train_policy_on
    from rise_env.bundle import load_bundle
    from rise_env.registry import TASKS

    with training_setup(args) as setup:
        measure = None
        if args.closed_loop_eval:
            name = setup.spec.name
            env_id = args.env or evaluated_in(name if name in TASKS else args.task)
            measure = closed_loop_eval(env_id, args.closed_loop_eval, args.plain, setup.log)
        train_policy_on(
            setup, args.out, load_bundle(args.bundle) if args.bundle else args.labels,
            steps=args.steps, minutes=args.minutes, initial=args.initial, encoders=args.encoders, first=args.episodes,
            measure=measure, demonstrations=args.demonstrations, successes=args.successes,
        )  # fmt: skip
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {args.out / 'model'}")
    return 0
