"""What limits a round of RISE on 1, 8, 64 GPUs: a small simulation from times and sizes.

  rise bench cluster_model --gpus 1 8 64
  rise bench cluster_model --gpus 8 64 --chunk-seconds 0.08 --learners 8

A round is what `rise improve --cluster` does: the observations of every shard go through the learner to a policy
worker, its chunks come back and go to the shard's world model; so many times in a row; then the learner trains, and the
weights that changed go to every machine. A round waits for the last shard. The result names the source of every input:
sizes are counted; times are goals, estimates or assumptions until they are given as measured.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from rise_env.errors import requirement

__all__ = ["add_arguments", "run", "simulate"]

#: Default, and where it comes from.
_INPUTS: dict[str, tuple[float, str]] = {
    "chunk_seconds": (0.05, "goal: official architecture, 4 steps, batch 16, one H200, per chunk; not measured"),
    "propose_seconds": (0.013, "estimate: pi0.5, 5.1 TFLOP per chunk at 400 TFLOP/s; not measured"),
    "update_seconds": (
        0.05,
        "estimate: action expert on 128 chunks, 12 TFLOP, and reading cached prompts; not measured",
    ),
    "observation_mb": (0.89, "counted: 3 views of 192x256 and joints, at two moments"),
    "weights_mb": (1720, "counted: 430 million weights of the action expert in fp32"),
    "network_gb_per_second": (22.0, "assumption: 200 Gbit/s between machines"),
    "store_gb_per_second": (2.0, "assumption: into, or out of, the object store by one process"),
    "call_seconds": (0.001, "assumption: one call of a Ray worker"),
    "straggling": (0.1, "assumption: deviation of the logarithm of a shard's time"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every benchmark has."""
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs")
    parser.add_argument(
        "--placement", choices=("shared", "apart"), default="shared",
        help="world model and policy on every GPU, or on half of them each (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--gpus-per-machine", type=int, default=8)
    parser.add_argument("--envs-per-gpu", type=int, default=16, help="environments per GPU")
    parser.add_argument("--shard", type=int, default=16, help="environments per batch")
    parser.add_argument("--horizon", type=int, default=2, help="chunks in a row")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--offline-ratio", type=float, default=0.6)
    parser.add_argument("--learners", type=int, default=1, help="GPUs that share an update, at no cost")
    for name, (value, source) in _INPUTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help=f"{source} ({value})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row per number of GPUs: seconds of a round by part, chunks per second, what takes longest."""
    given, require = vars(args), requirement("cluster_model")
    require.at_least(
        1, args, "gpus_per_machine", "envs_per_gpu", "shard", "horizon", "epochs", "batch_size", "learners"
    )
    require.within("[0, 1]", args, "offline_ratio")
    require.within("[0, inf)", args, *_INPUTS)
    require.positive(args, "network_gb_per_second", "store_gb_per_second")
    require(min(args.gpus) >= 1, f"gpus {args.gpus}: expected whole numbers from 1")
    sources = {name: source if given[name] == value else "given" for name, (value, source) in _INPUTS.items()}
    rows = [simulate(gpus, given) for gpus in args.gpus]
    for row in rows:
        row["efficiency"] = row["chunks_per_second"] / row["gpus"] / (rows[0]["chunks_per_second"] / rows[0]["gpus"])
    inputs = {name: {"value": given[name], "source": source} for name, source in sources.items()}
    return {"inputs": inputs, "rows": rows}


def simulate(gpus: int, given: dict[str, Any], rounds: int = 50) -> dict[str, Any]:
    """Mean seconds of the parts of a round.

    Args:
        gpus: GPUs in all; the learner shares the first ones.
        given: The arguments.
        rounds: Rounds to average over.
    """
    rng = np.random.default_rng(given["seed"])
    apart = given["placement"] == "apart" and gpus > 1
    imagining, proposing = (gpus // 2, gpus - gpus // 2) if apart else (gpus, gpus)
    learners = min(given["learners"], gpus)
    machines = math.ceil(gpus / given["gpus_per_machine"])
    envs = given["envs_per_gpu"] * gpus
    shards = math.ceil(envs / given["shard"])
    chunks = envs * given["horizon"]

    def stage(seconds: float, workers: int) -> float:
        """All shards on so many workers, each with its fixed share of them; the last one counts."""
        each = seconds * given["shard"] * rng.lognormal(0.0, given["straggling"], (rounds, shards))
        loads = np.zeros((rounds, workers))
        for shard in range(shards):
            loads[:, shard % workers] += each[:, shard]
        return given["horizon"] * float(loads.max(axis=1).mean())

    # Observations: from the worlds to the learner, and on to the policies.
    observations = chunks * given["observation_mb"] / 1000
    elsewhere = 1 - 1 / machines
    moving = 2 * observations * (1 / given["store_gb_per_second"] + elsewhere / given["network_gb_per_second"])
    new = given["batch_size"] * max(1 - given["offline_ratio"], 1 / given["batch_size"])
    updates = max(1, round(given["epochs"] * chunks / new))
    weights = given["weights_mb"] / 1000
    parts = {
        "imagine": stage(given["chunk_seconds"], imagining),
        "propose": stage(given["propose_seconds"], proposing),
        "observations": moving + 2 * given["horizon"] * shards * given["call_seconds"],
        # Every machine fetches the weights once; those that have them pass them on.
        "weights": weights / given["store_gb_per_second"] * 2
        + math.ceil(math.log2(machines)) * weights / given["network_gb_per_second"],
        "encode": chunks * given["propose_seconds"] / learners,  # by the learner, for frozen encoders
        "update": updates * given["update_seconds"] / learners,
    }
    if gpus == 1:  # one process
        parts |= {"observations": 0.0, "weights": 0.0}
    total = sum(parts.values())
    return {
        "gpus": gpus, "machines": machines, "chunks": chunks, "updates": updates, "seconds": parts,
        "chunks_per_second": chunks / total, "limited_by": max(parts, key=lambda name: parts[name]),
    }  # fmt: skip
