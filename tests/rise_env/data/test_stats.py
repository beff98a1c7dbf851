"""Statistics and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rise_agents.cli.main import main
from rise_env.data import Stats, compute_stats, open_dataset
from rise_env.tasks import TaskSpec


@pytest.fixture
def stats(v3_root: Path, spec: Callable[..., TaskSpec]) -> Stats:
    return compute_stats(open_dataset(v3_root, spec()))


def test_values(stats: Stats, v3_root: Path, spec: Callable[..., TaskSpec]) -> None:
    dataset = open_dataset(v3_root, spec())
    state = dataset.state.astype(float)
    np.testing.assert_allclose(stats.state.mean, state.mean(0))
    np.testing.assert_allclose(stats.state.std, state.std(0))
    np.testing.assert_allclose(stats.action.q99, np.quantile(dataset.action.astype(float), 0.99, axis=0))
    np.testing.assert_array_equal(stats.state.max, [11, 2, state[:, 2].max()])
    assert stats.names == ("left", "right", "gripper")
    assert stats.num_frames == 28


def test_files(stats: Stats, tmp_path: Path) -> None:
    stats.save(tmp_path / "stats.json")
    content = json.loads((tmp_path / "stats.json").read_text())
    assert list(content) == ["names", "num_frames", "state", "action"]
    assert list(content["state"]) == ["mean", "std", "min", "max", "q01", "q99"]
    assert content["action"]["min"] == stats.action.min.tolist()
    stats.save_openpi(tmp_path / "norm_stats.json")
    content = json.loads((tmp_path / "norm_stats.json").read_text())
    assert set(content) == {"norm_stats"}
    assert set(content["norm_stats"]) == {"state", "actions"}
    assert set(content["norm_stats"]["actions"]) == {"mean", "std", "q01", "q99"}
    assert content["norm_stats"]["actions"]["q01"] == stats.action.q01.tolist()


def test_command_line(v3_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("stats.json", "norm_stats.json")]
    assert main(["stats", str(v3_root), "--json", paths[0], "--openpi", paths[1]]) == 0
    text = capsys.readouterr().out
    assert "3 episodes, 28 frames at 10 Hz, 2 successful" in text
    assert "gripper" in text
    assert json.loads(Path(paths[0]).read_text())["num_frames"] == 28
    assert len(json.loads(Path(paths[1]).read_text())["norm_stats"]["state"]["mean"]) == 3
    assert main(["stats", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
