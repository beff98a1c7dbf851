"""Improve a policy in imagination.

  rise improve --agent selective_rise --policy base --data data/* --labels v1 --seed 0 --out runs/rise
  rise evaluate --policy runs/rise --episodes 200

The policy starts chunks from recorded states of `--data`, the world model of the task's bundle imagines them, and the
policy is trained on what came of them. Without `--data`, the start states of the bundle and the chunks recorded there
serve, scored by imagination. An agent is `configs/<task>/agent/<name>.yaml`, the path of such a file, or the name of an
algorithm (`rise info` lists them); `--set` changes settings, such as `--set num_candidates=4 epochs=8`. The run folder
holds `model/`, `metrics.json`, `tensorboard/` and the full state: run the same command again to go on after an
interruption, to the very same result.

It ends with `report.html` (and `judgement.json`): whether the policy got better in imagination, whether imagination can
be believed, and what neither says. The same command makes both again for a run that is finished. A value that does not
rank recorded episodes stops the command before it starts, unless --despite-ranking is given.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rise_agents.cli.aliases import add_alias
from rise_agents.cli.options import add_dataset_keys, add_imagine, add_skip, at_least, finite, folder

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--agent", default="rise", help="agent (default: %(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--task",
        help="task name, or folder of a task (default: that of --bundle, else of --policy, else brick_sorting)",
    )
    where.add_argument("--env", metavar="ID", help="another imagination than the task's own")
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="DIR", help="recordings (default: the bundle's states)"
    )
    parser.add_argument("--labels", metavar="TAG", help="tag of their advantages, with --data")
    add_dataset_keys(parser)
    add_skip(parser)
    parser.add_argument("--chunks", type=at_least(1), help="chunks to imagine (default: the agent's)")
    parser.add_argument(
        "--real-steps", type=at_least(1), metavar="N",
        help="control steps to take, of agents that act in the work cell (default: the agent's)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=finite, help="stop after so much time although budget is left")
    parser.add_argument("--seed", type=at_least(0), help="seed of everything random (default: the agent's, else 0)")
    parser.add_argument("--out", type=folder, required=True, metavar="RUN", help="run folder; an old one is resumed")
    parser.add_argument("--num-envs", type=at_least(1), help="imaginations at once (default: the agent's)")
    parser.add_argument(
        "--starts", type=at_least(1), metavar="N", help="recorded states to start from (default: the agent's)"
    )
    parser.add_argument(
        "--oracle", action="store_true",
        help="the work cell in place of imagination: an upper bound, not a method (needs --data)",
    )  # fmt: skip
    add_alias(parser, "--true-world", "--oracle", nargs=0, const=True)
    parser.add_argument(
        "--audit", type=at_least(0), default=0, metavar="N",
        help="before, every other minute and after, compare imagination with the cell: four candidates of the policy "
        "from each of N states (nothing is learned from it)",
    )  # fmt: skip
    parser.add_argument(
        "--bundle", type=Path, metavar="BUNDLE", help="directory or Hub id, in place of the shipped bundle"
    )
    add_imagine(parser)
    parser.add_argument(
        "--despite-ranking", action="store_true",
        help="go on although the value does not rank recorded episodes: what it teaches is nothing, or wrong",
    )  # fmt: skip
    parser.add_argument(
        "--judge", type=at_least(0), default=64, metavar="N",
        help="recorded states from which the report compares the policies before and after (default: %(default)s; 0 "
        "for no report)",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", type=Path, metavar="FILE",
        help="imagine and propose on several devices or machines through Ray (docs/scaling.md)",
    )  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="agent settings; `rise info --settings rise` lists those of the agent rise")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Improve."""
    from rise_agents.pipelines.improve import Ingredients, improve
    from rise_agents.pipelines.judge import Commands, judge
    from rise_agents.policies.resolve import resolve_policy, takes_any_task, task_of
    from rise_agents.progress import say
    from rise_agents.training.cluster.placement import load_cluster
    from rise_agents.training.presets import load_agent_preset, parse_settings
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.errors import ConfigError
    from rise_env.tasks import imagination_id, name_of_task

    if args.labels is not None and not args.data:
        raise ConfigError("--labels are of the recordings of --data, and there are none: give both, or neither")
    cluster = None if args.cluster is None else load_cluster(args.cluster)
    task = args.task if args.env is None else task_of(args.env)
    policy = None if takes_any_task(args.policy) else resolve_policy(args.policy)
    if args.bundle is None and task is None:
        if args.env is not None:
            raise ConfigError(f"{args.env} is of no task: give --bundle")
        task = policy.spec.name if policy else "brick_sorting"
    bundle = load_bundle(args.bundle or find_bundle(task or ""))
    name = bundle.spec.name
    if task is not None and name_of_task(task) != name:
        raise ConfigError(
            f"bundle {bundle.path} is of task {name!r}, not of {task!r}: leave --task out, or give another"
        )
    env_id = args.env or imagination_id(name)
    say(f"imagining with {bundle.path}")
    agent = load_agent_preset(args.agent, task or name).replace(
        {**parse_settings(args.overrides), **({} if args.seed is None else {"seed": args.seed})},
        chunks=args.chunks, real_steps=args.real_steps, num_envs=args.num_envs, start_states=args.starts,
    )  # fmt: skip
    policy = policy or resolve_policy(args.policy, bundle=bundle)
    opening = {name: getattr(args, name) for name in ("state_key", "action_key", "trust_layout", "skip_bad_episodes")}
    ingredients = Ingredients(
        bundle, env_id, args.data, args.labels, args.oracle, opening=opening, despite_ranking=args.despite_ranking
    )
    improved = improve(agent, policy, ingredients, args.out, minutes=args.minutes, cluster=cluster,
                       audit_states=args.audit, note=say)  # fmt: skip
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"policy: {args.out / 'model'}")
    if args.judge:
        again = shlex.join(["rise", *sys.argv[1:]])
        before = resolve_policy(args.policy, bundle=bundle)  # as it was
        commands = Commands(again, args.policy, task or name)
        found = judge(args.out, before, improved.policy, ingredients, commands, states=args.judge, note=say)
        print(found.summary)
        print(f"report: {args.out / 'report.html'}")
    return 0
