"""An algorithm of a package that is not ours, and all of that package at once, in the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

#: A process that records imports LeRobot first: one for each set.
RECORDINGS = (
    "'demo.recordings=[{policy: base, episodes: 4, seed: 70000}]' "
    "'demo.bundle_recordings=[{policy: operator, episodes: 8, seed: 400000}]'"
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_task_goes_through_the_whole_demo_with_its_algorithm(
    stranger_commands: Callable[..., str], tmp_path: Path
) -> None:
    demo = f"demo {RECORDINGS} --task block_pushing --preset tiny --chunks 64 --episodes 2 --out out --json demo.json"
    improve = "improve --agent weighted_cloning --env RISE-BlockPushing-v0 --bundle out/bundle"
    stranger_commands(demo, f"{improve} --chunks 32 --num-envs 4 --judge 2 --out run", cwd=tmp_path, timeout=580)
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["base"]["episodes"] == result["improved"]["episodes"] == 2
    assert (tmp_path / result["report"]).is_file()
    assert (tmp_path / "out" / "bundle" / "bundle.json").is_file()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["agent"]["algorithm"] == "weighted_cloning"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["num_timesteps"] == 32
    state, other = (tmp_path / folder / "training_state.pt" for folder in ("out/rise", "run"))
    assert state.stat().st_mtime_ns < (other.parent / "config.json").stat().st_mtime_ns < other.stat().st_mtime_ns
