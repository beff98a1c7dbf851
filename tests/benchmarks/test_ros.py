"""The benchmark over ROS runs from end to end. How fast is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ros
@pytest.mark.slow
def test_quick_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "ros.json"
    done = subprocess.run(
        [sys.executable, "-m", "rise_agents.cli.main", "bench", "ros", "--quick", "--threads", "1", "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads(out.read_text())
    assert [row["image_size"] for row in content["transport"]] == [[480, 640]]
    for row in content["transport"]:
        for kind in ("image_ms", "joint_ms", "command_ms"):
            assert 0 < row[kind]["p50"] <= row[kind]["p99"]
        assert row["joint_ms"]["per_second"] > row["image_ms"]["per_second"] > 1
    assert [row["server"] for row in content["closed_loop"]] == [False, True]
    for row in content["closed_loop"]:
        assert row["chunks"] == 4
        assert 0 < row["inference_ms"]["p50"] < row["camera_to_command_ms"]["p99"]
