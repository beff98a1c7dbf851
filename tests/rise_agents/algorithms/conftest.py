"""A small policy, environments whose truth is known, and recorded chunks to mix in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.data import RecordedChunks
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.data.array_dataset import ArrayDataset
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


def recordings(episodes: int = 24, truncated: bool = False) -> RecordedChunks:
    """Recorded episodes with outcomes: successes move to the centre of the joint range, failures to its border, and the
    last five frames show which it was; how red a frame is tells the time that is left."""
    rng = np.random.default_rng(0)
    lengths, success = rng.integers(12, 20, episodes), np.arange(episodes) % 2 == 0
    owner = np.repeat(np.arange(episodes), lengths)
    left = np.concatenate([np.arange(length)[::-1] for length in lengths])
    frames = rng.integers(0, 40, (len(owner), len(SPEC.cameras), *SPEC.image_size, 3), dtype=np.uint8)
    frames[..., 0] += (10 * left).astype(np.uint8)[:, None, None, None]
    frames[..., 1] += np.where(success[owner] & (left < 5), 150, 0).astype(np.uint8)[:, None, None, None]
    middle, high = (SPEC.layout.low + SPEC.layout.high) / 2, SPEC.layout.high
    action = np.where(success[owner, None], middle, high).astype(np.float32)
    state = np.broadcast_to(middle, action.shape).astype(np.float32)
    columns = {"is_intervention": np.zeros(len(owner), bool)}
    if truncated:
        columns["episode_truncated"] = owner == 1
    dataset = ArrayDataset(SPEC, lengths, state, action, frames=frames, outcomes=success, **columns)
    return RecordedChunks(dataset, [2], np.full(len(owner), CODEC.unconditional))


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

    def recordings(self, **kwargs: Any) -> RecordedChunks:
        """Recorded episodes with outcomes."""
        return recordings(**kwargs)

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
