"""The page "Stable-Baselines3's own agents": its example trains PPO, SAC and TD3."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_example_trains_all_three(code_blocks: Callable[[str], list[tuple[str, str]]], tmp_path: Path) -> None:
    ((language, code),) = code_blocks("docs/stable_baselines3.md")
    assert language == "python"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "PPO (8, 8, 2) True\nSAC (8, 8, 2) True\nTD3 (8, 8, 2) True\n"
