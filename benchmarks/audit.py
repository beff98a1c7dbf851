"""Does imagination know which of a policy's own proposals is best?

  rise bench audit --policy base --states 64 --seed 960000 --json out/audit.json
  rise bench audit --policy runs/base --proposals both warp --event 0.4 --between 0.1 0.35
  rise bench audit --policy runs/base --proposals turn --lookahead 1 --between 0 0.3

Eight proposals from each of the states that the policy gets to itself, in imagination and in the work cell. What the
truly best one gains (`gain_of_true_best_over_first`) is all that choosing once can bring.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.models import bundle_of, world_model_of
from rise_agents.evaluation.audit import audit_policy
from rise_agents.policies.loading import advantage_bin_of
from rise_agents.policies.resolve import resolve_policy
from rise_env.tasks import cell_id

__all__ = ["add_arguments", "run"]

_CANDIDATES = 8  # per state


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="base", help="policy to audit (default: the bundle's)")
    parser.add_argument("--advantage", default="best", metavar="BIN", help="what to ask it for (default: %(default)s)")
    parser.add_argument("--states", type=int, default=64, help="start states (default: %(default)s)")
    parser.add_argument("--proposals", nargs="+", default=["policy"], metavar="KIND",
                        help="policy (default), wide, offset, warp, both, turn: where proposals come from")  # fmt: skip
    parser.add_argument("--lookahead", type=int, default=0, metavar="N",
                        help="chunks the policy goes on for before the judgement (default: %(default)s)")  # fmt: skip
    parser.add_argument("--event", type=float, metavar="PROGRESS",
                        help="progress at a chunk's end where something has happened (bricks: 0.4, held)")  # fmt: skip
    parser.add_argument("--between", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"),
                        help="count states of this progress only (bricks: 0.15 0.39, near and not held)")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    cell_id(args.task)  # without one there is no truth to compare with, which is said now
    policy = resolve_policy(args.policy, bundle=bundle_of(args))
    return audit_policy(
        policy, world_model_of(args),
        states=args.states, num_candidates=_CANDIDATES, seed=args.seed, preset=args.preset or "small",
        advantage_bin=advantage_bin_of(policy, args.advantage), proposals=args.proposals, event=args.event,
        between=tuple(args.between), lookahead=args.lookahead,
    )  # fmt: skip
