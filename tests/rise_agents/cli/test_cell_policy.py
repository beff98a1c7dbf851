"""A trained policy recorded step by step does what it does chunk by chunk in the environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rise_agents.cli.cell_policy import PolicyInCell
from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import load_cell
from rise_robot.cell.env import CellEnv
from rise_robot.cell.render import CellRenderer
from rise_robot.recording import read_episode_records


@pytest.fixture(scope="module")
def policy() -> FlowPolicy:
    torch.manual_seed(0)
    spec, _ = load_cell("brick_sorting", "tiny")
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    made = FlowPolicy(spec, FlowPolicyConfig(network=network, lags=(2, 6), steps=2, noise_samples=1, storage="fp32"))
    made.chunk_std.fill_(0.1)
    torch.nn.init.normal_(made.denoiser.write.weight, std=0.3)  # what is seen matters
    return made.eval()


def test_it_sees_and_does_the_same_as_in_the_environment(policy: FlowPolicy) -> None:
    env = CellEnv(preset="tiny", observation_lags=[2, 6])
    observation, _ = env.reset(seed=4)
    acting = PolicyInCell(env.cell, CellRenderer(env.cell.model, env.cell.data, 1), policy, "policy", seed=9)
    acting.reset()  # takes its seed from the episode that the environment is in
    runner = acting._actor
    state = runner._generators[0].get_state()
    expected = []
    for _ in range(3):
        chunk = runner.act({key: value[None] for key, value in observation.items()})[0]
        expected.append(chunk[: env.task.execute])
        observation, _, terminated, truncated, _ = env.step(chunk)
        assert not terminated
        assert not truncated
    env.cell.reset(episode_rng(4))
    acting.reset()
    assert torch.equal(runner._generators[0].get_state(), state)
    acting._renderer = env._renderer
    for target in np.concatenate(expected):
        np.testing.assert_allclose(acting.plan(1)[0], target, atol=1e-6)
        env.cell.step(target)
    env.close()


def test_rollouts_of_a_policy_are_recorded_and_continued(policy: FlowPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "toy")
    command = ["record", "--preset", "tiny", "--policy", str(tmp_path / "toy"), "--seed", "3", "--preview", "0",
               "--out", str(tmp_path / "data")]  # fmt: skip
    assert main([*command, "--episodes", "1"]) == 0
    assert main([*command, "--episodes", "2"]) == 0
    records = read_episode_records(tmp_path / "data")
    assert [(record.operator, record.seed) for record in records] == [("policy-toy", 3), ("policy-toy", 4)]
    assert main([*command, "--episodes", "2", "--policy", "expert"]) == 2  # other episodes lie there
