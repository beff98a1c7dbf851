"""How many threads torch computes with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["single_threaded"]


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Let every operation of torch compute with one thread.

    The threads of one operation wait for each other: beside other work an operation of a millisecond can take ten. And
    the last digits of its result depend on their number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
