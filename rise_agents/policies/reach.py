"""A base policy for `RISE-Reach-v0`, trained in seconds, which misses the dot by an angle."""

from __future__ import annotations

import numpy as np
import torch

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.envs.reach import reach_batch, reach_spec
from rise_env.threads import single_threaded

__all__ = ["reach_policy"]

#: Chunks of the best of ten bins gain 0.235 and more of the 0.25 that is possible: their angle is 20 degrees at most.
_CODEC = AdvantageCodec(scale=3.4)
_NETWORK = NetworkConfig(patch=6, channels=(16,), embed=48, width=96, depth=2, condition=64, dropout=0.0)
_BATCH = 128


def reach_policy(offset: float = 45.0, spread: float = 35.0, *, updates: int = 400, seed: int = 0) -> FlowPolicy:
    """A small `FlowPolicy`, cloned from chunks of somebody who misses the dot.

    Args:
        offset: Mean angle of the cloned chunks in degrees; 0 for an expert.
        spread: Its deviation in degrees.
        updates: Updates of 128 chunks.
        seed: Of weights, chunks and updates.

    Returns:
        The policy in evaluation mode, which acts with noise of scale 1 and without guidance. With the default angles
        its episodes bring about 0.6 of the optimum (`rise_env.envs.reach.mean_return`).
    """
    with single_threaded(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = FlowPolicyConfig(
            network=_NETWORK, lags=(), prediction_type="sample", steps=4, guidance=1.0, jitter=0.0, shift=0,
            noise_samples=2, storage="fp32",
        )  # fmt: skip
        policy = FlowPolicy(reach_spec(), config, _CODEC)
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        observations, chunks = reach_batch(2048, offset, spread, rng)
        policy.fit_normalisation(torch.from_numpy(observations["state"]), torch.from_numpy(chunks))
        optimiser = torch.optim.Adam(policy.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
        best = torch.full((_BATCH,), _CODEC.best_bin)  # demonstrations are never scored
        for _ in range(updates):
            observations, chunks = reach_batch(_BATCH, offset, spread, rng)
            loss = policy.loss(policy.context_of(observations), best, torch.from_numpy(chunks), generator).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return policy.eval()
