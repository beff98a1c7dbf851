"""Tests of rise_env.files."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rise_env.errors import CheckpointError, ConfigError
from rise_env.files import atomic_directory, atomic_path, exclusive, read_json, to_json, write_json, write_text


def test_written_file_is_complete_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    write_text(target, "one")
    write_text(target, "two")
    assert target.read_bytes() == b"two"
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as aside:
            assert aside.name == target.name
            aside.write_text("half")
            assert target.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b))[1])
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace", "fsync"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    write_text(tmp_path / "ours", "x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_device_is_written_to_not_replaced() -> None:
    write_json(os.devnull, {"a": 1})
    assert not Path(os.devnull).is_file()


@dataclasses.dataclass
class Result:
    rate: float
    folder: Path


def test_json_takes_what_results_are_made_of(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json",
        {
            "result": Result(0.5, Path("out")),
            "scalar": np.float32(1.5),
            "array": np.array([[1, 2]]),
            "flag": np.bool_(True),
            "tuple": (1, None),
            "undefined": [float("nan"), np.float64("inf"), np.array([np.nan, 1.0])],
            7: "é",
        },
    )
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "result": {"rate": 0.5, "folder": "out"},
        "scalar": 1.5,
        "array": [[1, 2]],
        "flag": True,
        "tuple": [1, None],
        "undefined": [None, None, [None, 1.0]],
        "7": "é",
    }


def test_json_names_what_it_cannot_take() -> None:
    with pytest.raises(TypeError, match=r"builtins\.set"):
        to_json({"a": {1, 2}})


def test_a_folder_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with exclusive(folder), pytest.raises(ConfigError, match="another process is at work"), exclusive(folder):
        pass
    with exclusive(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not folder.exists()  # nothing was made in it
    folder.mkdir()
    with exclusive(folder):
        pass
    assert not list(folder.iterdir())
    with exclusive(folder):
        (folder / "model").touch()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "writer",
    ["with f.atomic_directory(path, 'm') as aside: (aside / 'deep').mkdir(); kill()",
     "with f.atomic_path(path) as aside: kill()",
     "with f.atomic_path(path) as aside: aside.write_text('half'); kill()"],
)  # fmt: skip
def test_what_a_killed_process_left_is_cleared_up(tmp_path: Path, writer: str) -> None:
    """Killed while it wrote; a writer at work is left alone."""
    target = tmp_path / "model[1].safetensors"
    script = f"import os, sys, rise_env.files as f\npath, kill = sys.argv[1], lambda: os.kill(os.getpid(), 9)\n{writer}"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == -9
        assert len(list(tmp_path.iterdir())) == 1  # the second has cleared up after the first
    with atomic_path(target) as aside:
        aside.write_text("mine")
        with atomic_path(target) as other:
            assert aside.exists()
            other.write_text("other")
        assert aside.exists()
        assert target.read_text() == "other"
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "mine"


def test_a_directory_whose_replacement_was_killed_is_back(tmp_path: Path) -> None:
    """Killed between the two renames; a writer at work is left alone."""
    target, former = tmp_path / "bundle[1]", tmp_path / ".bundle[1].0123456789ab.old"
    former.mkdir()
    (former / "m").write_text("old")
    with atomic_directory(target, "m") as aside:
        assert (target / "m").read_text() == "old"
        with atomic_directory(target, "m") as other:
            assert aside.exists()
            (other / "m").write_text("other")
        assert aside.exists()
        (aside / "m").write_text("mine")
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "m").read_text() == "mine"


def test_taken_for_a_leftover_before_it_was_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = os.open, []

    def slow(path: Path, *args: Any, **options: Any) -> int:
        if not taken:
            taken.append(path)
            os.rmdir(path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", slow)
    write_text(tmp_path / "a.txt", "x")
    assert taken
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [(float, b"{", "EOF"), (float, b'"x"', "number"), (dict[str, float], b'{"a": null}', "a: "),
     (list[str], b"{}", "array"), (dict[str, float], b"\xff", "JSON"), (list[dict[str, Any]], b"[3]", "0: ")],
)  # fmt: skip
def test_damaged_json_names_the_file_and_what_to_do(tmp_path: Path, kind: Any, content: bytes, told: str) -> None:
    file = tmp_path / "config.json"
    assert read_json(file, kind, "nothing") == "nothing"
    with pytest.raises(CheckpointError, match=r"config.json is missing. Copy it again, or remove .* and start anew"):
        read_json(file, kind)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"config.json is damaged \(.*{told}.*\). Delete it.$") as caught:
        read_json(file, kind, cure="Delete it.")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_whatever_the_writer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> None:
        with atomic_path(path) as aside:
            aside.write_text("half")
            raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected"):
        fails(tmp_path / "state.pt")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*state.pt'"):
        fails(tmp_path / "new" / "deep" / "state.pt")
    assert not list(tmp_path.iterdir())
