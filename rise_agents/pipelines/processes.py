"""Pieces of work side by side, each in a process of its own, with a line each that says how far it is.

A process computes with one thread. It ends with its parent, also when that is killed: nothing goes on writing into a
folder where somebody has started again. What fails leaves the others alone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from rise_agents.progress import Board
from rise_env.errors import RiseError

__all__ = ["cores", "side_by_side"]

#: Variables that say how many threads a numerical library begins with.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Running:
    """A process and what it last said."""

    process: Any
    part: float = 0.0
    text: str = "starting"
    error: str | None = "it ended without a word (killed, or out of memory)"
    started: float = field(default_factory=time.monotonic)
    first: tuple[float, float] | None = None  # when it first said how far it is, and how far

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float | None:
        """Time left, if it can be told: starting, and what an earlier process did, say nothing about it."""
        when, begin = self.first or (0.0, 1.0)
        done = self.part - begin
        return (time.monotonic() - when) * (1 - self.part) / done if done > 0.02 else None


def side_by_side(
    perform: Callable[[Any, Callable[[float, str], None]], None], work: Mapping[str, Any], jobs: int
) -> dict[str, str]:
    """Do pieces of work, `jobs` at a time, in the order given.

    Args:
        perform: Does one, given what `work` holds for it and a function to report with: the part that is done, and in
            words where it stands. It is imported in another process: no lambda, no closure.
        work: By name.
        jobs: Processes at once.

    Returns:
        What went wrong, by name.
    """
    context, board = multiprocessing.get_context("spawn"), Board()
    waiting, running, failed = list(work), dict[str, tuple[Connection, _Running]](), dict[str, str]()
    took: list[float] = []
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # of the processes that are started from here
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                mine, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(perform, work[name], theirs), name=name)
                process.start()
                theirs.close()
                running[name] = mine, _Running(process)
            ready = wait([connection for connection, _ in running.values()], timeout=0.5)
            for name, (connection, one) in list(running.items()):
                if connection in ready and _heard(connection, one):
                    one.process.join()
                    del running[name]
                    took.append(one.seconds)
                    if one.error is not None:
                        failed[name] = one.error
                    board.say(f"{name}: {one.error or 'done'} ({_clock(one.seconds)})")
            _show(board, running, len(waiting), len(work), took, jobs)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for _, one in running.values():
            one.process.terminate()
            one.process.join()
    return failed


def _heard(connection: Connection, one: _Running) -> bool:
    """Take over what a process said; True where it was its last word."""
    try:
        while connection.poll():
            one.part, one.text, ended, error = connection.recv()
            one.first = one.first or (time.monotonic(), one.part)
            if ended:
                one.error = error
                return True
    except EOFError:
        return True
    return False


def _show(
    board: Board, running: Mapping[str, tuple[Any, _Running]], waiting: int, total: int, took: list[float], jobs: int
) -> None:
    width = max((len(name) for name in running), default=0)
    lines, known = [], []
    for name, (_, one) in running.items():
        bar = "#" * round(20 * one.part)
        times = f"{_clock(one.seconds)}<{_clock(one.left)}"
        lines.append(f"{name:<{width}} |{bar:<20}| {one.part:4.0%} {times}  {one.text}")
        known.append(one.left)
    told = [one for one in known if one is not None]
    lengths = [*took, *(one.seconds + one.left for _, one in running.values() if one.left is not None)]
    left = None
    if lengths and len(told) == len(known):
        left = max((sum(told) + waiting * sum(lengths) / len(lengths)) / jobs, *told, 0.0)
    done = total - waiting - len(running)
    board.show(lines, f"{done} of {total} done, {len(running)} running, about {_clock(left)} left in all")


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _serve(perform: Callable[[Any, Callable[[float, str], None]], None], what: Any, connection: Connection) -> None:
    """What a process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    part, text = 0.0, ""

    def report(done: float, words: str) -> None:
        nonlocal part, text
        part, text = done, words
        connection.send((part, text, False, None))

    try:
        perform(what, report)
    except KeyboardInterrupt:
        return
    except (RiseError, OSError, MemoryError) as error:  # a full disk is no bug: no traceback
        connection.send((part, text, True, str(error) or type(error).__name__))
    except Exception as error:  # noqa: BLE001  (it belongs to this piece of work: the others go on)
        traceback.print_exc()
        connection.send((part, text, True, f"{type(error).__name__}: {error}"))
    else:
        connection.send((1.0, "done", True, None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
