"""Measure speed and truth: JSON with hardware, git revision and seed, so that a table can be made again.

  rise bench cell --json out/bench-cell.json
  rise bench imagination --json out/bench-imagination.json
  rise bench truth --states 64 --json out/truth.json --pictures out/truth

`cell`: physics, rendering, recording. `imagination`: chunks per second by batch size, with the split encode, denoise,
decode, value, environment. `truth`: the same chunks from the same saved states in the work cell and in imagination.
The last two use the task's bundle unless `--world-model` (and `--starts`) or `--bundle` say otherwise.

Benchmarks live in `benchmarks/` of the repository and run from a checkout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", choices=list(_BENCHMARKS), help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, not a measurement")
    parser.add_argument("--task", default="brick_sorting", help="task (default: %(default)s)")
    parser.add_argument("--preset", default="small", help="preset (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle (default: the task's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--states", type=int, default=64, help="truth: start states (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=900_000, help="truth: seed of the first state (default: %(default)s)"
    )
    parser.add_argument("--truth-set", type=Path, metavar="NPZ", help="truth: keep the ground truth here for reuse")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="truth: write pictures and a video, true above imagined"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_env.files import to_json, write_json
    from rise_env.provenance import provenance

    try:
        import benchmarks  # noqa: F401
    except ImportError as error:
        raise ConfigError("benchmarks are not part of an installed package: run `rise bench` in a checkout") from error
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    result = _BENCHMARKS[args.what](args)
    config = {key: str(value) for key, value in vars(args).items() if value is not None}
    content = {"benchmark": args.what, "quick": args.quick, **result, "provenance": provenance(config, args.seed)}
    print(to_json({key: value for key, value in content.items() if key != "provenance"}))
    if args.json:
        write_json(args.json, content)
        print(f"json: {args.json}")
    return 0


def _cell(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import cell
    from rise_agents.cli.progress import say

    return cell.measure(quick=args.quick, on_step=lambda name: say(f"measuring: {name}"))


def _imagination(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import imagination
    from rise_agents.cli.progress import say

    kwargs = {"task": args.task, "device": args.device}
    if args.bundle:
        kwargs = {"bundle": str(args.bundle), "device": args.device}
    batches = (1, 4) if args.quick else imagination.BATCHES
    return imagination.measure(kwargs, batches, on_batch=lambda count: say(f"measuring: batch {count}"))


def _truth(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import truth
    from benchmarks.truth_pictures import write_pictures
    from benchmarks.truth_set import TruthSet, collect_truth
    from rise_agents.cli.progress import bar, say
    from rise_env.bundle import find_bundle, load_bundle
    from rise_robot.cell.config import load_cell

    bundle = load_bundle(args.bundle or find_bundle(args.task))
    model = bundle.world_model(device=args.device)
    spec, config = load_cell(args.task, args.preset)
    if args.truth_set and args.truth_set.exists():
        found = TruthSet.load(args.truth_set)
        say(f"{args.truth_set}: {len(found.seeds)} states")
    else:
        with bar(args.states, "running chunks in the cell", "states") as progress:
            found = collect_truth(spec, config, args.states, args.seed, progress.update)
        if args.truth_set:
            found.save(args.truth_set)
    with bar(len(found.seeds), "imagining", "states") as progress:
        imagined = truth.imagine(model.dynamics, model.value, found, spec.prompt, on_state=progress.update)
    if args.pictures:
        for path in write_pictures(args.pictures, found, imagined, list(spec.cameras), spec.fps // spec.stride):
            say(f"picture: {path}")
    return truth.measure(found, imagined, list(spec.cameras))


_BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cell": _cell,
    "imagination": _imagination,
    "truth": _truth,
}
