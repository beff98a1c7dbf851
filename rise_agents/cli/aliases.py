"""Old names of command-line options, which still work for one version and say so."""

from __future__ import annotations

import argparse
import sys
from typing import Any

__all__ = ["add_alias"]


def add_alias(parser: argparse.ArgumentParser, old: str, new: str, **kwargs: Any) -> None:
    """Accept the option `old` for `new`, hidden from the help, with a warning.

    Args:
        parser: Parser (or group) that knows `new`.
        old: e.g. "--noise".
        new: e.g. "--noise-scale".
        **kwargs: As `new` was declared with, e.g. `type`.
    """

    class Alias(argparse.Action):
        def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
            del parser, option
            print(f"rise: warning: {old} is now called {new}; the old name will go", file=sys.stderr)
            setattr(namespace, self.dest, self.const if self.nargs == 0 else values)

    kwargs.setdefault("default", argparse.SUPPRESS)
    parser.add_argument(old, dest=new.lstrip("-").replace("-", "_"), action=Alias, help=argparse.SUPPRESS, **kwargs)
