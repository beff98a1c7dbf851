"""What the fuzz tests share: how input is damaged, and what must not come of it.

`make fuzz` runs them with more mutations and a seed that it prints; within the suite the same few are tried every time.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from rise_env.errors import RiseError

__all__ = ["DROP", "WRONG", "budget", "changed", "damaged", "mutate", "places", "survives"]

_LONG = int(os.environ.get("RISE_FUZZ_EXAMPLES", "0"))


def budget(examples: int) -> Any:
    """Settings of a test: so many mutations within the suite."""
    return settings(
        max_examples=_LONG or examples, deadline=None, derandomize=not _LONG, database=None,
        phases=[Phase.explicit, Phase.generate],  # as it is found: shrinking takes minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = [
    None, True, False, -1, 0, 1, 2, 3.5, 1e308, -1e308, 10**6, 2**40, 2**70, math.nan, math.inf, "", "x", "3",
    "a/../b", "\0",
    "{}", "{0}", "{episode_index}", "{video_key!r}", "{x.y}", [], [None], [[]], {}, {"a": 1}, {"a": 0, "b": 0},
    [1, 2, 3], ["left", "right", "gripper"], [3, 0, 5], [10**6, 10**6, 3], nested(60), "video", "image",
]  # fmt: skip
DROP = object()


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything in a document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def changed(document: Any, path: tuple, value: Any) -> Any:
    if not path:
        return None if value is DROP else value
    result = copy.deepcopy(document)
    owner = result
    for key in path[:-1]:
        owner = owner[key]
    if value is DROP:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return result


def mutate(draw: Any, document: Any, times: int = 2) -> Any:
    """Some values of a document replaced or dropped."""
    for _ in range(draw(st.integers(1, times))):
        path = draw(st.sampled_from(sorted(places(document), key=str)))
        document = changed(document, path, draw(st.sampled_from([*WRONG, DROP])))
    return document


def damaged(draw: Any, content: bytes) -> bytes:
    """Cut off, or with some bytes replaced."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed_bytes = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        changed_bytes[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed_bytes)


def survives(action: Callable[[], Any], folder: Path) -> None:
    """The action works, or raises an error of ours; it leaves no file in `folder`, where temporary files go, too."""
    before, usual = set(folder.rglob("*")), tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        with warnings.catch_warnings(), contextlib.suppress(RiseError):
            warnings.simplefilter("ignore")
            action()
    finally:
        tempfile.tempdir = usual
    left = set(folder.rglob("*")) - before
    assert [path for path in left if not path.name.startswith("torchinductor_")] == []  # torch keeps that, once
