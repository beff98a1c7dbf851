"""The audit compares what is imagined about a policy's chunks with what happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.random_model import random_world_model
from rise_agents.algorithms.best_of_n import history_lags
from rise_agents.evaluation.audit import audit
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.tasks import load_task
from rise_robot.cell.oracle import OracleVectorEnv


def test_an_oracle_agrees_with_the_truth_and_its_opposite_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_task("brick_sorting", "tiny")
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(spec, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1))
    policy.chunk_std.fill_(0.3)  # chunks that differ
    model = random_world_model("brick_sorting", "tiny")
    envs = OracleVectorEnv(
        preset="tiny", num_envs=8, behaviour_policies=["expert"], observation_lags=history_lags(model.spec),
        latest_start=12,
    )  # fmt: skip

    def measure() -> dict[str, Any]:
        return audit(PolicyActor(policy), model, envs, rounds=1, num_candidates=4, seed=3)

    plain = measure()
    assert plain["states"] == 2
    assert plain["gain_of_true_best"] >= plain["gain_of_imagined_best"]

    def imagine_with(sign: float) -> None:
        """Score by running the chunks."""

        def score(model: object, observations: object, chunks: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.from_numpy(sign * envs.evaluate_candidates(chunks[:, None].numpy()).advantage[:, 0])

        monkeypatch.setattr("rise_agents.evaluation.audit.imagined_advantages", score)

    def further(*given: Any, continuation: PolicyActor, lookahead: int, **_: object) -> torch.Tensor:
        """Run the chunk, and what the policy does after it."""
        assert lookahead == 1

        def go_on(seen: Any) -> Any:
            continuation.reset([0] * len(seen["state"]), np.ones(len(seen["state"]), bool))
            return continuation.act(seen)

        found = envs.evaluate_candidates(given[2][:, None].numpy(), go_on, 1).advantage[:, 0]
        return torch.from_numpy(found)

    actor = PolicyActor(policy, noise_scale=0.0)
    ahead: dict[str, Any] = {"rounds": 1, "num_candidates": 4, "seed": 3, "continuation": actor, "lookahead": 1}
    audit(PolicyActor(policy), model, envs, **ahead)  # in imagination itself
    monkeypatch.setattr("rise_agents.evaluation.audit.imagined_advantages", further)
    later = audit(PolicyActor(policy), model, envs, **ahead)
    assert later["bias"] == pytest.approx(0.0, abs=1e-6)
    assert later["advantage_mean"] != pytest.approx(plain["advantage_mean"], abs=1e-4), "another chunk counts"

    imagine_with(1.0)
    right = measure()
    assert right["overall"] == pytest.approx(1.0)
    assert right["bias"] == pytest.approx(0.0, abs=1e-6)
    assert right["gain_of_imagined_best"] == pytest.approx(right["gain_of_true_best"])
    assert right["advantage_mean"] == pytest.approx(plain["advantage_mean"])
    imagine_with(-1.0)
    wrong = measure()
    assert wrong["overall"] == pytest.approx(-1.0)
    assert wrong["gain_of_imagined_best"] < right["gain_of_imagined_best"]
