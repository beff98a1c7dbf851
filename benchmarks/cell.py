"""Speed of the work cell: physics, rendering, whole episodes with recording, and vector environments.

One core where nothing else is said (the process is pinned to one); every number is the median of several repetitions.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium

from rise_agents.progress import say
from rise_env.tasks import TaskSpec, cell_id
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.collect import collect, episode_rng
from rise_robot.cell.config import CellConfig, load_cell
from rise_robot.cell.render import CellRenderer

__all__ = ["add_arguments", "run"]

_SIZES = ((48, 64), (96, 128), (192, 256))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every benchmark has."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds, seconds per episode, control steps and chunks per second."""
    env_id, quick = cell_id(args.task), args.quick
    spec, config = load_cell(args.task, args.preset or "small")
    repeats, steps, episodes = (1, 10, 2) if quick else (5, 100, 12)
    result: dict[str, Any] = {"task": spec.name}
    with _one_core():
        say("measuring: physics")
        cell = WorkCell(spec, config)
        cell.reset(episode_rng(0))
        result["control_step_ms"] = _milliseconds(lambda: cell.step(cell.command), steps, repeats)
        result["control_steps_per_second"] = 1000 / result["control_step_ms"]
        expert = cell.task.scripted("expert", 0)
        cell.reset(episode_rng(0))  # what the steps above have changed may leave nothing to plan
        result["expert_plan_ms"] = {
            "1 step": _milliseconds(lambda: expert.plan(1), steps, repeats),
            f"{spec.chunk} steps": _milliseconds(lambda: expert.plan(spec.chunk), steps // 5, repeats),
        }
        say("measuring: rendering")
        renderer = CellRenderer(cell.model, cell.data, config.supersample)
        cameras = list(spec.cameras)
        result["render_ms"] = {
            f"{h}x{w}": _milliseconds(lambda size=(h, w): renderer.render(cameras, size), steps // 2, repeats)
            for h, w in _SIZES
        }
        say("measuring: recorded episodes")
        result["recorded_episode_seconds"] = _recorded(spec, config, episodes, repeats)
    say("measuring: vector environments")
    counts = (1, 4) if quick else (1, 8, 32)
    result["vector"] = [
        _vector(env_id, args.preset or "small", count, workers, quick)
        for count in counts
        for workers in (0, 2)
        if workers <= count
    ]
    return result


@contextmanager
def _one_core() -> Iterator[None]:
    """Pin this process to one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _milliseconds(call: Callable[[], object], steps: int, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps):
            call()
        times.append((time.perf_counter() - start) / steps * 1e3)
    return statistics.median(times)


def _recorded(spec: TaskSpec, config: CellConfig, episodes: int, repeats: int) -> dict[str, float]:
    """Seconds per expert episode: simulated, rendered and recorded, the final commit included."""
    found: dict[str, list[float]] = {"without_tail": [], "with_tail": []}
    with tempfile.TemporaryDirectory() as folder:
        collect(spec, config, "expert", 1, 0, f"{folder}/warm-up")  # lerobot takes seconds to import
        for repeat in range(min(repeats, 3)):
            for name, tail in (("without_tail", 0.0), ("with_tail", None)):
                start = time.perf_counter()
                collect(spec, config, "expert", episodes, 0, f"{folder}/{name}-{repeat}", tail_seconds=tail)
                found[name].append((time.perf_counter() - start) / episodes)
    return {name: statistics.median(values) for name, values in found.items()}


def _vector(env_id: str, preset: str, num_envs: int, workers: int, quick: bool) -> dict[str, Any]:
    """Chunks per second of an expert-driven vector environment, asking the expert included."""
    envs: Any = gymnasium.make_vec(
        env_id, num_envs=num_envs, num_workers=workers, autoreset_mode="same_step", preset=preset
    )
    try:
        envs.reset(seed=0)
        rounds = 2 if quick else max(6, 48 // num_envs)
        start = time.perf_counter()
        for _ in range(rounds):
            envs.step(envs.unwrapped.scripted_chunks("expert"))
        seconds = time.perf_counter() - start
    finally:
        envs.close()
    return {"num_envs": num_envs, "num_workers": workers, "chunks_per_second": num_envs * rounds / seconds}
