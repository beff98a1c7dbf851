"""Write a policy for other programs: `--lerobot` as a directory that LeRobot loads.

  rise export --lerobot runs/diffusion outputs/improved
  lerobot-eval --policy.path=outputs/improved --env.type=rise --env.task=RISE-BrickSorting-Cell-v0

POLICY is a run folder, a checkpoint directory or a Hub id, OUT a directory that does not exist yet. LeRobot's
lerobot-eval and lerobot-rollout take it as --policy.path, and give the same chunks from the same noise: those for the
best advantage. It can be policies that LeRobot has: Diffusion, SmolVLA and pi0.5, improved here. See docs/lerobot.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--lerobot", action="store_true", required=True, help="as a checkpoint of LeRobot")
    parser.add_argument("policy", metavar="POLICY", help="run folder, checkpoint directory or Hub id")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write")


def run(args: argparse.Namespace) -> int:
    """Export."""
    from rise_agents.policies.lerobot_export import export_lerobot
    from rise_agents.policies.loading import load_policy
    from rise_agents.policies.resolve import find_policy
    from rise_env.errors import ConfigError
    from rise_env.files import refuse_existing

    refuse_existing(args.out)
    path = find_policy(args.policy)
    if path is None:
        raise ConfigError(f"policy {args.policy!r}: give a run folder, a checkpoint directory or a Hub id")
    policy = load_policy(path)
    export_lerobot(policy, args.out)
    print(f"{args.out}: {type(policy).__name__} of task {policy.spec.name}, {policy.spec.execute} actions per chunk")
    return 0
