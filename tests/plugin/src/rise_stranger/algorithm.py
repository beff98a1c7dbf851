"""An algorithm of somebody else: cloning of the policy's own proposals, weighted by their imagined advantage."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from rise_agents.algorithms.base import Algorithm, AlgorithmConfig
from rise_agents.policies.base import Policy


@dataclass(frozen=True)
class WeightedCloningConfig(AlgorithmConfig):
    """Settings of weighted cloning.

    Attributes:
        temperature: Advantage over which the weight of a proposal grows by a factor of e.
        learning_rate: Learning rate of Adam.
    """

    temperature: float = 0.1
    learning_rate: float = 1e-4


class WeightedCloning(Algorithm[WeightedCloningConfig]):
    """Learns every proposal in proportion to exp(advantage / temperature)."""

    name: ClassVar[str] = "weighted_cloning"
    Config = WeightedCloningConfig

    def __init__(
        self, policy: Policy, env: Any, config: WeightedCloningConfig | None = None, *, offline: Any = None
    ) -> None:
        super().__init__(copy.deepcopy(policy).eval(), env, config, offline=offline)
        self.check_fit()
        self.optimiser = torch.optim.Adam(self.policy.action_parameters(), lr=self.config.learning_rate)

    def step(self) -> None:
        rng = np.random.default_rng([self.config.seed, self.rounds])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        policy, count = self.policy, self.env.num_envs
        observations, _ = self.env.reset(seed=rng.integers(2**31, size=count).tolist())
        best = torch.full((count,), policy.codec.best_bin)
        with torch.no_grad():
            context = policy.context_of(observations)
            noise = torch.randn((count, *policy.noise_shape), generator=generator)
            chunks = policy.propose(context, noise, guidance=1.0)
        advantages = self.env.step(chunks.numpy())[1]
        self.num_timesteps += count
        weights = torch.softmax(torch.as_tensor(advantages) / self.config.temperature, dim=0).float()
        loss = (weights * policy.loss(context, best, chunks, generator)).sum()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.metrics |= {"train/loss": float(loss.detach()), "rollout/advantage": float(advantages.mean())}

    def training_state(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
