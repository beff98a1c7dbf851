"""A simulation of somebody else's as an environment that runs chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.checks import check_vector_env
from rise_env.data import open_dataset
from rise_env.envs.simulation import Outcome, SimulationEnv
from rise_env.errors import ActionError, ConfigError
from rise_env.registry import TASKS, register_task
from rise_env.tasks import cell_id, evaluation_id, load_task
from rise_robot.recording import read_episode_records

TASK = """
task: {name: sliding, prompt: Slide., cameras: [front], image_size: [16, 16], fps: 10, chunk: 4, stride: 2, history: 3,
       execute: 2, max_seconds: 0.5, layout: {names: [slide], units: [m], lower: [0.0], upper: [1.0]}}
"""


class Sliding:
    """Goes to its target at once; solved behind 0.9, lost below 0.05. The seed says where it starts."""

    def __init__(self) -> None:
        self.drawn = 0

    def start(self, seed: int) -> None:
        self.place, self.best = np.random.default_rng(seed).uniform(0.4, 0.6), 0.0

    def advance(self, target: np.ndarray) -> Outcome:
        (self.place,) = target
        self.best = max(self.best, self.place)
        return Outcome(bool(self.place > 0.9), bool(self.place < 0.05), 10 * self.best, float(self.place))

    def observe(self) -> dict[str, np.ndarray]:
        self.drawn += 1
        return {"image_front": self.picture(), "state": np.array([self.place], np.float32)}

    def picture(self) -> np.ndarray:
        return np.full((16, 16, 3), int(200 * self.place), np.uint8)

    def close(self) -> None:
        pass


class TwoJoints(Sliding):
    def observe(self) -> dict[str, np.ndarray]:
        return {**super().observe(), "state": np.zeros(2, np.float32)}


@pytest.fixture
def sliding(tmp_path: Path) -> Iterator[str]:
    """The task, registered meanwhile."""
    folder = tmp_path / "configs/sliding"
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(TASK)
    task = register_task("sliding", simulation=f"{__name__}:Sliding", configs=tmp_path / "configs")
    yield "sliding"
    del TASKS._known["sliding"]
    for part in ("", "-Sim", "-Piper"):
        gymnasium.registry.pop(task.env_id(part))


def test_it_runs_chunks(sliding: str) -> None:
    env: Any = gymnasium.make("RISE-Sliding-Sim-v0", observation_lags=[1], render_mode="rgb_array")
    seen, info = env.reset(seed=1)
    assert seen.keys() == {"image_front", "state", "image_front_lag1", "state_lag1"}
    assert (info["task"], info["is_success"], info["score"], info["seconds"]) == ("Slide.", False, 0.0, 0.0)
    assert seen["state_lag1"] == seen["state"]  # before the start lies the first
    seen, reward, terminated, truncated, info = env.step(np.array([[0.2], [0.3], [0.95], [0.95]], np.float32))
    assert seen["state"] == pytest.approx([0.3])
    assert seen["state_lag1"] == pytest.approx([0.2])
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["control_steps"], info["seconds"], info["failure_mode"]) == (2, 0.2, "none")
    seen, *_ = env.step(np.array([[0.6], [0.7], [0.8], [0.8]], np.float32))
    assert seen["state_lag1"] == pytest.approx([0.6])
    assert env.unwrapped.simulation.drawn == 5  # at the start, within and after both chunks
    assert env.render()[0, 0, 0] == 139
    _, _, terminated, truncated, info = env.step(np.full((4, 1), 0.5, np.float32))
    assert (terminated, truncated, info["failure_mode"], info["control_steps"]) == (False, True, "timeout", 1)
    assert info["score"] == pytest.approx(7)


@pytest.mark.parametrize(("first", "success", "mode", "clamped"), [(2.0, True, "none", 1), (-1.0, False, "failed", 1)])
def test_it_ends_and_stays_within_limits(sliding: str, first: float, success: bool, mode: str, clamped: int) -> None:
    env = SimulationEnv(sliding, f"{__name__}:Sliding", execute=4)
    env.reset(seed=0)
    chunk = np.array([[0.5], [first], [3.0], [0.5]], np.float32)
    _, reward, terminated, truncated, info = env.step(chunk)
    assert (reward, terminated, truncated, info["failure_mode"]) == (float(success), True, False, mode)
    assert (info["is_success"], info["clamped"], info["control_steps"]) == (success, clamped, 2)
    with pytest.raises(ActionError, match=r"\(2, 1\), expected \(4, 1\)"):
        env.step(chunk[:2])


def test_what_does_not_fit_the_task_is_told(sliding: str) -> None:
    env = SimulationEnv(sliding, f"{__name__}:TwoJoints")
    with pytest.raises(
        ConfigError, match=r"'state': \('float32', \(2,\)\).*the task has .*'state': \('float32', \(1,\)"
    ):
        env.reset(seed=0)


def test_many_at_once_follow_the_rules(sliding: str) -> None:
    envs = gymnasium.make_vec("RISE-Sliding-Sim-v0", num_envs=3, autoreset_mode="disabled")
    report = check_vector_env(envs)
    assert {"alone", "reset_mask"} <= set(report.passed)


def test_successes_are_counted_there_and_paired(
    sliding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluation_id(sliding) == "RISE-Sliding-Sim-v0"
    assert evaluation_id("brick_sorting") == cell_id("brick_sorting")
    with pytest.raises(ConfigError, match=r"no work cell .* `rise record --task sliding` records a policy"):
        cell_id(sliding)
    first, other = str(tmp_path / "first.json"), str(tmp_path / "other.json")
    asked = ["evaluate", "--task", sliding, "--policy", "random", "--episodes", "6", "--num-envs", "2"]
    assert main([*asked, "--json", first]) == 0
    found = json.loads(Path(first).read_text())
    assert found["env"] == "RISE-Sliding-Sim-v0"
    assert {episode["seed"] for episode in found["details"]} == set(range(6))
    assert main([*asked, "--execute", "4", "--against", first, "--json", other]) == 0
    changed = json.loads(Path(other).read_text())
    gain = 100 * (changed["success_rate"] - found["success_rate"])
    assert changed["change"]["gain"] == pytest.approx(gain)
    assert f"change      {gain:+.1f} points (95 % interval" in capsys.readouterr().out
    assert main([*asked[:-4], "--episodes", "5", "--against", first]) == 2
    assert "6 episodes of RISE-Sliding-Sim-v0 from seed [0] on" in capsys.readouterr().err


def test_a_policy_is_recorded_there_and_continued(
    sliding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task(sliding), FlowPolicyConfig(network=network, lags=(2,), steps=1))
    policy.save_pretrained(tmp_path / "toy")
    asked = ["record", "--task", sliding, "--out", str(tmp_path / "data"), "--seed", "3", "--preview", "0"]
    asked += ["--tail-seconds", "0.3"]
    assert main([*asked, "--policy", str(tmp_path / "toy"), "--episodes", "1"]) == 0
    assert main([*asked, "--policy", str(tmp_path / "toy"), "--episodes", "3"]) == 0
    records = read_episode_records(tmp_path / "data")
    assert [(record.operator, record.seed) for record in records] == [("policy-toy", seed) for seed in (3, 4, 5)]
    dataset = open_dataset(tmp_path / "data", load_task(sliding))
    progress, simulation = np.asarray(dataset.column("progress")).ravel(), Sliding()
    for record, start, length in zip(records, dataset.starts, dataset.lengths, strict=True):
        simulation.start(record.seed)
        targets = dataset.action[start : start + length]
        outcomes = [simulation.advance(target) for target in targets]
        over = next((i for i, one in enumerate(outcomes) if one.success or one.over or i == 4), 4)
        assert length == over + 1 + 3 + 1  # a tail, and what its last action is seen from
        assert record.success == outcomes[over].success
        expected = [0.0, *(one.progress or 0.0 for one in outcomes[:-1])]
        expected[over + 1 :] = [1.0] * 4 if record.success else expected[over + 1 :]
        assert progress[start : start + length] == pytest.approx(expected, abs=1e-6)
    assert main([*asked, "--policy", "expert"]) == 2
    assert "no trained policy 'expert', and the simulation of task 'sliding' has no scripted ones" in (
        capsys.readouterr().err
    )
    assert main([*asked, "--policy", str(tmp_path / "toy"), "--difficulty", "hard"]) == 2
    assert "--difficulty and --variation are of work cells" in capsys.readouterr().err
