"""The benchmark of the policy server measures what it says, on a policy that is small."""

from __future__ import annotations

import pytest
import torch

from benchmarks.serving import measure
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.served import PolicyService
from rise_env.tasks import load_task


def test_measures_every_layout_and_number_of_clients(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,), steps=1))
    result = measure(PolicyService(policy), quick=True)
    assert set(result["layouts"]) == {"ours", "openpi 224x224", "cameras 480x640"}
    assert capsys.readouterr().err.count("measuring: ") == 1 + 3 + 3
    for row in result["layouts"].values():
        assert 0 < row["infer_ms"]["p50"] <= row["round_trip_ms"]["p50"]
        assert row["overhead_ms"]["p50"] > 0
    assert result["layouts"]["openpi 224x224"]["kilobytes"] == 452.0
    assert set(result["clients"]) == {"1", "2", "4"}
    assert result["clients"]["4"]["requests_per_second"] > 0
