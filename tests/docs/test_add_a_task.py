"""The page "Add a task" shows the package of `tests/plugin`, whole, and its commands run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "plugin" / "src" / "rise_stranger"
Stranger = Callable[..., subprocess.CompletedProcess[str]]
Blocks = Callable[[str], list[tuple[str, str]]]


@pytest.mark.slow
def test_every_code_block_is_of_the_package_or_runs(
    code_blocks: Blocks, stranger: Stranger, stranger_commands: Callable[..., str], tmp_path: Path
) -> None:
    blocks = code_blocks("docs/add_a_task.md")
    tree = blocks.pop(0)[1]
    for line in tree.splitlines()[1:]:
        assert (PACKAGE / line.split()[0]).is_file()
    *shown, use = [text for language, text in blocks if language == "python"]
    register, *task = shown
    assert register in (PACKAGE / "__init__.py").read_text()
    source = (PACKAGE / "task.py").read_text()
    assert "".join(task).split() == source[source.index("from __future__") :].split()
    base, small = (text for language, text in blocks if language == "yaml")
    assert base == (PACKAGE / "configs/block_pushing/_base.yaml").read_text()
    assert small == (PACKAGE / "configs/block_pushing/small.yaml").read_text()
    (commands,) = (text for language, text in blocks if language == "bash")
    assert all(line.startswith("rise ") for line in commands.splitlines())
    stranger_commands(*(line.removeprefix("rise ") for line in commands.splitlines()), cwd=tmp_path)
    assert (tmp_path / "data" / "pushes" / "preview.mp4").is_file()
    assert stranger("-c", use, cwd=tmp_path).stdout.startswith("Push the block over the line.")
    assert len(shown) == 6
    assert {language for language, _ in blocks} == {"python", "yaml", "bash"}
