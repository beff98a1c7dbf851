"""The page "Add an algorithm": its code is that of the package in tests/plugin, and its commands run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rise_agents.training.presets import AgentPreset

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests" / "plugin"
Blocks = Callable[[str], list[tuple[str, str]]]
Stranger = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_every_code_block_works(
    code_blocks: Blocks, stranger: Stranger, stranger_commands: Callable[..., str], tmp_path: Path
) -> None:
    registration, source, use, commands, preset = (text for _, text in code_blocks("docs/add_an_algorithm.md"))
    assert registration.splitlines()[-1] in (PLUGIN / "src" / "rise_stranger" / "__init__.py").read_text()
    assert source == (PLUGIN / "src" / "rise_stranger" / "algorithm.py").read_text()
    code = f"{registration}\n{use}"  # the same name again, for the same class, is fine
    assert "16 ['rollout/advantage', 'train/loss']" in stranger("-c", code, cwd=tmp_path).stdout
    info, *others = (line.removeprefix("rise ") for line in commands.splitlines())
    assert info == "info"
    assert "weighted_cloning" in stranger_commands(info, cwd=tmp_path)
    quick = [f"{one} --judge 2" if one.startswith("improve ") else one for one in others]
    stranger_commands(*quick, cwd=tmp_path)
    assert (tmp_path / "runs" / "weighted" / "report.html").is_file()
    assert (tmp_path / "runs" / "weighted" / "model" / "config.json").is_file()
    assert AgentPreset(**yaml.safe_load(preset)).config == {"temperature": 0.05}
