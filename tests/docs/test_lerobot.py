"""The LeRobot page: its training command makes a policy that fits the task, and that lerobot-train takes."""

from __future__ import annotations

import re
from pathlib import Path

from rise_agents.policies.taking_over import trainable_types
from rise_env.tasks import load_task

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lerobot.md"


def test_the_training_command_fits_the_task() -> None:
    commands = re.findall(r"^\.venv/bin/lerobot-train .*(?:\\\n.*)*", PAGE.read_text(), re.MULTILINE)
    act, diffusion = ({k: int(v) for k, v in re.findall(r"--policy\.(\w+)=(\d+)", one)} for one in commands)
    spec = load_task("brick_sorting", "small")
    # lerobot's default of n_action_steps is 100, and it refuses more than chunk_size
    assert act == {"chunk_size": spec.chunk, "n_action_steps": spec.execute}
    # the U-Net halves the horizon three times; the stride is not 1
    assert diffusion == {"n_obs_steps": 1, "horizon": spec.chunk, "n_action_steps": spec.execute}
    assert spec.chunk % 8 == 0 < spec.stride - 1


def test_the_table_says_what_can_be_trained() -> None:
    """What the rows say is tested in tests/rise_agents/policies/test_lerobot_policy.py and test_pi05.py."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if "|" in line
    ]
    head, _, *table = rows
    assert head[:6] == ["type", "evaluate", "record", "serve", "deploy", "improve"]
    assert {row[0].strip("`") for row in table if row[5].startswith("yes")} == set(trainable_types())
    assert all(row[5] == row[6] or row[6] == "no" for row in table)
    assert {row[0].strip("`") for row in table if row[8] == "yes"} == set(trainable_types())
