"""Progress bars of the command line."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

__all__ = ["advance", "bar", "say"]


def bar(total: int, description: str, unit: str, **kwargs: Any) -> tqdm:
    """A progress bar on standard error; where that is no terminal, a line every ten seconds."""
    quiet = not sys.stderr.isatty()
    return tqdm(
        total=total, desc=description, unit=f" {unit}", mininterval=10 if quiet else 0.1, dynamic_ncols=True, **kwargs
    )


def advance(progress: tqdm, done: int) -> None:
    """Set how much is done."""
    progress.update(done - progress.n)


def say(message: str) -> None:
    """A line on standard error that does not tear a progress bar."""
    tqdm.write(message, file=sys.stderr)
