"""Memory over many environment steps: does imagination, does the cell grow?

  rise bench endurance --seed 0 --threads 1 --json out/endurance.json
  rise bench endurance --steps 2000 --only cell

Random actions in vector environments that reset themselves; every so often all of them are rendered. Steps count over
all environments; one is a whole chunk. A straight line is fitted to what the process holds after the first fifth of the
steps: memory (RSS), open files and objects that Python's collector knows. Flat means that over all steps the line rises
by no more than `--bound` and by no whole file; objects are told. Imagination has random weights in the shape of
`--preset` (tiny), or is that of `--bundle`.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from benchmarks.random_model import random_starts, random_world_model
from rise_agents.progress import say
from rise_env.errors import ConfigError
from rise_env.tasks import cell_id, imagination_id, name_of_task
from rise_env.world_model import resolve_device

__all__ = ["add_arguments", "measure", "run"]

_KINDS = ("imagination", "cell")
_SAMPLES, _FEW_SAMPLES = 50, 5  # looked at memory so often; with --quick
_WARM_UP = 0.2  # share of the steps before the line begins: caches fill
_RENDER_EVERY = 10  # calls of `step`
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every benchmark has."""
    parser.add_argument("--steps", type=int, help="environment steps of each kind (default: 100000)")
    parser.add_argument("--num-envs", type=int, default=8, help="environments side by side (default: %(default)s)")
    parser.add_argument("--bound", type=float, default=16.0, metavar="MIB", help="of growth (default: %(default)s)")
    parser.add_argument("--only", choices=_KINDS, help="this kind alone")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What the process holds over many steps, for each kind of environment."""
    steps, samples = args.steps or (400 if args.quick else 100_000), _FEW_SAMPLES if args.quick else _SAMPLES
    if args.num_envs < 1 or steps < samples * args.num_envs:
        raise ConfigError(f"--steps is {steps}, --num-envs {args.num_envs}: expected {samples} steps or more for each")
    rows = {}
    for kind in _KINDS if args.only is None else (args.only,):
        envs = _imagination(args) if kind == "imagination" else _cell(args)
        try:
            rows[kind] = measure(envs, steps, samples, bound=args.bound, seed=args.seed, name=kind)
        finally:
            envs.close()
    return {"steps": steps, "num_envs": args.num_envs, "preset": args.preset or "tiny", "kinds": rows}


def _imagination(args: argparse.Namespace) -> Any:
    parts: dict[str, Any] = {"bundle": args.bundle}
    if args.bundle is None:
        model = random_world_model(args.task, args.preset or "tiny", device=resolve_device(args.device), seed=args.seed)
        parts = {"world_model": model, "starts": random_starts(model.spec, seed=args.seed)}
    env_id = imagination_id(name_of_task(args.task))
    return gymnasium.make_vec(env_id, num_envs=args.num_envs, render_mode="rgb_array", **parts)


def _cell(args: argparse.Namespace) -> Any:
    """All cells are in this process, whose memory is looked at."""
    return gymnasium.make_vec(
        cell_id(args.task),
        num_envs=args.num_envs,
        num_workers=0,
        render_mode="rgb_array",
        preset=args.preset or "tiny",
    )


def measure(envs: Any, steps: int, samples: int, *, bound: float, seed: int, name: str) -> dict[str, Any]:
    """Step a vector environment with random actions.

    Args:
        envs: A vector environment that resets itself.
        steps: Environment steps, over all environments.
        samples: How often to look.
        bound: Growth of memory that still counts as flat, MiB.
        seed: Of environments and actions.
        name: For messages.

    Returns:
        Growth of the fitted lines over all steps, whether that is flat, and the samples themselves.
    """
    calls = -(-steps // envs.num_envs)
    marks = set(np.linspace(0, calls, samples + 1).astype(int).tolist())
    envs.action_space.seed(seed)
    envs.reset(seed=seed)
    rows, episodes, began = [], 0, time.perf_counter()
    for call in range(calls + 1):
        if call in marks:
            rows.append({"steps": call * envs.num_envs, **_held()})
            say("{}: {steps:>7} steps, {rss_mib:8.1f} MiB, {open_files} files, {objects} objects".format(
                name, **rows[-1]))  # fmt: skip
        if call == calls:
            break
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        episodes += int((terminated | truncated).sum())
        if call % _RENDER_EVERY == 0:
            envs.render()
    seconds = time.perf_counter() - began
    line = rows[int(_WARM_UP * len(rows)) :]
    done = [row["steps"] for row in line]
    growth = {key: float(np.polyfit(done, [row[key] for row in line], 1)[0]) * steps for key in _held()}
    return {
        "flat": growth["rss_mib"] <= bound and growth["open_files"] < 1,
        "growth": {key: round(value, 3) for key, value in growth.items()},
        "bytes_per_step": round(growth["rss_mib"] * _MIB / steps, 1),
        "bound_mib": bound,
        "episodes": episodes,
        "seconds": round(seconds, 1),
        "samples": rows,
    }


def _held() -> dict[str, Any]:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return {"rss_mib": round(pages * _PAGE / _MIB, 2), "open_files": files, "objects": len(gc.get_objects())}
