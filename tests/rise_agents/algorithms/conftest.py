"""A small policy, environments whose truth is known, and recorded chunks to mix in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.testing import counting_envs, counting_spec, counting_starts, counting_world_model

SPEC = counting_spec()
CODEC = AdvantageCodec(scale=4.0)


class Offline:
    """Recorded chunks: the centre of the joint range under the best advantage, its border under the worst."""

    def __init__(self, size: int = 64) -> None:
        self.size, self.drawn = size, 0
        self._starts = counting_starts()

    def __len__(self) -> int:
        return self.size

    def batch(self, rows: np.ndarray, device: Any = "cpu") -> Any:
        from rise_agents.policies.data import Recorded
        from rise_env.spaces import image_key, lag_key

        self.drawn += len(rows)
        batch = self._starts.batch(rows % len(self._starts))
        observations = {}
        for lag, place in ((0, -1), (2, -2)):
            for view, camera in enumerate(SPEC.cameras):
                observations[lag_key(image_key(camera), lag)] = torch.from_numpy(batch.frames[:, place, view])
            observations[lag_key("state", lag)] = torch.from_numpy(batch.states[:, place])
        good = torch.from_numpy(rows % 2 == 0)
        low, high = torch.from_numpy(SPEC.layout.low), torch.from_numpy(SPEC.layout.high)
        chunks = torch.where(good[:, None], (low + high) / 2, high)[:, None].expand(-1, SPEC.chunk, -1)
        bins = torch.where(good, CODEC.best_bin, 0)
        return Recorded(observations, chunks.contiguous(), bins, [SPEC.prompt] * len(rows))


class Lab:
    """Makes what tests of algorithms need."""

    spec, codec = SPEC, CODEC

    def policy(self, seed: int = 0, offset: float = 0.0, **changes: Any) -> FlowPolicy:
        """A random policy; `offset` moves its chunks away from the best."""
        torch.manual_seed(seed)
        network = NetworkConfig(channels=(4, 8), embed=8, width=48, depth=1, condition=32)
        config = FlowPolicyConfig(network=network, lags=(2,), steps=3, noise_samples=1, storage="fp32", **changes)
        made = FlowPolicy(SPEC, config, CODEC)
        made.chunk_std.fill_(0.6)
        made.chunk_mean.fill_(offset)
        return made

    def envs(self, count: int = 16, **kwargs: Any) -> Any:
        """Imagination in which chunks near the centre of the joint range make progress."""
        starts = kwargs.pop("starts", None) or counting_starts(count=24)
        model = counting_world_model(doubt=0.5)
        return counting_envs(
            count, starts=starts, world_model=model, observation_lags=[2], autoreset_mode="disabled", **kwargs
        )

    def offline(self, size: int = 64) -> Offline:
        """Recorded chunks."""
        return Offline(size)

    def imagined_advantage(self, algorithm: Any, deterministic: bool = False) -> float:
        """Mean advantage of what the policy does."""
        envs, total = self.envs(), 0.0
        for seed in range(4):
            observation, _ = envs.reset(seed=1000 * seed)
            chunks = algorithm.predict(observation, deterministic=deterministic)[0]
            total += float(envs.evaluate_candidates(chunks[:, None]).advantage.mean()) / 4
        return total


@pytest.fixture
def lab() -> Lab:
    return Lab()
