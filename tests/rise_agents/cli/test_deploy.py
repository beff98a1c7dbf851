"""`rise deploy`: what it runs, writes and loads, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rise_agents.cli.main import main
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.resolve import resolve_actor
from rise_env.tasks import load_task
from rise_robot.recording import check_dataset, read_episode_records

CELL = ["--driver", "cell", "--preset", "tiny"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy with random weights that reads the past."""
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,), steps=2))
    path = tmp_path_factory.mktemp("policy") / "model"
    policy.save_pretrained(path)
    return path


def test_results_have_the_shape_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, log = tmp_path / "deploy.json", tmp_path / "log.csv"
    arguments = ["--policy", "expert", "--episodes", "2", "--seed", "1", "--execution", "smooth"]
    assert main(["deploy", *CELL, *arguments, "--json", str(out), "--log", str(log), "--delay-steps", "1"]) == 0
    content = json.loads(out.read_text())
    result = EvaluationResult.from_dict(content)
    assert (result.episodes, result.success_rate) == (2, 1.0)
    assert [episode.seed for episode in result.details] == [1, 2]
    assert content["execution"]["chunks"] == sum(episode.chunks for episode in result.details)
    assert content["execution"]["latency_steps"]["p50"] == 1
    assert (content["stopped"], content["interventions"]) == (None, [0, 0])
    assert content["provenance"]["seed"] == 1
    assert log.read_text().startswith("computed_at,merged_at,")
    said = capsys.readouterr().out
    assert "keys: none (standard input is no terminal)" in said
    assert "success 100.0%" in said


def test_a_trained_policy_is_the_one_that_is_evaluated(checkpoint: Path, tmp_path: Path) -> None:
    short, out = "task.max_seconds=1.6", tmp_path / "deploy.json"
    arguments = ["--policy", str(checkpoint), "--episodes", "2", "--seed", "3"]
    assert main(["deploy", *CELL, *arguments, "--execution", "sync", "--json", str(out), short]) == 0
    env = "RISE-BrickSorting-Piper-v0"
    settings = {"driver": "cell", "preset": "tiny", "overrides": [short]}
    result = evaluate(env, resolve_actor(checkpoint), 2, 3, num_envs=1, env_kwargs=settings)
    content = json.loads(out.read_text())
    assert content["details"] == json.loads(json.dumps(result.to_dict()["details"]))


@pytest.mark.parametrize("strategy", ["smooth", "ensemble", "rtc"])
def test_every_strategy_runs_a_trained_policy(checkpoint: Path, strategy: str, tmp_path: Path) -> None:
    out = tmp_path / "deploy.json"
    arguments = ["--policy", str(checkpoint), "--episodes", "1", "--execution", strategy, "--delay-steps", "1"]
    assert main(["deploy", *CELL, *arguments, "--json", str(out), "task.max_seconds=1.0"]) == 0
    content = json.loads(out.read_text())
    assert content["execution"]["chunks"] > 1
    assert content["deploy"]["execution"] == strategy


def test_recordings_feed_the_next_round(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = ["--policy", "expert", "--seed", "1", "--execution", "sync", "--record", str(data)]
    for count in (1, 2):
        assert main(["deploy", *CELL, *arguments, "--episodes", str(count), "--tail-seconds", "0.2"]) == 0
    records = read_episode_records(data)
    assert [record.seed for record in records] == [1, 1, 2]
    assert all(record.success and record.operator == "expert" for record in records)
    check_dataset(data)


def test_wrong_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([*CELL, "--policy", "nobody"], "or a scripted one: expert"),
        ([*CELL, "--policy", "expert", "--real-time"], "needs simulated time"),
        ([*CELL, "--policy", "expert", "--episodes", "0"], "episodes is 0, expected at least 1"),
        ([*CELL, "--policy", "expert", "--execution", "fast"], "not one of sync, smooth, ensemble, rtc"),
        ([*CELL, "--policy", "expert", "--execution", "rtc"], "does not support real-time chunking"),
        ([*CELL, "--policy", "expert", "--robot-set", "safety.gap"], "not of the form key.key=value"),
        ([*CELL, "--policy", "expert", "--teleop", "nobody"], "has no scripted policy 'nobody'; it has: expert"),
        ([*CELL, "--policy", "expert", "--dry-run", "--record", str(tmp_path / "d")], "dry run"),
        ([*CELL, "--server", "here"], "not of the form HOST:PORT"),
        ([*CELL, "--server", "127.0.0.1:9"], "no policy server at"),
        (["--driver", "can", "--policy", "expert"], "unknown driver 'can'"),
    ):
        assert main(["deploy", *arguments]) == 2, arguments
        assert message in capsys.readouterr().err


def test_no_world_model_is_loaded(checkpoint: Path) -> None:
    """Neither to run a policy nor to find the one in the shipped bundle."""
    code = (
        "import sys\nfrom rise_agents.cli.main import main\n"
        f"code = main(['deploy', '--policy', {str(checkpoint)!r}, '--driver', 'cell', '--preset', 'tiny', "
        "'--episodes', '1', '--execution', 'smooth', 'task.max_seconds=0.5'])\n"
        "print(code, *[name for name in sys.modules if name.startswith('rise_env.')])\n"
        "from rise_agents.policies.resolve import resolve_policy\n"
        "resolve_policy('base', task='brick_sorting')\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    deployed, shipped = (line.split() for line in done.stdout.splitlines()[-2:])
    code, *loaded = deployed
    assert code == "0"
    assert "rise_env.tasks" in loaded
    for part in ("dynamics", "value", "world_model", "imagination"):
        assert not [name for name in loaded if name.startswith(f"rise_env.{part}")], part
    assert "rise_env.bundle" in shipped
    assert not [name for name in shipped if name.startswith(("rise_env.dynamics", "rise_env.world_model"))]


@pytest.mark.slow
def test_a_signal_ends_the_run_and_saves_what_was_recorded(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "deploy.json"
    command = [sys.executable, "-c", "import sys; from rise_agents.cli.main import main; sys.exit(main())"]
    arguments = ["--policy", "expert", "--episodes", "10000", "--record", str(data), "--json", str(out)]
    process = subprocess.Popen([*command, "deploy", *CELL, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]  # two lines of introduction, two episodes
    assert "episode 1" in lines[-1]
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    content = json.loads(out.read_text())
    assert content["stopped"]["reason"] == "signal"
    records = read_episode_records(data)
    check_dataset(data)
    assert [record.seed for record in records] == list(range(len(records)))
    assert len(records) >= 2
    assert all(record.success for record in records[:-1])
    assert len(rest) > 0
