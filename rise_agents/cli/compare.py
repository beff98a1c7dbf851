"""Compare agents: one base policy, the same recordings, budget and episodes; a table, curves and films.

  rise compare short
  rise compare full --out out/full --jobs 8
  rise compare short --only rise selective_rise --set seeds=[0,1,2] chunks=20000 episodes=400

A comparison is `configs/<task>/compare/<name>.yaml` (or the path of such a file): rows, each an agent with settings or
the base policy acting in another way, training seeds, budget and episodes. `short` is meant for half an hour on two
idle cores, `full` for a night. Data are recorded and labelled once. Every row and seed is a run folder of its own below
`--out`, with its TensorBoard files; runs go side by side and go on after a kill when the command is given again.
The result is `report.html`, `comparison.json` and `table.md`; `--docs` puts the table into a page.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rise_agents.cli.options import add_imagine, at_least, cell_of, folder
from rise_env.files import read_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser, default: str = "short") -> None:
    """Declare the arguments."""
    parser.add_argument("name", nargs="?", default=default, help="what to compare (default: %(default)s)")
    parser.add_argument("--task", default="brick_sorting", help="task whose file it is (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to run, beside those they are compared with")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="other settings than the file's, such as episodes=50 seeds=[0,1]")  # fmt: skip
    parser.add_argument("--policy", default="base", help="policy that all start from (default: the bundle's)")
    parser.add_argument(
        "--bundle", type=Path, metavar="BUNDLE", help="directory or Hub id, in place of the shipped bundle"
    )
    add_imagine(parser)
    parser.add_argument("--out", type=folder, metavar="DIR", help="directory (default: out/compare-NAME)")
    parser.add_argument("--jobs", type=at_least(1), help="runs at once (default: one per core)")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table between the markers of this page")


def run(args: argparse.Namespace) -> int:
    """Compare, print the table, write the page."""
    from rise_agents.pipelines.compare import Comparison
    from rise_agents.pipelines.compare_config import load_compare_config
    from rise_agents.reporting.comparison import docs_section, markdown_table, replace_section

    cell_of(args.task)  # without one there is nowhere to compare policies in, which is said now
    title = Path(args.name).stem
    config = load_compare_config(args.name, args.task.replace("-", "_"), args.overrides, args.only)
    out = args.out or Path("out") / f"compare-{title}"
    command = shlex.join(["rise", *sys.argv[1:]]) if Path(sys.argv[0]).name == "rise" else f"rise compare {title}"
    rows = Comparison(config, out, args.policy, args.bundle, args.jobs, title, command).run()
    print(markdown_table(rows))
    if args.docs:
        content = read_json(out / "comparison.json", dict[str, Any])
        replace_section(args.docs, title, docs_section(content, rows))
    print(f"report: {(out / 'report.html').resolve()}")
    return 0
