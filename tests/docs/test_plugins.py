"""The page "Make a package for RISE": its pyproject.toml builds, YAML files included, and its names are registered."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_builds_and_registers(
    code_blocks: Callable[[str], list[tuple[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the dev extra")
    _, project, registration, _ = (text for _, text in code_blocks("docs/plugins.md"))
    files = {
        "pyproject.toml": project,
        "my_package/__init__.py": registration,
        "my_package/algorithm.py": "class MyAlgorithm: pass\n",
        "my_package/configs/my_task/small.yaml": "task: {}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (wheel,) = builder.WheelBuilder(str(tmp_path)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "my_package" / "configs" / "my_task" / "small.yaml").is_file()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{ROOT}")
    code = "import rise_env; from rise_env.registry import ALGORITHMS; print(ALGORITHMS.find('my_algorithm').plugin)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "my_package\n", done.stderr
