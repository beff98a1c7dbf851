"""`rise evaluate`, `serve` and `deploy` with the run folder of lerobot-train."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rise_agents.cli import serve
from rise_agents.cli.main import main
from rise_env.errors import ConfigError
from rise_env.tasks import load_task
from rise_robot.recording import read_episode_records

pytestmark = pytest.mark.slow  # LeRobot takes many seconds to import


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, save_act: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("run")
    saved = save_act(folder / "act", load_task("brick_sorting", "tiny"))
    shutil.move(saved, folder / "checkpoints" / "000001" / "pretrained_model")
    (folder / "checkpoints" / "last").symlink_to("000001")
    return folder


def test_evaluate_and_deploy(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    common = ["--policy", str(run_folder), "--preset", "tiny", "--episodes", "1", "--json", str(out)]
    assert main(["evaluate", *common, "--num-envs", "1"]) == 0
    assert json.loads(out.read_text())["episodes"] == 1
    assert main(["deploy", *common, "--driver", "cell", "--yes", "task.max_seconds=1.0"]) == 0
    assert json.loads(out.read_text())["details"][0]["chunks"] >= 1  # random weights: the guard may stop it
    assert main(["evaluate", *common, "--advantage", "best"]) == 2
    assert "is of LeRobot: it takes no advantage" in capsys.readouterr().err


def test_record_with_a_policy_that_reads_the_step_before(tmp_path: Path, save_tiny: Callable[..., Path]) -> None:
    policy = save_tiny(tmp_path / "diffusion", load_task("brick_sorting", "tiny"), "diffusion", n_obs_steps=2)
    out = tmp_path / "data"
    command = [
        "record",
        "--policy",
        str(policy),
        "--preset",
        "tiny",
        "--episodes",
        "1",
        "--seed",
        "3",
        "--preview",
        "0",
    ]
    assert main([*command, "--tail-seconds", "0.2", "--out", str(out), "task.max_seconds=1.0"]) == 0
    (record,) = read_episode_records(out)
    assert (record.operator, record.seed) == ("policy-diffusion", 3)


def test_serve(run_folder: Path) -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    arguments = ["--policy", str(run_folder), "--preset", "tiny", "--device", "cpu"]
    about = serve.service_of(parser.parse_args([*arguments, "task.chunk=6", "task.execute=3"])).metadata
    assert (about["policy"], about["action_shape"], about["lags"]) == ("lerobot act", [6, 14], [])
    with pytest.raises(ConfigError, match="it takes no --guidance"):
        serve.service_of(parser.parse_args([*arguments, "--guidance", "2"]))
