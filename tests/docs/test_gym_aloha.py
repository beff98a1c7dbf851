"""`examples/gym_aloha`, as far as it goes without gym_aloha, and with it where it is installed."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from rise_agents.policies.config import load_policy_config
from rise_env.dynamics.config import load_dynamics_config
from rise_env.tasks import load_task
from rise_env.value.config import load_value_config

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/gym_aloha"
PACKAGE = EXAMPLE / "rise_gym_aloha"
TASK = PACKAGE / "configs/aloha_transfer_cube"


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_its_task_can_be_read(preset: str) -> None:
    task = load_task(str(TASK), preset)
    for load in (load_dynamics_config, load_value_config, load_policy_config):
        load(str(TASK), preset)
    # What simulation.py shows and how long theirs runs: 300 steps at 50 Hz.
    assert (task.name, tuple(task.cameras), task.image_size) == ("aloha_transfer_cube", ("top", "angle"), (48, 64))
    assert (task.layout.dim, task.fps, task.max_steps) == (14, 10, 60)


def test_its_recording_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(PACKAGE / "record.py"))["main"](["--help"])
    assert stopped.value.code == 0
    assert "--episodes" in capsys.readouterr().out


def test_its_versions_are_pinned() -> None:
    lines = [line for line in (EXAMPLE / "requirements.txt").read_text().splitlines() if line[:1].isalnum()]
    assert [line for line in lines if "==" not in line] == []
    assert {"gym-aloha", "mujoco", "gymnasium", "lerobot", "torch"} <= {line.partition("==")[0] for line in lines}


def test_its_operator_hands_the_cube_over() -> None:
    pytest.importorskip("gym_aloha")
    from rise_gym_aloha.operator import Operator
    from rise_gym_aloha.simulation import TransferCube

    simulation, seed = TransferCube(), 100_000
    simulation.start(seed)
    operator = Operator(simulation, np.random.default_rng(seed))
    assert operator.mistake == "none"
    assert any(simulation.advance(operator.act().astype(np.float64)).success for _ in range(60))
    simulation.close()
