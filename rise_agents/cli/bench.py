"""Measure the project's speed: JSON with hardware, git revision and seed, so that a table can be made again.

  rise bench cell --json out/bench-cell.json

Benchmarks live in `benchmarks/` of the repository and run from a checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", choices=["cell"], help="what to measure: cell (physics, rendering, recording)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, not a measurement")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.cli.progress import say
    from rise_env.files import to_json, write_json
    from rise_env.provenance import provenance

    try:
        from benchmarks import cell
    except ImportError as error:
        raise ConfigError("benchmarks are not part of an installed package: run `rise bench` in a checkout") from error

    result = cell.measure(quick=args.quick, on_step=lambda name: say(f"measuring: {name}"))
    content = {"benchmark": args.what, "quick": args.quick, **result, "provenance": provenance(seed=0)}
    print(to_json({key: value for key, value in content.items() if key != "provenance"}))
    if args.json:
        write_json(args.json, content)
        print(f"json: {args.json}")
    return 0
