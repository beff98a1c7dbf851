"""Record demonstrations and train a base policy on them: one command from nothing to a policy that lacks skill.

  rise train base --out runs/base
  rise train base --task brick_sorting --steps 5200 --out runs/longer

How many demonstrations of whom, how many updates: section `base` of the task's preset (`--set base.steps=1300`). The
policy is evaluated at the end, and `base.json` beside it says how it fails. The data lie in `RUN/data`. Run the same
command again to go on after an interruption.
"""

from __future__ import annotations

import argparse

from rise_agents.cli.options import at_least

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument(
        "--closed-loop-eval", type=at_least(0), default=0, metavar="N",
        help="episodes at every evaluation: the success curve in TensorBoard (default: none)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Record, train, evaluate, print."""
    from rise_agents.cli.train import training_setup
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.pipelines.config import load_base_config
    from rise_agents.pipelines.policy import FIRST_SEED, closed_loop_eval, train_policy_on
    from rise_agents.pipelines.recording import record
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.progress import episode_bar
    from rise_env.errors import ConfigError
    from rise_env.files import write_json
    from rise_env.provenance import provenance
    from rise_env.tasks import cell_id

    if fixed := [item for item in args.overrides if item.startswith(("task.", "cell."))]:
        raise ConfigError(f"--set {' '.join(fixed)}: recordings and evaluation follow the preset; change it there")
    env_id, config = cell_id(args.task), load_base_config(args.task, args.preset, args.overrides)
    args.overrides = [*config.settings, *args.overrides]
    args.data = args.data or record(args.out / "data", config.recordings, args.task, args.preset)
    steps = None if args.minutes is not None else args.steps or config.steps
    with training_setup(args) as setup:
        measure = None
        if args.closed_loop_eval:
            measure = closed_loop_eval(env_id, args.closed_loop_eval, False, setup.log)
        policy = train_policy_on(
            setup, args.out, None, steps=steps, minutes=args.minutes, measure=measure, demonstrations=True,
            encoders=config.encoders or None,
        )  # fmt: skip
    with episode_bar(config.episodes, f"base in {env_id}") as on_episode:
        result = evaluate(
            env_id, PolicyActor(policy), config.episodes, FIRST_SEED,
            env_kwargs={"preset": args.preset}, on_episode=on_episode,
        )  # fmt: skip
    low, high = result.success_interval
    told = {"env": env_id, "data": [str(path) for path in args.data], "steps": steps}
    write_json(args.out / "base.json", {**result.to_dict(), **told, "provenance": provenance(told, FIRST_SEED)})
    print(f"success {result.success_rate:.1%} (95 % interval {low:.1%} to {high:.1%}) of {result.episodes} episodes")
    print(f"failures: {', '.join(f'{mode} {count}' for mode, count in result.failure_modes.items()) or 'none'}")
    print(f"model: {args.out / 'model'}")
    return 0
