"""The endurance benchmark tells a leak from noise, and runs on both kinds of environment."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector.utils import batch_space

from benchmarks import endurance
from rise_agents.cli.main import main


def _fresh_memory() -> mmap.mmap:
    """200 kB of the system: a large process may have as much to spare in its heap, and would not grow."""
    found = mmap.mmap(-1, 200_000)
    found.write(b"x" * 200_000)
    return found


LEAKS: dict[str, Callable[[list[Any]], Any]] = {
    "memory": lambda kept: kept.append(_fresh_memory()),
    "files": lambda kept: kept.append(os.open(os.devnull, os.O_RDONLY)) if len(kept) < 50 else None,
    "": lambda kept: np.ones(25_000),
}


class Envs:
    """Two environments that do nothing, and may keep something at every step."""

    num_envs = 2
    action_space = batch_space(gymnasium.spaces.Box(-1, 1, (1,)), 2)

    def __init__(self, leak: str) -> None:
        self.kept: list[Any] = []
        self.leak = leak

    def reset(self, seed: int) -> None: ...

    def render(self) -> None: ...

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        LEAKS[self.leak](self.kept)
        return {}, np.zeros(2), np.array([True, False]), np.zeros(2, bool), {}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_seen(leak: str) -> None:
    envs = Envs(leak)
    try:
        found = endurance.measure(envs, 400, 5, bound=16.0, seed=0, name="toy")
    finally:
        if leak == "files":
            for descriptor in envs.kept:
                os.close(descriptor)
    assert found["flat"] == (not leak)
    assert found["episodes"] == 200
    assert len(found["samples"]) == 6
    if leak == "memory":  # 200 kB at each of 200 calls
        assert found["growth"]["rss_mib"] == pytest.approx(38.1, rel=0.2)


@pytest.mark.parametrize("kind", ["imagination", "cell"])
def test_runs_on_both_kinds(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    command = ["bench", "endurance", "--only", kind, "--quick", "--steps", "35", "--num-envs", "1"]
    assert main([*command, "--seed", "0", "--threads", "1", "--device", "cpu", "--json", str(file)]) == 0
    row = json.loads(file.read_text())["kinds"][kind]
    assert row["samples"][-1]["steps"] == 35
    assert row["episodes"] >= 1
    assert main([*command[:-1], "8"]) == 2
