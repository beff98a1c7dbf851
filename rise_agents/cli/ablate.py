"""The paper's ablations: `rise compare` with the rows of `configs/<task>/compare/ablations.yaml`.

  rise ablate
  rise ablate --only offline_10 offline_60 --set seeds=[0,1,2]

What cannot be left out on one base policy and one world model (the number of advantage bins, the parts that the world
model is trained with) is listed in the report with the reason. See `rise compare --help` for everything else.
"""

from __future__ import annotations

import argparse

from rise_agents.cli import compare

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    compare.add_arguments(parser, "ablations")


def run(args: argparse.Namespace) -> int:
    """Compare."""
    return compare.run(args)
