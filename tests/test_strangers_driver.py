"""A robot of a package that is not ours is deployed, recorded and trained on, with no edit in ours."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from rise_robot.recording import read_episode_records

Stranger = Callable[..., subprocess.CompletedProcess[str]]

CHECKPOINT = """
import torch
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.tasks import load_task

torch.manual_seed(0)
network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
task = load_task("reach", "tiny")
FlowPolicy(task, FlowPolicyConfig(network=network, lags=(2,), steps=2)).save_pretrained("model")
"""
DEPLOY = """
import sys
from rise_agents.cli.main import main

sys.exit(main())
"""
ENVIRONMENTS = """
import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from rise_env.checks import CHECKS, check_vector_env
from rise_robot.drivers.base import SceneDriver

ID, settings = "RISE-Reach-Piper-v0", {"driver": "stranger", "preset": "tiny"}
env = gymnasium.make(ID, **settings, render_mode="rgb_array").unwrapped
assert isinstance(env.driver, SceneDriver) and env.session.robot.name == "stranger"
check_env(env, skip_close_check=True)
env.reset(seed=3)
mark = np.repeat(env.driver._mark[None], env.task.chunk, axis=0).astype(np.float32)
slowed, over = 0, False
while not over:
    *_, terminated, truncated, info = env.step(mark)
    slowed, over = slowed + info["slowed"], terminated or truncated
assert info["is_success"] and slowed > 0, info
options = {"follow": 0.1}
slow = gymnasium.make(ID, **settings, driver_options=options, robot_overrides=["safety.speed.rad=0.1"]).unwrapped
slow.reset(seed=3)
assert not slow.step(mark)[2]
envs = gymnasium.make_vec(ID, num_envs=2, **settings, render_mode="rgb_array")
report = check_vector_env(envs, steps=2)
assert report.passed == list(CHECKS), report
"""


def test_deploy_with_a_driver_of_somebody_else(stranger: Stranger, tmp_path: Path) -> None:
    options = ["--driver", "stranger", "--task", "reach", "--preset", "tiny", "--policy", "./model", "--episodes", "1"]
    more = ["--execution", "smooth", "--delay-steps", "1", "--record", "data", "--json", "deploy.json"]
    done = stranger("-c", CHECKPOINT + DEPLOY, "deploy", *options, *more, cwd=tmp_path)
    name = f"policy-{tmp_path.name}"  # the run that ./model lies in
    assert f"{name} on stranger (stranger), smooth execution" in done.stdout
    content = json.loads((tmp_path / "deploy.json").read_text())
    assert (content["episodes"], content["stopped"]) == (1, None)
    assert content["execution"]["chunks"] > 1
    (record,) = read_episode_records(tmp_path / "data")
    assert record.operator == name
    assert record.num_frames >= content["details"][0]["seconds"] * 10


def test_it_is_listed(stranger: Stranger, tmp_path: Path) -> None:
    stranger("-m", "rise_agents.cli.main", "info", "--json", "info.json", cwd=tmp_path)
    info = json.loads((tmp_path / "info.json").read_text())
    assert info["registries"]["drivers"] == {"cell": None, "ros": None, "stranger": "rise_stranger"}
    assert info["robots"] == ["cell", "piper", "stranger"]
    assert "RISE-Reach-Piper-v0" in info["environments"]


def test_its_environments_keep_the_contract(stranger: Stranger, tmp_path: Path) -> None:
    stranger("-W", "ignore", "-c", ENVIRONMENTS, cwd=tmp_path)
