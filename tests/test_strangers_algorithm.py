"""An algorithm of a package that is not ours, and all of that package at once, in the commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Stranger = Callable[..., subprocess.CompletedProcess[str]]

RISE = ("-m", "rise_agents.cli.main")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_task_goes_through_the_whole_demo_with_its_algorithm(stranger: Stranger, tmp_path: Path) -> None:
    command = ["demo", "--task", "block_pushing", "--preset", "tiny", "--chunks", "64", "--episodes", "2"]
    stranger(*RISE, *command, "--out", "out", "--json", "demo.json", cwd=tmp_path, timeout=580)
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["base"]["episodes"] == result["improved"]["episodes"] == 2
    assert (tmp_path / result["report"]).is_file()
    assert (tmp_path / "out" / "bundle" / "bundle.json").is_file()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["agent"]["algorithm"] == "weighted_cloning"
    state = tmp_path / "out" / "rise" / "training_state.pt"
    before = state.stat().st_mtime_ns
    agent = ["improve", "--agent", "weighted_cloning", "--env", "RISE-BlockPushing-v0", "--bundle", "out/bundle"]
    text = stranger(*RISE, *agent, "--chunks", "32", "--num-envs", "4", "--out", "run", cwd=tmp_path).stdout
    assert json.loads(text[: text.index("}") + 1])["num_timesteps"] == 32
    assert state.stat().st_mtime_ns == before
