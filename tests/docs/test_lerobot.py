"""The LeRobot page: its training command makes a policy that fits the task, and that lerobot-train takes."""

from __future__ import annotations

import re
from pathlib import Path

from rise_env.tasks import load_task

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lerobot.md"


def test_the_training_command_fits_the_task() -> None:
    (command,) = re.findall(r"^\.venv/bin/lerobot-train .*(?:\\\n.*)*", PAGE.read_text(), re.MULTILINE)
    given = {key: int(value) for key, value in re.findall(r"--policy\.(\w+)=(\d+)", command)}
    spec = load_task("brick_sorting", "small")
    # lerobot's default of n_action_steps is 100, and it refuses more than chunk_size
    assert given == {"chunk_size": spec.chunk, "n_action_steps": spec.execute}
