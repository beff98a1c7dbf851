"""Train a policy on recorded chunks: demonstrations at the best advantage, rollouts at their labelled one.

  rise label data/operator --value runs/value/model --tag v1
  rise label data/expert   --value runs/value/model --tag v1 --demonstrations
  rise train policy --data data/operator data/expert --labels v1 --out runs/policy --closed-loop-eval 50
  rise train policy --data data/operator --plain --out runs/bc

`--plain` clones whatever was recorded, without advantages. With `--closed-loop-eval N` the policy acts in the
environment `--env` for N episodes (seeds from 500000) at every evaluation, so that its success curve lies beside its
loss in TensorBoard: a policy whose curve still rises is not a base to improve. The run folder holds `model/`,
`metrics.json`, `tensorboard/` and the full state, from which a run by `--steps` goes on to the very same result after
any interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from rise_agents.cli.aliases import add_alias
from rise_env.errors import ConfigError

if TYPE_CHECKING:
    from rise_agents.policies.base import Policy

__all__ = ["add_arguments", "run"]

_FIRST_SEED = 500_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--labels", metavar="TAG", help="tag of the advantages that `rise label` wrote")
    which.add_argument("--plain", action="store_true", help="plain behaviour cloning, without advantages")
    parser.add_argument("--initial", metavar="POLICY", help="policy to go on from")
    parser.add_argument("--episodes", type=int, metavar="N", help="use the first N episodes only")
    parser.add_argument(
        "--closed-loop-eval", type=int, default=0, metavar="N", help="episodes at every evaluation (default: none)"
    )
    add_alias(parser, "--try-out", "--closed-loop-eval", type=int)
    parser.add_argument("--env", default="RISE-BrickSorting-Cell-v0", help="where to act (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print."""
    import numpy as np

    from rise_agents.algorithms.bc import BehaviourCloning, train_policy
    from rise_agents.policies.config import load_policy_config
    from rise_agents.policies.data import advantage_bins_of, measured_advantages
    from rise_agents.policies.resolve import resolve_policy
    from rise_agents.progress import Bars, say
    from rise_env.data import open_dataset
    from rise_env.tasks import load_task
    from rise_env.training.loop import Budget
    from rise_env.world_model import resolve_device

    fixed = [item for item in args.overrides if item.startswith(("policy.kind", "policy.model", "policy.advantage"))]
    if args.initial and fixed:
        raise ConfigError(f"--initial {args.initial}: its model and advantage bins are given; leave out {fixed}")
    config = load_policy_config(args.task, args.preset, args.overrides)
    initial = resolve_policy(args.initial, task=args.task) if args.initial else None
    with Bars() as bars:
        dataset = open_dataset(args.data, load_task(args.task, args.preset, args.overrides), progress=bars.decoding)
        codec = config.advantage if initial is None else initial.codec
        if args.plain:
            bins = np.full(dataset.num_frames, codec.unconditional, np.int64)
        else:
            bins, codec = advantage_bins_of(*measured_advantages(dataset, args.labels), codec)
        budget = Budget(steps=args.steps or config.training.steps)
        if args.minutes is not None:
            budget = Budget(seconds=60 * args.minutes)
        training = BehaviourCloning(
            dataset, bins, config, args.out, budget,
            codec=codec, initial=initial, first=args.episodes, device=resolve_device(args.device),
            report=bars.training, closed_loop_eval=_closed_loop_eval(args) if args.closed_loop_eval else None,
        )  # fmt: skip
        say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {args.out}/tensorboard")
        train_policy(training)
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {args.out / 'model'}")
    return 0


def _closed_loop_eval(args: argparse.Namespace) -> Callable[[Policy], dict[str, float]]:
    """A function that lets a policy act in the environment."""
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.progress import say

    def measure(policy: Policy) -> dict[str, float]:
        asked = policy.codec.unconditional if args.plain else policy.codec.best_bin
        result = evaluate(args.env, PolicyActor(policy, asked), args.closed_loop_eval, _FIRST_SEED)
        low, high = result.success_interval
        say(f"success {result.success_rate:.1%} ({low:.1%} to {high:.1%}), {result.failure_modes}")
        return {"success": result.success_rate, "score": result.score_mean}

    return measure
