"""`rise record`: records, continues, and refuses to mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rise_agents.cli.main import main
from rise_robot.recording import check_dataset, read_episode_records

TINY = ["--preset", "tiny", "--tail-seconds", "0.2", "--preview", "1"]


def test_records_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["record", "--policy", "corrected", "--episodes", "2", "--seed", "5", "--out", str(out), *TINY]) == 0
    first = read_episode_records(out)
    assert main(["record", "--policy", "corrected", "--episodes", "3", "--seed", "5", "--out", str(out), *TINY]) == 0
    records = read_episode_records(out)
    check_dataset(out)
    assert records[:2] == first
    assert [record.seed for record in records] == [5, 6, 7]
    assert (out / "preview.mp4").stat().st_size > 1000
    assert "holds 2 episodes already" in capsys.readouterr().err
    assert main(["record", "--policy", "expert", "--episodes", "4", "--seed", "5", "--out", str(out), *TINY]) == 2
    assert "Choose another --out" in capsys.readouterr().err
    assert read_episode_records(out) == records


def test_wrong_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--policy", "experd", "--out", str(tmp_path / "a"), *TINY]) == 2
    assert "no scripted policy 'experd'" in capsys.readouterr().err
    assert main(["record", "--task", "brick_sortin", "--out", str(tmp_path / "b")]) == 2
    assert "Did you mean 'brick_sorting'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
