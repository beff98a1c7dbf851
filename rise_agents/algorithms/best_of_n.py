"""Best of n: propose several chunks, imagine all of them, execute the one that is imagined best.

Nothing is trained. It is the control that says how much the world model knows about which chunk is better, and a way to
spend computing time at the robot instead of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.policies.base import Policy, PolicyRunner, observation_tensors
from rise_env.envs.advantage import chunk_advantage
from rise_env.errors import ConfigError
from rise_env.protocols import History
from rise_env.spaces import image_key, lag_key
from rise_env.world_model import CompositionalWorldModel

__all__ = ["BestOfN"]


class BestOfN(PolicyRunner):
    """Satisfies `rise_agents.evaluation.evaluate.ChunkPolicy`; the environment must offer `lags`.

    Args:
        policy: Proposes.
        world_model: Imagines and scores.
        count: Proposals per decision, n.
        level: Advantage level to ask for; the best when None.
        guidance: As in `Policy.sample`; the policy's own when None.
        batch: Chunks imagined at once.
        noise: Deviation of the noise that proposals start from.

    Attributes:
        lags: `observation_lags` that the environment needs: the history that imagination starts from.

    Raises:
        ConfigError: If policy and world model are of different tasks.
    """

    def __init__(
        self,
        policy: Policy,
        world_model: CompositionalWorldModel,
        count: int,
        level: int | None = None,
        guidance: float | None = None,
        batch: int = 128,
        noise: float = 1.0,
    ) -> None:
        if count < 1:
            raise ConfigError(f"best of {count}: expected at least 1 proposal")
        spec = world_model.spec
        if spec.layout.names != policy.spec.layout.names or list(spec.cameras) != list(policy.spec.cameras):
            raise ConfigError("policy and world model have different joints or cameras")
        super().__init__(policy, level, guidance, noise=noise)
        self.world_model, self.count, self.batch = world_model, count, batch
        self.lags = tuple(spec.stride * k for k in range(1, spec.history))
        if not set(policy.lags) <= set(self.lags):
            raise ConfigError(f"the policy reads lags {policy.lags}, the world model's history has {self.lags}")

    @torch.no_grad()
    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """The best of `count` proposals, float32 (N, chunk, D), rad and m."""
        policy, envs = self.policy, len(observations["state"])
        context = policy.context(observation_tensors(observations, policy.device), [policy.spec.prompt] * envs)
        noise = torch.stack([policy.draw_noise([g] * self.count) for g in self._generators]).flatten(0, 1)
        owner = torch.arange(envs).repeat_interleave(self.count)
        levels = torch.full((len(owner),), self.level, device=policy.device)
        chunks = policy.sample(context[owner.to(policy.device)], levels, self.noise * noise, guidance=self.guidance)
        chunks = policy.within_limits(chunks)
        score = self.score(observations, chunks, owner).reshape(envs, self.count)
        best = torch.arange(envs) * self.count + score.argmax(dim=1).cpu()
        return chunks[best.to(chunks.device)].cpu().numpy()

    def history(self, observations: Mapping[str, Any]) -> History:
        """Where imagination starts: what was seen up to now."""
        model, spec = self.world_model, self.world_model.spec
        moments, states = [], []
        for lag in (*reversed(self.lags), 0):
            views = [np.asarray(observations[lag_key(image_key(camera), lag)]) for camera in spec.cameras]
            moments.append(np.stack(views, axis=1))
            states.append(np.asarray(observations[lag_key("state", lag)]))
        return History(
            torch.from_numpy(np.stack(moments, axis=1)).to(model.device),
            torch.from_numpy(np.stack(states, axis=1)).float().to(model.device),
            [spec.prompt] * len(states[0]),
        )

    def score(self, observations: Mapping[str, Any], chunks: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Imagined advantage of every proposal."""
        model = self.world_model
        session = model.open(self.history(observations))
        scores = []
        for start in range(0, len(chunks), self.batch):
            rows = owner[start : start + self.batch].tolist()
            part = model.select(session, rows)
            # The same noise for every proposal: they are to differ by what they do.
            generators = [torch.Generator().manual_seed(0) for _ in rows]
            imagined = model.imagine(part, chunks[start : start + self.batch].to(model.device), generators)
            scores.append(chunk_advantage(imagined.values, part.value))
        model.close(session)
        return torch.cat(scores)
