"""`rise bench`: benchmarks are found by name, in a checkout."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from rise_agents.cli.main import main


def test_a_module_of_benchmarks_is_a_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("def run(args): pass\n")
    (package / "speed.py").write_text(
        '"""How fast.\n\nMore."""\n'
        "def add_arguments(parser): parser.add_argument('--laps', type=int)\n"
        "def run(args): return {'laps': args.laps}\n"
    )
    for name in ("benchmarks", "benchmarks.speed"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what was there, or not, is there again afterwards
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    file = tmp_path / "speed.json"
    assert main(["bench", "speed", "--laps", "3", "--seed", "5", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert (content["benchmark"], content["laps"], content["quick"]) == ("speed", 3, False)
    assert content["provenance"]["seed"] == 5
    assert main(["bench", "sped"]) == 2
    message = capsys.readouterr().err
    assert "speed: How fast." in message
    assert "helper" not in message


def test_an_installed_package_has_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    assert main(["bench", "cell"]) == 2
    assert "in a checkout" in capsys.readouterr().err


def test_ours_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "?"]) == 2
    message = capsys.readouterr().err
    for name in ("audit", "cell", "imagination", "ros", "serving", "truth"):
        assert f"  {name}: " in message
