"""How many threads torch computes with."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

__all__ = ["cores", "forked", "limit_cores", "one_thread_after_fork", "single_threaded"]

_forked = False
_limit: int | None = None


def cores() -> int:
    """Cores that this process may compute on side by side."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return found if _limit is None else min(found, _limit)


def limit_cores(count: int) -> None:
    """Compute on at most so many, from now on: the others belong to other processes of the same run."""
    global _limit
    _limit = count


def forked() -> bool:
    """Whether this process is a fork of one that had called `one_thread_after_fork`."""
    return _forked


@functools.cache
def one_thread_after_fork() -> None:
    """From now on torch computes with one thread in forks of this process.

    A fork has none of its parent's threads, but torch would wait for them, for ever.
    """

    def in_child() -> None:
        global _forked
        import torch

        _forked = True
        torch.set_num_threads(1)

    os.register_at_fork(after_in_child=in_child)


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
