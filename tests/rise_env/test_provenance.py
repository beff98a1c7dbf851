"""Tests of rise_env.provenance."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rise_env import provenance as module
from rise_env.files import to_json
from rise_env.provenance import config_hash, git_revision, hardware, package_versions, provenance


def test_record_is_json_and_complete() -> None:
    record = provenance({"task": {"fps": 30}}, seed=3)
    assert json.loads(to_json(record)) == record
    assert set(record) == {"time", "command", "git", "packages", "hardware", "config_hash", "seed"}
    assert record["seed"] == 3
    assert datetime.datetime.fromisoformat(record["time"]).tzinfo is not None
    assert record["config_hash"] == config_hash({"task": {"fps": 30}})


def test_without_configuration_or_seed() -> None:
    record = provenance()
    assert record["config_hash"] is None
    assert record["seed"] is None


def test_command_hides_the_programs_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/private/rise", "bench", "cell", "--json", "/home/me/out.json", "a/b"])
    assert provenance()["command"] == ["rise", "bench", "cell", "--json", "out.json", "a/b"]


@dataclasses.dataclass(frozen=True)
class Config:
    fps: int
    cameras: tuple[str, ...]


def test_config_hash_depends_on_values_only() -> None:
    digest = config_hash({"fps": 30, "cameras": ["head", "left"]})
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    assert config_hash({"cameras": ("head", "left"), "fps": 30}) == digest
    assert config_hash(Config(30, ("head", "left"))) == digest
    assert config_hash({"fps": 30, "cameras": ["left", "head"]}) != digest


def test_versions_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("numpy", "no-such-package-at-all"))
    versions = package_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["numpy"]
    assert versions["no-such-package-at-all"] is None


def test_hardware_has_sensible_numbers() -> None:
    machine = hardware()
    assert machine["cpu_count"] >= 1
    assert machine["memory_gib"] > 0.1
    assert machine["cpu"]


def test_gpus_are_read_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module, "_output", lambda *command: "NVIDIA H200, 143771\nOdd, name, [N/A]")
    assert hardware()["gpus"] == [
        {"name": "NVIDIA H200", "memory_gib": 140.4},
        {"name": "Odd, name", "memory_gib": None},
    ]


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_revision_follows_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rise_env").mkdir()
    source = tmp_path / "rise_env" / "provenance.py"
    source.write_text("a")
    monkeypatch.setattr(module, "__file__", str(source))
    assert git_revision() is None  # no checkout
    _git(tmp_path, "init", "-q")
    assert git_revision() is None  # no commit
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    assert git_revision() == {"revision": _git(tmp_path, "rev-parse", "HEAD"), "modified": False}
    source.write_text("b")
    revision = git_revision()
    assert revision is not None
    assert revision["modified"] is True


def test_missing_or_failing_tools_are_no_error() -> None:
    assert module._output("no-such-program-at-all") is None
    assert module._output(sys.executable, "-c", "raise SystemExit(1)") is None
