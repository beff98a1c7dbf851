"""Train a policy on recorded chunks: demonstrations at the best advantage, rollouts at their labelled one.

  rise label data/operator --value runs/value/model --tag v1
  rise label data/expert   --value runs/value/model --tag v1 --demonstrations
  rise train policy --data data/operator data/expert --labels v1 --out runs/policy --try-out 50
  rise train policy --data data/operator --plain --out runs/bc

`--plain` clones whatever was recorded, without advantages. With `--try-out N` the policy acts in the environment
`--env` for N episodes (seeds from 500000) at every evaluation, so that its success curve lies beside its loss in
TensorBoard: a policy whose curve still rises is not a base to improve. The run folder holds `model/`, `metrics.json`,
`tensorboard/` and the full state, from which a run by `--steps` goes on to the very same result after any interruption.
"""

from __future__ import annotations

import argparse
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]

_TRY_OUT_SEED = 500_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--labels", metavar="TAG", help="tag of the advantages that `rise label` wrote")
    which.add_argument("--plain", action="store_true", help="plain behaviour cloning, without advantages")
    parser.add_argument("--initial", metavar="POLICY", help="policy to go on from")
    parser.add_argument("--episodes", type=int, metavar="N", help="use the first N episodes only")
    parser.add_argument(
        "--try-out", type=int, default=0, metavar="N", help="closed-loop episodes at every evaluation (default: none)"
    )
    parser.add_argument("--env", default="RISE-BrickSorting-Cell-v0", help="where to try out (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print."""
    import numpy as np

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.algorithms.bc import WarmUp, train_policy
    from rise_agents.cli.bars import Bars
    from rise_agents.cli.progress import say
    from rise_agents.policies.config import load_policy_config
    from rise_agents.policies.data import advantage_bins_of, measured_advantages
    from rise_env.data import open_dataset
    from rise_env.tasks import load_task
    from rise_env.training.loop import Budget
    from rise_env.world_model import resolve_device

    config = load_policy_config(args.task, args.preset, args.overrides)
    initial = _initial(args)
    with Bars() as bars:
        dataset = open_dataset(args.data, load_task(args.task, args.preset, args.overrides), progress=bars.decoding)
        codec = config.advantage if initial is None else initial.codec
        if args.plain:
            levels = np.full(dataset.num_frames, codec.unconditional, np.int64)
        else:
            levels, codec = advantage_bins_of(*measured_advantages(dataset, args.labels), codec)
        budget = Budget(steps=args.steps or config.training.steps)
        if args.minutes is not None:
            budget = Budget(seconds=60 * args.minutes)
        training = WarmUp(
            dataset, levels, config, args.out, budget,
            codec=codec, initial=initial, first=args.episodes, device=resolve_device(args.device),
            report=bars.training, try_out=_try_out(args) if args.try_out else None,
        )  # fmt: skip
        say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {args.out}/tensorboard")
        train_policy(training)
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {args.out / 'model'}")
    return 0


def _initial(args: argparse.Namespace) -> Any:
    """The policy to go on from, if one was named."""
    from rise_agents.policies.flow_policy import FlowPolicy
    from rise_agents.policies.resolve import find_policy

    if not args.initial:
        return None
    fixed = [item for item in args.overrides if item.startswith(("policy.model", "policy.advantage"))]
    if fixed:
        raise ConfigError(f"--initial {args.initial}: its model and levels are given; leave out {fixed}")
    path = find_policy(args.initial, args.task)
    if path is None:
        raise ConfigError(f"--initial {args.initial}: there is no such policy")
    return FlowPolicy.from_pretrained(path)


def _try_out(args: argparse.Namespace) -> Any:
    """A function that lets a policy act in the environment."""
    from rise_agents.cli.progress import say
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.base import Policy

    def try_out(policy: Policy) -> dict[str, float]:
        level = policy.codec.unconditional if args.plain else policy.codec.best_bin
        result = evaluate(args.env, PolicyActor(policy, level), args.try_out, _TRY_OUT_SEED)
        low, high = result.success_interval
        say(f"success {result.success_rate:.1%} ({low:.1%} to {high:.1%}), {result.failure_modes}")
        return {"success": result.success_rate, "score": result.score_mean}

    return try_out
