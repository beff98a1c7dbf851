"""Gymnasium's own asynchronous environments: what a fork cannot do is told, and nothing hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKED = r"""
import sys, warnings
import gymnasium
import rise_env
from rise_env.testing import counting_starts, counting_world_model

name, kwargs = "RISE-BrickSorting-Cell-v0", {"preset": "tiny"}
if sys.argv[1] == "imagination":
    name, kwargs = "RISE-Imagination-v0", {"starts": counting_starts(), "world_model": counting_world_model()}
env = gymnasium.make(name, **kwargs)  # in this process something has been rendered, or computed, before the fork
env.reset(seed=0)
env.step(env.action_space.sample())
envs = gymnasium.make_vec(name, num_envs=1, vectorization_mode="async", **kwargs)
try:
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
finally:
    envs.close(terminate=True)
"""


@pytest.mark.parametrize(("kind", "code"), [("cell", 1), ("imagination", 0)])
def test_async_after_the_parent_has_worked(kind: str, code: int) -> None:
    """A cell cannot render in a fork: an error. An imagination can compute, with one thread: a warning."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, kind], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == code, done.stderr
    assert "gymnasium.make_vec(ID, num_envs=N) without vectorization_mode" in done.stderr
    assert '{"context": "spawn"}' in done.stderr
