"""`rise record`: records, continues, and refuses to mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.tasks import load_task
from rise_robot.recording import check_dataset, read_episode_records

TINY = ["--preset", "tiny", "--tail-seconds", "0.2", "--preview", "1"]


def test_records_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    assert main(["record", "--policy", "corrected", "--episodes", "2", "--seed", "5", "--out", str(out), *TINY]) == 0
    first = read_episode_records(out)
    assert main(["record", "--policy", "corrected", "--episodes", "3", "--seed", "5", "--out", str(out), *TINY]) == 0
    records = read_episode_records(out)
    check_dataset(out)
    assert records[:2] == first
    assert [record.seed for record in records] == [5, 6, 7]
    assert (out / "preview.mp4").stat().st_size > 1000
    assert "holds 2 episodes already" in capsys.readouterr().err
    assert main(["record", "--policy", "expert", "--episodes", "4", "--seed", "5", "--out", str(out), *TINY]) == 2
    assert "Choose another --out" in capsys.readouterr().err
    assert read_episode_records(out) == records
    (out / "meta/rise_episodes.parquet").unlink()  # what lerobot's tools leave
    with pytest.warns(UserWarning, match="are lost"):
        assert (
            main(["record", "--policy", "corrected", "--episodes", "4", "--seed", "5", "--out", str(out), *TINY]) == 2
        )
    assert "seed and policy of its episode 0 are lost" in capsys.readouterr().err
    assert not (out / "meta/rise_episodes.parquet").exists()


def test_wrong_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--policy", "experd", "--out", str(tmp_path / "a"), *TINY]) == 2
    assert "no scripted policy 'experd'" in capsys.readouterr().err
    assert main(["record", "--task", "brick_sortin", "--out", str(tmp_path / "b")]) == 2
    assert "Did you mean 'brick_sorting'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_rollouts_of_a_trained_policy_are_recorded_and_continued(tmp_path: Path) -> None:
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,), steps=1))
    policy.save_pretrained(tmp_path / "toy")
    command = ["record", "--preset", "tiny", "--policy", str(tmp_path / "toy"), "--seed", "3", "--preview", "0",
               "--tail-seconds", "0.2", "--out", str(tmp_path / "data")]  # fmt: skip
    assert main([*command, "--episodes", "1"]) == 0
    assert main([*command, "--episodes", "2"]) == 0
    records = read_episode_records(tmp_path / "data")
    assert [(record.operator, record.seed) for record in records] == [("policy-toy", 3), ("policy-toy", 4)]
    assert main([*command, "--episodes", "2", "--policy", "expert"]) == 2  # other episodes lie there
