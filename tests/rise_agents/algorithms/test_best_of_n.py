"""Best of n picks what imagination ranks first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rise_agents.algorithms.best_of_n import BestOfN, imagined_advantages
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.errors import ConfigError
from rise_env.testing import counting_envs, counting_spec, counting_world_model

SPEC = counting_spec()


def policy() -> FlowPolicy:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    made = FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=2))
    made.chunk_std.fill_(0.5)
    return made


def test_it_takes_the_proposal_that_is_imagined_best() -> None:
    chooser = BestOfN(policy(), counting_world_model(), 8)
    envs = counting_envs(3, observation_lags=chooser.lags, autoreset_mode="disabled")
    observations, _ = envs.reset(seed=0)
    chooser.reset([4, 5, 6], np.ones(3, bool))
    chosen = chooser.act(observations)
    middle = (SPEC.layout.low + SPEC.layout.high) / 2
    half = (SPEC.layout.high - SPEC.layout.low) / 2

    def distance(chunks: np.ndarray) -> np.ndarray:
        # What the counting world model pays for: the last action of every stride, earlier ones counting for longer.
        apart = np.abs((chunks[..., 1::2, :] - middle) / half).mean(-1)
        return apart @ np.arange(apart.shape[-1], 0, -1)

    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5, 6)]
    for row, generator in enumerate(generators):
        model = policy().eval()
        context = model.context({k: torch.from_numpy(v[[row]]) for k, v in observations.items()}, [SPEC.prompt])
        noise = model.draw_noise([generator] * 8)
        with torch.no_grad():
            levels = torch.full((8,), model.codec.best_bin)
            proposals = model.sample(context[torch.zeros(8, dtype=torch.long)], levels, noise).numpy()
        proposals = np.clip(proposals, SPEC.layout.low, SPEC.layout.high)
        np.testing.assert_allclose(chosen[row], proposals[distance(proposals).argmin()], atol=1e-5)
    envs.close()


def test_advantages_do_not_depend_on_how_many_are_imagined_at_once() -> None:
    model = counting_world_model()
    envs = counting_envs(2, observation_lags=BestOfN(policy(), model, 1).lags, autoreset_mode="disabled")
    observations, _ = envs.reset(seed=0)
    chunks = torch.from_numpy(np.stack([envs.single_action_space.sample() for _ in range(7)]))
    owner = torch.tensor([0, 0, 1, 1, 1, 0, 1])
    whole = imagined_advantages(model, observations, chunks, owner)
    torch.testing.assert_close(imagined_advantages(model, observations, chunks, owner, batch_size=3), whole)
    envs.close()


def test_the_history_must_be_offered() -> None:
    chooser = BestOfN(policy(), counting_world_model(), 2)
    envs = counting_envs(1, observation_lags=[2], autoreset_mode="disabled")
    observations, _ = envs.reset(seed=0)
    chooser.reset([0], np.ones(1, bool))
    with pytest.raises(KeyError, match="lag6"):
        chooser.act(observations)
    with pytest.raises(ConfigError, match="at least 1"):
        BestOfN(policy(), counting_world_model(), 0)
