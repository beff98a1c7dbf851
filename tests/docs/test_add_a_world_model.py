"""The page "Add a world model": its package is written, found and used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_block_works(code_blocks: Callable[[str], list[tuple[str, str]]], tmp_path: Path) -> None:
    blocks = code_blocks("docs/add_a_world_model.md")
    assert [language for language, _ in blocks] == ["", "python", "python", "python", "python"]
    tree, dynamics, package, build, use = (text for _, text in blocks)
    files = {
        "my_package/dynamics.py": dynamics,
        "my_package/__init__.py": package,
        "my_package-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-package\nVersion: 0.1.0\n",
        "my_package-0.1.0.dist-info/entry_points.txt": "[rise.plugins]\nmy_package = my_package\n",
    }
    for name, text in files.items():
        assert name.rpartition("/")[2] in tree or "dist-info" in name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for code in (build, use):
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning:rise_env", "-c", code],
            capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stdout == "close is the last check that passed\n"
