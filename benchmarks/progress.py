"""Progress of a benchmark, on standard error."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

__all__ = ["bar", "say"]


def bar(total: int, description: str, unit: str, **kwargs: Any) -> tqdm:
    """A progress bar; where there is no terminal, a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10
    return tqdm(total=total, desc=description, unit=f" {unit}", mininterval=interval, dynamic_ncols=True, **kwargs)


def say(message: str) -> None:
    """A line that does not tear a progress bar."""
    tqdm.write(message, file=sys.stderr)
