"""Speed of imagination and learning together: imagined chunks per second of an agent, and what an update takes.

  rise bench learning --threads 1 --json out/bench-learning.json
  rise bench learning --agent rise --chunks 4000 --set epochs=2

An agent improves the bundle's policy from the bundle's start states. What it does first (scoring of start states) is
timed apart. `chunks_per_second` depends on how much of what is imagined is learned, which changes while a policy
improves; `seconds_per_update` and `imagined_per_second` do not.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium

from rise_agents import make_agent
from rise_agents.algorithms.learner import FlowMatchingAlgorithm
from rise_agents.policies.resolve import resolve_policy
from rise_agents.progress import say
from rise_env.bundle import find_bundle, load_bundle
from rise_env.config import parse_override
from rise_env.errors import ConfigError
from rise_env.registry import ALGORITHMS
from rise_env.tasks import imagination_id

__all__ = ["add_arguments", "run"]

#: Settings of the measurement: few start states to score, and most of what is ahead is learned.
_SETTINGS: dict[str, dict[str, Any]] = {"selective_rise": {"scored_starts": 512, "min_advantage_gap": 0.0}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", default="selective_rise", help="algorithm (default: %(default)s)")
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument("--chunks", type=int, default=2048, help="imagined chunks to time (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, default=32, metavar="N", help="environments (default: %(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="settings of the algorithm, such as epochs=2")  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    if not issubclass(ALGORITHMS.load(args.agent), FlowMatchingAlgorithm):
        raise ConfigError(f"agent {args.agent!r} learns in another way: give rise, selective_rise or one of their kind")
    bundle = load_bundle(args.bundle or find_bundle(args.task, args.preset))
    policy = resolve_policy(args.policy, task=args.task, bundle=bundle)
    env = gymnasium.make_vec(
        imagination_id(bundle.spec.name), num_envs=args.num_envs, bundle=str(bundle.path),
        observation_lags=list(policy.lags), autoreset_mode="disabled",
    )  # fmt: skip
    settings: dict[str, Any] = {"offline_ratio": 0.0, **_SETTINGS.get(args.agent, {}), "seed": args.seed}
    for override in args.overrides:
        settings |= parse_override(override)
    algorithm = make_agent(args.agent, env, policy, **settings)
    return {"agent": args.agent, "settings": settings, **measure(algorithm, 512 if args.quick else args.chunks)}


def measure(algorithm: FlowMatchingAlgorithm[Any, Any], chunks: int) -> dict[str, Any]:
    """Time rounds of imagination and learning, from the end of the first one that learns.

    Args:
        algorithm: What to time.
        chunks: Imagined chunks to time; what is imagined before the first update is not counted.
    """
    learner, marks = algorithm.learner, [time.perf_counter()]
    first, updating, update = [0, 0], 0.0, learner.update

    def timed(*args: Any, **kwargs: Any) -> tuple[float, float]:
        nonlocal updating
        started = time.perf_counter()
        found = update(*args, **kwargs)
        updating += time.perf_counter() - started
        return found

    def on_round(_: Any) -> bool:
        nonlocal updating
        if learner.num_updates and len(marks) == 1:
            say(f"measuring: {chunks} chunks")
            first[:] = algorithm.num_timesteps, learner.num_updates
            marks.append(time.perf_counter())
            updating = 0.0
        return len(marks) == 1 or algorithm.num_timesteps - first[0] < chunks

    learner.update = timed  # type: ignore[method-assign]
    algorithm.learn(1_000_000, on_round)
    seconds = time.perf_counter() - marks[-1]
    imagined, updates = algorithm.num_timesteps - first[0], learner.num_updates - first[1]
    return {
        "seconds_before_learning": marks[-1] - marks[0],
        "chunks": imagined,
        "updates": updates,
        "updates_before": first[1],
        "seconds": seconds,
        "chunks_per_second": imagined / seconds,
        "imagined_per_second": imagined / (seconds - updating),
        "seconds_per_update": updating / max(updates, 1),
    }
