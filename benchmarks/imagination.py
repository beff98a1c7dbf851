"""Speed of imagination: chunks per second by batch size, split into encode, denoise, decode, value and environment.

  rise bench imagination --json out/bench-imagination.json
  rise bench imagination --preset paper --random --precision bf16 --compile --device cuda --json out/bench-paper.json

It measures the task's bundle unless `--bundle` or `--world-model` and `--starts` say otherwise. `--random` makes a
model in the shape of `--preset` and `--set` with random weights, which is as fast as a trained one; `paper` is the
published shape: the LTX transformer with 28 blocks of 32 heads, chunks of 50, 25 frames of 3 views at 192 x 256. One
that does not fit, or would take minutes per chunk, is refused with numbers; `--force` measures it all the same. What
does not change within a chunk is encoded once per chunk: latents of the history and, with the official transformer,
caption and actions. With the official transformer, the structure of the official implementation is timed beside ours
with the same weights (`--no-baseline` leaves it out), and the memory that training takes is counted.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import variant
from benchmarks.official_baseline import baseline_of, largest_difference
from benchmarks.random_model import check_affordable, count_cost, random_starts, random_world_model
from benchmarks.stopwatch import Stopwatch, peak_memory, reset_peak_memory
from rise_agents.progress import say
from rise_env.dynamics.config import PRECISIONS
from rise_env.dynamics.memory import training_memory
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.settings import from_environment
from rise_env.envs.sources import resolve
from rise_env.envs.starts import StartStates
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ConfigError
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel, resolve_device

__all__ = ["add_arguments", "describe", "measure", "run"]

_BATCHES = (1, 8, 32, 64)
#: Steps are repeated at least so often and for so long.
_REPEATS, _LEAST_SECONDS = 5, 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts", type=Path, metavar="DIR", help="start states instead of the bundle's")
    parser.add_argument(
        "--batch", type=int, nargs="+", metavar="N", help="numbers of environments (default: 1 8 32 64)"
    )
    parser.add_argument("--random", action="store_true", help="random weights in the shape of --preset")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
        help="with --random, such as dynamics.flow.steps=10",
    )  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, help="short for --imagine flow.precision=...")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="short for --imagine compile=true: the dynamics model; the value model is computed as it is",
    )
    parser.add_argument(
        "--no-baseline", action="store_true",
        help="leave out the structure of the official implementation, which is timed beside ours with the same weights "
        "where the transformer is the official one",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="measure a model that takes minutes per chunk here")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if any(count < 1 for count in args.batch or ()):
        raise ConfigError(f"--batch {' '.join(map(str, args.batch))}: environments are at least 1")
    imagine = {"flow.precision": args.precision} if args.precision else {}
    if args.compile:
        imagine |= {"compile": True, "compile_backend": args.compile}
    model, starts = (_random_parts if args.random else _trained_parts)(args, imagine)
    batches = tuple(args.batch or ((1, 4) if args.quick else _BATCHES))
    about = {**describe(model), "weights": "random" if args.random else "trained"}
    dynamics = model.dynamics
    baseline = None
    if isinstance(dynamics, LatentDynamics) and dynamics.config.transformer_kind == "official":
        training = training_memory(dynamics.config, dynamics.shape, batch_size=8)
        say(training.describe())
        about["training_bytes"] = training.to_dict()
        if not args.no_baseline:
            baseline = copy.copy(model)
            baseline.dynamics = baseline_of(dynamics)
    return {"model": about, **measure(model, starts, batches, args.quick, baseline)}


def _trained_parts(args: argparse.Namespace, imagine: dict[str, Any]) -> tuple[CompositionalWorldModel, StartStates]:
    if args.overrides or args.force:
        raise ConfigError("--set and --force go with --random: a trained model is as it is")
    try:
        starts, model, _ = resolve(
            task=args.task, preset=variant(args), dataset=None, uncertainty=None, max_batch=None, imagine=imagine,
            device=args.device, bundle=args.bundle, starts=args.starts, world_model=args.world_model,
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(f"{error} Or add --random to measure a preset with random weights.") from error
    return model, starts


def _random_parts(args: argparse.Namespace, imagine: dict[str, Any]) -> tuple[CompositionalWorldModel, StartStates]:
    if args.bundle or args.world_model or args.starts:
        raise ConfigError("--random makes a model and its start states: leave out --bundle, --world-model and --starts")
    device, preset = resolve_device(args.device), args.preset or "small"
    cost = count_cost(args.task, preset, args.overrides)
    say(check_affordable(cost, device, preset, force=args.force))
    model = random_world_model(args.task, preset, args.overrides, device, args.seed, {**from_environment(), **imagine})
    return model, random_starts(model.spec, seed=args.seed)


def measure(
    world_model: CompositionalWorldModel,
    starts: StartStates,
    batches: tuple[int, ...] = _BATCHES,
    quick: bool = False,
    baseline: CompositionalWorldModel | None = None,
) -> dict[str, Any]:
    """Time environments of a world model.

    The parts are timed inside whole steps, each without the parts that it calls, and wait for the device, so that
    nothing is hidden in a queue: `denoise`, `decode`, `reencode` (imagined frames into the next history; nothing where
    latents stay latent), `value` and `env_overhead` add up to the step, the median of several. `encode` (of recorded
    histories) happens at resets only. A batch that does not fit into the device's memory ends the list with a row that
    says so.

    Args:
        world_model: What imagines.
        starts: Where episodes begin.
        batches: Numbers of environments.
        quick: Two repetitions, however short.
        baseline: What to time beside it; then every row has the baseline's as well, how many times as fast ours is
            (`speedup`), and how far what they imagine in the first chunk lies apart at most, in latents.
    """
    rows = []
    for count in batches:
        say(f"measuring: batch {count}")
        try:
            rows.append(_one(world_model, starts, count, quick))
        except torch.OutOfMemoryError as error:
            rows.append({"num_envs": count, "out_of_memory": str(error).splitlines()[0]})
            break
        if baseline is not None:
            say(f"measuring: batch {count}, the official structure")
            rows[-1] |= _beside(rows[-1], world_model, baseline, starts, quick)
    return {"threads": torch.get_num_threads(), "batches": rows}


def describe(world_model: CompositionalWorldModel) -> dict[str, Any]:
    """What was measured, as plain values."""
    spec, dynamics, value = world_model.spec, world_model.dynamics, world_model.value
    parts = {"dynamics": dynamics, "value": value}
    content: dict[str, Any] = {
        "image_size": list(spec.image_size),
        "views": len(spec.cameras),
        "chunk": spec.chunk,
        "frames_per_chunk": spec.frames_per_chunk,
        "history": spec.history,
        "device": str(world_model.device),
        "value_reads_latents": value.reads_latents,
        "parameters": {name: sum(tensor.numel() for tensor in part.parameters())
                       for name, part in parts.items() if isinstance(part, torch.nn.Module)},
    }  # fmt: skip
    if isinstance(dynamics, LatentDynamics):
        config = dynamics.config
        with precision(config.flow.precision, dynamics.device):
            bf16 = torch.is_autocast_enabled(dynamics.device.type)
        official = ["caption and action tokens", "rotary positions"] if config.transformer_kind == "official" else []
        content |= {
            "transformer": config.transformer_kind,
            "autoencoder": config.autoencoder_kind,
            "compile": config.compile_backend if config.compile else None,
            "denoising_steps": config.flow.denoising_steps,
            "precision": "bf16" if bf16 else "fp32",
            "made_once_per_chunk": ["history latents", *official],
        }
    return content


def _one(world_model: CompositionalWorldModel, starts: StartStates, count: int, quick: bool) -> dict[str, Any]:
    device = world_model.device
    reset_peak_memory(device)
    envs = ImaginationVectorEnv(
        num_envs=count, autoreset_mode="disabled", max_chunks=10**6, success_threshold=float("inf"),
        starts=starts, world_model=world_model,
    )  # fmt: skip
    watch = Stopwatch(device, *((2, 0.0) if quick else (_REPEATS, _LEAST_SECONDS)))
    try:
        begin = time.perf_counter()
        envs.reset(seed=0)
        actions = _actions(envs)
        envs.step(actions)
        watch.wait()
        warm_up = time.perf_counter() - begin
        with watch.inside(world_model):
            # One chunk after another: each takes in what the one before it has imagined.
            step = watch.median(lambda: envs.step(actions))
            reset = watch.median(lambda: envs.reset(seed=0))
    finally:
        envs.close()
    total, opening = sum(step.values()), sum(reset.values())
    encode, step["reencode"] = reset["encode"], step.pop("encode")
    return {
        "num_envs": count,
        "chunks_per_second": count / total,
        "seconds_per_chunk": total / count,
        "step_seconds": total,
        "split_seconds": {"encode": encode, **step},
        "env_overhead_share": step["env_overhead"] / total,
        "reset_seconds_per_env": opening / count,
        "reset_seconds_per_env_without_encoding": (opening - encode) / count,
        "warm_up_seconds": warm_up,
        "peak_memory_bytes": peak_memory(device),
        "view_frames_per_second": count * world_model.spec.frames_per_chunk * len(world_model.spec.cameras) / total,
    }


def _beside(
    row: dict[str, Any],
    world_model: CompositionalWorldModel,
    baseline: CompositionalWorldModel,
    starts: StartStates,
    quick: bool,
) -> dict[str, Any]:
    """The baseline's part of a row."""
    try:
        theirs = _one(baseline, starts, row["num_envs"], quick)
        difference = _difference(world_model, baseline, starts, row["num_envs"])
    except torch.OutOfMemoryError as error:
        return {"baseline": {"out_of_memory": str(error).splitlines()[0]}}
    speedup = theirs["seconds_per_chunk"] / row["seconds_per_chunk"]
    return {"baseline": theirs, "speedup": speedup, "largest_difference": difference}


def _difference(
    ours: CompositionalWorldModel, theirs: CompositionalWorldModel, starts: StartStates, count: int
) -> float:
    some = starts.batch(np.arange(count) % len(starts))
    spec, device = ours.spec, ours.device
    history = History(torch.from_numpy(some.frames).to(device), torch.from_numpy(some.states).to(device), some.prompts)
    held = torch.from_numpy(some.states[:, -1:]).to(device).expand(count, spec.chunk, spec.layout.dim)
    dynamics: Any = ours.dynamics
    return largest_difference(dynamics, theirs.dynamics, dynamics.open(history), held)


def _actions(envs: ImaginationVectorEnv) -> np.ndarray:
    """Recorded chunks; where start states carry none, the middle of the joint limits."""
    actions, known = envs.recorded_actions()
    layout = envs.task.layout
    actions[~known] = (layout.low + layout.high) / 2
    return np.ascontiguousarray(actions, np.float32)
