"""Best of n: propose several chunks, imagine all of them, execute the one that is imagined best.

Nothing is trained. It is the control that says how much the world model knows about which chunk is better, and a way to
spend computing time at the robot instead of before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_env.envs.advantage import chunk_advantage
from rise_env.errors import ConfigError
from rise_env.protocols import History
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec
from rise_env.world_model import CompositionalWorldModel

__all__ = ["BestOfN", "history_lags", "imagined_advantages", "observed_history"]


class BestOfN(PolicyActor):
    """A `rise_env.acting.Actor`; it reads as much of the past as imagination starts from.

    Args:
        policy: Proposes.
        world_model: Imagines and scores.
        count: Proposals per decision, n.
        advantage_bin, guidance, steps: As for `PolicyActor`.
        noise_scale: Standard deviation of the noise that proposals start from.

    Raises:
        ConfigError: If policy and world model are of different tasks.
    """

    def __init__(
        self,
        policy: Policy,
        world_model: CompositionalWorldModel,
        count: int,
        advantage_bin: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        noise_scale: float = 1.0,
    ) -> None:
        if count < 1:
            raise ConfigError(f"best of {count}: expected at least 1 proposal")
        spec = world_model.spec
        if spec.layout.names != policy.spec.layout.names or list(spec.cameras) != list(policy.spec.cameras):
            raise ConfigError("policy and world model have different joints or cameras")
        super().__init__(policy, advantage_bin, guidance, steps, noise_scale)
        self.world_model, self.count, self.lags = world_model, count, history_lags(spec)
        self.supports_rtc = False
        if not set(policy.lags) <= set(self.lags):
            raise ConfigError(f"the policy reads lags {policy.lags}, the world model's history has {self.lags}")

    @torch.no_grad()
    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """The best of `count` proposals, float32 (N, chunk, D), rad and m."""
        policy, context = self.policy, self.policy.context_of(observations)
        noise = torch.stack([policy.draw_noise([g] * self.count) for g in self._generators]).flatten(0, 1)
        owner = torch.arange(len(context)).repeat_interleave(self.count)
        bins = torch.full((len(owner),), self.advantage_bin, device=policy.device)
        chunks = policy.sample(
            context[owner.to(policy.device)], bins, self.noise_scale * noise, guidance=self.guidance, steps=self.steps
        )
        chunks = policy.within_limits(chunks)
        score = imagined_advantages(self.world_model, observations, chunks, owner).reshape(len(context), self.count)
        best = torch.arange(len(context)) * self.count + score.argmax(dim=1).cpu()
        return chunks[best.to(chunks.device)].cpu().numpy()


def history_lags(spec: TaskSpec) -> tuple[int, ...]:
    """The `observation_lags` that a world model's history consists of, control steps."""
    return tuple(spec.stride * k for k in range(1, spec.history))


def observed_history(world_model: CompositionalWorldModel, observations: Mapping[str, Any]) -> History:
    """Where imagination starts: what was observed up to now, with the lags `history_lags`."""
    spec = world_model.spec
    moments, states = [], []
    for lag in (*reversed(history_lags(spec)), 0):
        views = [np.asarray(observations[lag_key(image_key(camera), lag)]) for camera in spec.cameras]
        moments.append(np.stack(views, axis=1))
        states.append(np.asarray(observations[lag_key("state", lag)]))
    return History(
        torch.from_numpy(np.stack(moments, axis=1)).to(world_model.device),
        torch.from_numpy(np.stack(states, axis=1)).float().to(world_model.device),
        [spec.prompt] * len(states[0]),
    )


@torch.no_grad()
def imagined_advantages(
    world_model: CompositionalWorldModel,
    observations: Mapping[str, Any],
    chunks: torch.Tensor,
    owner: torch.Tensor,
    batch_size: int = 128,
) -> torch.Tensor:
    """Advantages float32 (M,), as a world model imagines them, of chunks float32 (M, chunk, D) in rad and m.

    Chunk i starts from environment `owner[i]`, int64 (M,), of the N observed ones, whose observations have the lags
    `history_lags`. All are imagined under the same noise, for they are to differ by what they do; `batch_size` at once.
    """
    session = world_model.open(observed_history(world_model, observations))
    scores = []
    for start in range(0, len(chunks), batch_size):
        rows = owner[start : start + batch_size].tolist()
        part = world_model.select(session, rows)
        generators = [torch.Generator().manual_seed(0) for _ in rows]
        imagined = world_model.imagine(part, chunks[start : start + batch_size].to(world_model.device), generators)
        scores.append(chunk_advantage(imagined.values, part.value))
    world_model.close(session)
    return torch.cat(scores)
