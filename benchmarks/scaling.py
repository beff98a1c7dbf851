"""Imagined chunks per second with one, two, ... workers of Ray on this machine, one core (or GPU) each.

  rise bench scaling --workers 1 2 --json out/scaling.json

Imagines candidates for a fixed number of environments in shards, as `rise improve --cluster` does. The goal is 0.9 of
so many times what one worker does. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium
import numpy as np

from rise_agents.progress import say
from rise_agents.training.cluster.placement import ClusterConfig
from rise_env.bundle import find_bundle
from rise_env.errors import requirement
from rise_env.tasks import imagination_id, name_of_task

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every benchmark has."""
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers")
    parser.add_argument("--num-envs", type=int, default=32, help="environments in all (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=4, help="chunks per state (default: %(default)s)")
    parser.add_argument("--shard", type=int, default=8, help="environments per batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds, after a first (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Chunks per second by number of workers, and over that of the first number, a worker."""
    from rise_agents.training.cluster.engine import Cluster

    requirement("scaling").at_least(1, args, "num_envs", "candidates", "shard", "repeats")
    requirement("scaling")(min(args.workers) >= 1, f"workers {args.workers}: expected whole numbers from 1")
    bundle = args.bundle or find_bundle(args.task, args.preset)
    env_id = imagination_id(name_of_task(args.task))
    kwargs = {"bundle": str(bundle), "autoreset_mode": "disabled", "max_batch": args.shard}
    here: Any = gymnasium.make_vec(env_id, num_envs=args.num_envs, device=args.device, **kwargs).unwrapped
    low, high = here.task.layout.low, here.task.layout.high
    shape = (args.num_envs, args.candidates, here.task.chunk, len(low))
    chunks = np.random.default_rng(args.seed).uniform(low, high, shape).astype(np.float32)
    rows = []
    for workers in args.workers:
        say(f"measuring: {workers} workers")
        placed = ClusterConfig(component_placement={"env": f"0-{workers - 1}"}, envs_per_shard=args.shard)
        with Cluster(placed) as cluster:
            env = cluster.environments(here, env_id, kwargs, bundle)
            seconds = []
            for number in range(1 + (1 if args.quick else args.repeats)):
                started = time.perf_counter()
                env.reset(seed=args.seed + number)
                env.evaluate_candidates(chunks)
                seconds.append(time.perf_counter() - started)
        rate = args.num_envs * args.candidates / statistics.median(seconds[1:])
        rows.append({"workers": workers, "chunks_per_second": rate, "first_round_seconds": seconds[0]})
    one = rows[0]["chunks_per_second"] / rows[0]["workers"]
    for row in rows:
        row["efficiency"] = row["chunks_per_second"] / (row["workers"] * one)
    return {"shard": args.shard, "num_envs": args.num_envs, "candidates": args.candidates, "workers": rows}
