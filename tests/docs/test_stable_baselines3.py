"""The page "Stable-Baselines3's own agents": its example trains PPO, SAC and TD3."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.slow
def test_the_example_trains_all_three(
    code_blocks: Callable[[str], list[tuple[str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ((language, code),) = code_blocks("docs/stable_baselines3.md")
    assert language == "python"
    exec(compile(code, "docs/stable_baselines3.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == "PPO (8, 8, 2) True\nSAC (8, 8, 2) True\nTD3 (8, 8, 2) True\n"
