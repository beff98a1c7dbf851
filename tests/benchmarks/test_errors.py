"""`rise bench errors`: the joint that a policy is wrong in is named, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.errors import joint_errors
from rise_agents.policies.data import RecordedChunks
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.data.array_dataset import ArrayDataset
from rise_env.errors import ConfigError
from rise_env.testing import counting_spec

SPEC = counting_spec()
JOINTS = SPEC.layout.names


def recordings() -> RecordedChunks:
    """Two episodes in which the joints wander."""
    lengths, rng = [20, 24], np.random.default_rng(0)
    low, high = SPEC.layout.low, SPEC.layout.high
    action = rng.uniform(low, high, (sum(lengths), len(JOINTS))).astype(np.float32)
    views, (height, width) = len(SPEC.cameras), SPEC.image_size
    frames = np.zeros((sum(lengths), views, height, width, 3), np.uint8)
    data = ArrayDataset(SPEC, lengths, action, action, frames=frames)
    return RecordedChunks(data, (2,), np.zeros(data.num_frames, np.int64))


def test_the_joint_and_the_part_that_are_wrong_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = recordings()
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=1))
    wrong, done = np.zeros(len(JOINTS), np.float32), [0]
    wrong[1] = 0.25

    def act(self: Any, observations: Any) -> np.ndarray:
        """What was recorded, with one joint beside it in the first frame of an episode."""
        which = np.arange(done[0], done[0] + len(observations["state"]))
        done[0] += len(which)
        first = chunks.windows.batch(which).frame == 0
        return chunks.batch(which).chunks.numpy() + first[:, None, None] * wrong

    monkeypatch.setattr("benchmarks.errors.PolicyActor.act", act)
    first, later = joint_errors(policy, chunks, [0, 1])
    assert (first["from_frame"], first["chunks"], later["from_frame"]) == (0, 2, 1)
    assert first["chunks"] + later["chunks"] == len(chunks)
    assert first["rms"][JOINTS[1]] == pytest.approx(0.25)
    assert first["rms"][JOINTS[0]] == 0
    assert set(later["rms"].values()) == {0.0}
    assert first["relative"][JOINTS[1]] > 0.3


def test_a_policy_that_knows_the_mean_alone_has_a_relative_error_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = recordings()
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=1))
    every = chunks.batch(np.arange(len(chunks)))
    angles = torch.from_numpy(SPEC.layout.angles)
    moved = every.chunks - torch.where(angles, every.observations["state"], 0.0)[:, None]

    def act(self: Any, observations: Any) -> np.ndarray:
        state = torch.as_tensor(observations["state"])
        return (moved.mean(0) + torch.where(angles, state, 0.0)[:, None]).numpy()

    monkeypatch.setattr("benchmarks.errors.PolicyActor.act", act)
    (row,) = joint_errors(policy, chunks, [0])
    assert all(value == pytest.approx(1.0, abs=1e-3) for value in row["relative"].values())
    for frames, words in (([3, 1], "rising"), ([-1], "rising"), ([], "rising"), ([90], "no recorded chunk")):
        with pytest.raises(ConfigError, match=words):
            joint_errors(policy, chunks, frames)
