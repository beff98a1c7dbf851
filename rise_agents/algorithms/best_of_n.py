"""Best of n: propose several chunks, imagine all of them, execute the one that is imagined best.

Nothing is trained. It is the control that says how much the world model knows about which chunk is better, and a way to
spend computing time at the robot instead of before. With the work cell as the judge it is the oracle: how much there is
to choose from at each decision, with hindsight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from rise_agents.algorithms.proposals import ProposalConfig, check_kinds, mixed_proposals
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_env.envs.advantage import chunk_advantage
from rise_env.envs.batch import check_lookahead, observation_of
from rise_env.errors import ConfigError
from rise_env.protocols import History
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec
from rise_env.world_model import CompositionalWorldModel

__all__ = [
    "BestOfN",
    "Imagination",
    "Judge",
    "Oracle",
    "Proposer",
    "act_anew",
    "history_lags",
    "imagined_advantages",
    "observed_history",
]


class Judge(Protocol):
    """Says how good chunks are.

    Attributes:
        lags: Past observations that it reads, control steps.
    """

    lags: tuple[int, ...]

    def scores(self, observations: Mapping[str, Any], chunks: torch.Tensor) -> torch.Tensor:
        """Advantages float32 (N, G) of G chunks each, (N, G, chunk, D) in rad and m, in N observed states."""


class Imagination:
    """A world model as the judge.

    Args:
        world_model: Imagines and scores.
    """

    def __init__(self, world_model: CompositionalWorldModel) -> None:
        self.world_model, self.lags = world_model, history_lags(world_model.spec)

    def scores(self, observations: Mapping[str, Any], chunks: torch.Tensor) -> torch.Tensor:
        """See `Judge.scores`."""
        owner = torch.arange(len(chunks)).repeat_interleave(chunks.shape[1])
        found = imagined_advantages(self.world_model, observations, chunks.flatten(0, 1), owner)
        return found.reshape(chunks.shape[:2]).cpu()


class Oracle:
    """The work cell itself as the judge: every chunk is run from the very state and taken back.

    Args:
        envs: Cells in which the episodes run (`rise_robot.cell.vector.CellVectorEnv`).

    Raises:
        ConfigError: If these are no cells.
    """

    lags: tuple[int, ...] = ()

    def __init__(self, envs: Any) -> None:
        if not hasattr(envs, "true_advantages"):
            raise ConfigError("the oracle judges in the work cell only, where a state can be returned to")
        self._envs = envs

    def scores(self, observations: Mapping[str, Any], chunks: torch.Tensor) -> torch.Tensor:
        """See `Judge.scores`; the observations are those of the cells now."""
        del observations
        return torch.from_numpy(self._envs.true_advantages(chunks.numpy()))


class Proposer(PolicyActor):
    """A policy that proposes several chunks per decision; acting, it runs the first.

    Args:
        policy: Proposes.
        count: Proposals per decision, n.
        advantage_bin, guidance, steps: As for `PolicyActor`.
        noise_scale: Standard deviation of the noise that the policy's proposals start from.
        proposals: Where they come from (`rise_agents.algorithms.proposals.PROPOSALS`). Unless all are drawn from the
            policy, the first is its chunk without noise.
        config: How far they lie from the policy's.

    Raises:
        ConfigError: If a way of proposing is unknown, or there are too few proposals for all of them.
    """

    def __init__(
        self,
        policy: Policy,
        count: int,
        advantage_bin: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        noise_scale: float = 1.0,
        proposals: Sequence[str] = ("policy",),
        config: ProposalConfig | None = None,
    ) -> None:
        if count < 1:
            raise ConfigError(f"best of {count}: expected at least 1 proposal")
        check_kinds(proposals)
        if set(proposals) != {"policy"} and count <= len(proposals):
            raise ConfigError(
                f"best of {count}: expected at least {len(proposals) + 1}, for the policy's own chunk and one each of "
                f"{', '.join(proposals)}"
            )
        super().__init__(policy, advantage_bin, guidance, steps, noise_scale)
        self.count, self.proposals, self.proposal = count, tuple(proposals), config or ProposalConfig()
        self.supports_rtc = False

    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """The first proposals, float32 (N, chunk, D), rad and m."""
        return self.propose(observations)[:, 0].numpy()

    @torch.no_grad()
    def propose(self, observations: Mapping[str, Any]) -> torch.Tensor:
        """Proposals float32 (N, n, chunk, D), rad and m, on the CPU."""
        policy, context = self.policy, self.policy.context_of(observations)

        def sample(rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            bins = torch.full((len(rows),), self.advantage_bin, device=policy.device)
            seen = context[rows.to(policy.device)]
            chunks = policy.sample(seen, bins, noise.to(policy.device), guidance=self.guidance, steps=self.steps)
            return policy.within_limits(chunks).cpu()

        if set(self.proposals) == {"policy"}:
            noise = torch.stack([policy.draw_noise([g] * self.count) for g in self._generators]).flatten(0, 1)
            owner = torch.arange(len(context)).repeat_interleave(self.count)
            return sample(owner, self.noise_scale * noise).unflatten(0, (len(context), self.count))
        own = sample(torch.arange(len(context)), torch.zeros((len(context), *policy.noise_shape)))
        others = []
        for row, generator in enumerate(self._generators):

            def draw(number: int, scale: float, row: int = row, generator: Any = generator) -> torch.Tensor:
                noise = scale * self.noise_scale * policy.draw_noise([generator] * number)
                return sample(torch.full((number,), row), noise)[None]

            place = slice(row, row + 1)
            found = mixed_proposals(
                self.proposals, self.count - 1, draw, own[place], context.state[place].cpu(), policy.spec.layout,
                self.proposal, generator,
            )  # fmt: skip
            others.append(found)
        return torch.cat([own[:, None], torch.cat(others)], dim=1)


class BestOfN(Proposer):
    """A `rise_env.acting.Actor` that runs the best of its proposals; it reads as much of the past as its judge does.

    Args:
        policy: Proposes.
        judge: Scores; a world model stands for imagination by it.
        *how: As of `Proposer`, from the number of proposals on.
        **more: As of `Proposer`.

    Raises:
        ConfigError: As of `Proposer`, or if policy and world model are of different tasks.
    """

    def __init__(self, policy: Policy, judge: CompositionalWorldModel | Judge, *how: Any, **more: Any) -> None:
        super().__init__(policy, *how, **more)
        if isinstance(judge, CompositionalWorldModel):
            spec = judge.spec
            if spec.layout.names != policy.spec.layout.names or list(spec.cameras) != list(policy.spec.cameras):
                raise ConfigError("policy and world model have different joints or cameras")
            judge = Imagination(judge)
            if not set(policy.lags) <= set(judge.lags):
                raise ConfigError(f"the policy reads lags {policy.lags}, the world model's history has {judge.lags}")
        self.judge, self.lags = judge, tuple(sorted({*policy.lags, *judge.lags}))

    @torch.no_grad()
    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """The best of the proposals, float32 (N, chunk, D), rad and m."""
        chunks = self.propose(observations)
        best = self.judge.scores(observations, chunks).argmax(dim=1)
        return chunks[torch.arange(len(chunks)), best].numpy()


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


def act_anew(actor: PolicyActor, observations: Mapping[str, Any]) -> np.ndarray:
    """Chunks (N, chunk, D) of an actor in states of no episode that it knows."""
    count = len(observations["state"])
    actor.reset([0] * count, np.ones(count, bool))
    return actor.act(observations)


@torch.no_grad()
def imagined_advantages(
    world_model: CompositionalWorldModel,
    observations: Mapping[str, Any],
    chunks: torch.Tensor,
    owner: torch.Tensor,
    batch_size: int = 128,
    continuation: PolicyActor | None = None,
    lookahead: int = 0,
) -> torch.Tensor:
    """Advantages float32 (M,), as a world model imagines them, of chunks float32 (M, chunk, D) in rad and m.

    Chunk i starts from environment `owner[i]`, int64 (M,), of the N observed ones, whose observations have the lags
    `history_lags`. All are imagined under the same noise, for they are to differ by what they do; `batch_size` at once.
    With a continuation, that acts in what was imagined for `lookahead` chunks more, and the advantage is that of the
    last one, against the value now.
    """
    check_lookahead(continuation, lookahead)
    spec = world_model.spec
    session = world_model.open(observed_history(world_model, observations))
    scores = []
    for start in range(0, len(chunks), batch_size):
        rows = owner[start : start + batch_size].tolist()
        part = world_model.select(session, rows)
        generators = [torch.Generator().manual_seed(0) for _ in rows]
        some = chunks[start : start + batch_size].to(world_model.device)
        imagined = world_model.imagine(part, some, generators)
        for _ in range(lookahead):
            assert continuation is not None
            lags = (0, *continuation.lags)
            places = [-1 - lag // spec.stride for lag in lags]
            states = some[:, [-1 - lag for lag in lags]] if imagined.states is None else imagined.states[:, places]
            seen = observation_of(imagined.frames(places), states, list(spec.cameras), lags, tensors=False)
            some = torch.from_numpy(act_anew(continuation, seen)).to(world_model.device)
            imagined = world_model.imagine(imagined.session, some, generators)
        scores.append(chunk_advantage(imagined.values, part.value))
    world_model.close(session)
    return torch.cat(scores)
