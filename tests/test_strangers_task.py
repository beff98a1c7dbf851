"""A task of a package that is not ours works in every command, with no edit in ours."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Stranger = Callable[..., subprocess.CompletedProcess[str]]

RISE = ("-m", "rise_agents.cli.main")


def test_a_plugin_is_found_and_listed(stranger: Stranger, tmp_path: Path) -> None:
    text = stranger(*RISE, "info", cwd=tmp_path).stdout
    for name in ("RISE-BlockPushing-v0", "RISE-BlockPushing-Cell-v0", "RISE-BlockPushing-Oracle-v0"):
        assert name in text
    assert "block_pushing" in text
