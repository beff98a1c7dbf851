"""The page "Add a robot": its package is written, found and used."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rise_agents.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
Blocks = Callable[[str], list[tuple[str, str]]]


def test_every_code_block_works(code_blocks: Blocks, tmp_path: Path) -> None:
    blocks = code_blocks("docs/add_a_robot.md")
    assert [language for language, _ in blocks] == [
        "", "yaml", "yaml", "python", "yaml", "python", "bash", "python", "python",
    ]  # fmt: skip
    tree, layout, task, driver, robot, package, commands, environment, faults = (text for _, text in blocks)
    files = {
        "my_package/configs/layouts/toy_arm.yaml": layout,
        "my_package/configs/toy_reach/small.yaml": task,
        "my_package/driver.py": driver,
        "my_package/configs/robots/toy.yaml": robot,
        "my_package/__init__.py": package,
        "my_package-0.1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-package\nVersion: 0.1.0\n",
        "my_package-0.1.0.dist-info/entry_points.txt": "[rise.plugins]\nmy_package = my_package\n",
    }
    for name, text in files.items():
        assert name.rpartition("/")[2] in tree or "dist-info" in name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    for code in (environment, faults):
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning:rise_env", "-c", code],
            capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if code is environment:
            assert done.stdout == "9 targets were cut to the largest speed; no stop\n"
    for line in commands.splitlines():
        command, *arguments = line.partition("#")[0].split()
        if command == "rise":  # their arguments exist; tests/test_strangers_driver.py runs them
            parser = argparse.ArgumentParser()
            importlib.import_module(COMMANDS[arguments[0]].module).add_arguments(parser)
            parser.parse_args(arguments[1:])
