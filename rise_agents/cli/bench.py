"""Measure speed and truth: JSON with hardware, git revision and seed, so that a table can be made again.

  rise bench imagination --json out/bench-imagination.json
  rise bench truth --states 64 --json out/truth.json --pictures out/truth
  rise bench truth --help

Benchmarks are modules of `benchmarks/` in the repository and run from a checkout. A module with a docstring,
`add_arguments(parser)` and `run(args) -> dict` is a benchmark, named after its file.
"""

from __future__ import annotations

import argparse
import ast
import importlib
from pathlib import Path

from rise_agents.cli.options import add_device, add_imagine, add_threads, at_least, imagining, new_file, set_threads
from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]

_PACKAGE = "benchmarks"  # in a checkout alone: it is never imported as part of this package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", metavar="NAME", help="what to measure")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; `rise bench NAME --help`")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_env.files import to_json, write_json
    from rise_env.provenance import provenance

    known = _benchmarks()
    if args.what not in known:
        lines = "".join(f"\n  {name}: {summary}" for name, summary in known.items())
        raise ConfigError(f"there is no benchmark {args.what!r}. Known:{lines}")
    module = importlib.import_module(f"{_PACKAGE}.{args.what}")
    parser = argparse.ArgumentParser(
        prog=f"rise bench {args.what}", description=module.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _add_common_arguments(parser)
    module.add_arguments(parser)
    given = parser.parse_args(args.rest)
    set_threads(given.threads)
    config = {"what": args.what, **{key: str(value) for key, value in vars(given).items() if value is not None}}
    with imagining(given):
        content = {"benchmark": args.what, "quick": given.quick, **module.run(given)}
    print(to_json(content))
    if given.json:
        write_json(given.json, {**content, "provenance": provenance(config, given.seed)})
        print(f"json: {given.json}")
    return 0


def _benchmarks() -> dict[str, str]:
    """Names of the benchmarks and the first lines of their docstrings; nothing heavy is imported for that."""
    try:
        folder = Path(importlib.import_module(_PACKAGE).__path__[0])
    except ImportError as error:
        raise ConfigError("benchmarks are not part of an installed package: run `rise bench` in a checkout") from error
    found = {}
    for file in sorted(folder.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if {"add_arguments", "run"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, not a measurement")
    parser.add_argument("--task", default="brick_sorting", help="task (default: %(default)s)")
    parser.add_argument("--preset", help="preset (default: that of the bundle; small for the cell)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle (default: the task's)")
    parser.add_argument("--world-model", type=Path, metavar="DIR", help="world model instead of the bundle's")
    add_device(parser)
    add_imagine(parser)
    add_threads(parser)
    parser.add_argument(
        "--seed", type=at_least(0), default=900_000, help="seed of states or weights (default: %(default)s)"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
