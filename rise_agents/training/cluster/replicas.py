"""A learner on several places: every place runs the whole algorithm and computes a part of each gradient.

What is random in an algorithm depends on its seed and the round alone, so places that see the same take the same
steps. The first place imagines and proposes, and tells the others what came of it; of every update each place computes
some shards, and the gradients are summed over the places. Nothing here knows Ray, and no algorithm knows this.
"""

from __future__ import annotations

import copy
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_agents import make_agent
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, Gradients, Proposer, Summed, add_up
from rise_agents.policies.base import Policy
from rise_agents.training.cluster.sharded_env import ATTRIBUTES
from rise_env.envs.batch import start_observations
from rise_env.envs.starts import StartStates
from rise_env.errors import RiseError

__all__ = ["LostError", "Recipe", "SharedGradients", "StandIn", "lead"]

#: Given a name and what a method of that name returned.
type Tell = Callable[[str, Any], None]
_METHODS = ("reset", "step", "evaluate_candidates", "recorded_actions")


class LostError(RiseError):
    """Another place is gone: this one's part of the run is over."""


class SharedGradients:
    """Sums gradients over places; what `Learner.sharing` is. The first place goes on alone where another is lost.

    Args:
        rank: Number of this place, 0 for the first one.
        size: Number of places.
        all_reduce: Sums a flat tensor over the places, in place; a RuntimeError means that one is gone.
        on_lost: Called at the first place once another is gone.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        all_reduce: Callable[[torch.Tensor], Any],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._rank, self._size, self._all_reduce, self._on_lost = rank, size, all_reduce, on_lost

    def __call__(self, gradients: Gradients, shards: int, parameters: Sequence[torch.Tensor]) -> Summed:
        """Loss and gradient of a whole batch; see `rise_agents.algorithms.learner.Sharing`."""
        rank, size = self._rank, self._size
        mine = gradients(range(rank, shards, size))
        if size == 1:
            return mine
        try:
            return self._exchanged(mine, parameters)
        except RuntimeError as error:
            if rank:
                raise LostError(f"place {rank} of {size}: {error}") from error
        self._on_lost()
        self._size = 1
        return add_up([mine, *(gradients(range(other, shards, size)) for other in range(1, size))])

    def _exchanged(self, mine: Summed, parameters: Sequence[torch.Tensor]) -> Summed:
        """The sum over all places, in one message; a gradient that no place has stays None."""
        loss, found = mine
        device = parameters[0].device
        head = torch.tensor([loss, *(float(one is not None) for one in found)], device=device)
        flat = torch.cat([head, *(torch.zeros(p.numel(), device=device) if one is None else one.flatten().float()
                                  for p, one in zip(parameters, found, strict=True))])  # fmt: skip
        self._all_reduce(flat)
        head, *parts = flat.split([len(head), *(p.numel() for p in parameters)])
        known = head[1:].tolist()
        return float(head[0]), [part.view_as(p).to(p.dtype) if some else None
                                for p, part, some in zip(parameters, parts, known, strict=True)]  # fmt: skip


class _Leading:
    """An environment whose answers are told."""

    def __init__(self, env: Any, tell: Tell) -> None:
        self._env, self._tell = env, tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._env, name)
        return self._telling(name, found) if name in _METHODS else found

    def _telling(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._tell(name, result)
            return result

        return call


def lead(algorithm: FlowMatchingAlgorithm[Any, Any], tell: Tell) -> None:
    """Tell the other places all that an algorithm's environment and proposer answer from now on."""
    proposer = algorithm.proposer
    assert proposer is not None  # an agent on a cluster has one
    leading: Any = _Leading(algorithm.env, tell)
    algorithm.env, algorithm.proposer = leading, leading._telling("propose", proposer)


class StandIn:
    """An environment and a proposer on another place than the first: they answer what they are told; can be sent.

    Args:
        env: The environment of the first place.
        starts: Its start states, in plain arrays.
    """

    def __init__(self, env: Any, starts: StartStates) -> None:
        for name in set(ATTRIBUTES) - {"starts", "world_model", "start_observations"}:
            setattr(self, name, getattr(env, name))
        self.starts, self.num_envs = starts, env.num_envs
        self._told: queue.SimpleQueue[tuple[str, Any]] | None = None

    @property
    def unwrapped(self) -> StandIn:
        """Itself."""
        return self

    def listen(self, told: queue.SimpleQueue[tuple[str, Any]]) -> None:
        """Answer from here."""
        self._told = told

    def start_observations(self, rows: np.ndarray) -> dict[str, Any]:
        """As of `ImaginationVectorEnv`."""
        place: Any = self
        found: dict[str, Any] = start_observations(place.starts, rows, place.task, place.lags)
        return found

    def reset(self, **_: Any) -> Any:
        """As of `ImaginationVectorEnv`; likewise the others."""
        return self._answer("reset")

    def step(self, _: Any) -> Any:  # noqa: D102
        return self._answer("step")

    def evaluate_candidates(self, _: Any) -> Any:  # noqa: D102
        return self._answer("evaluate_candidates")

    def recorded_actions(self) -> Any:  # noqa: D102
        return self._answer("recorded_actions")

    def propose(self, *_: Any) -> Any:
        """As of `Proposer`."""
        return self._answer("propose")

    def _answer(self, wanted: str) -> Any:
        assert self._told is not None
        name, result = self._told.get()
        if name != wanted:
            raise RiseError(f"the learners are out of step: {wanted} is asked here, {name} on the first place")
        return copy.deepcopy(result)  # what was sent cannot be written to


@dataclass(frozen=True)
class Recipe:
    """What an algorithm is made of on another place; can be sent.

    Attributes:
        name: Name of the algorithm.
        settings: Its settings.
        env: In place of its environment.
        offline: Makes its recorded chunks, from the start states of `env`.
    """

    name: str
    settings: Mapping[str, Any]
    env: StandIn
    offline: Callable[[StartStates], Any]

    def make(self, policy: Policy) -> FlowMatchingAlgorithm[Any, Any]:
        """The algorithm."""
        made: FlowMatchingAlgorithm[Any, Any] = make_agent(
            self.name, self.env, policy, offline=self.offline(self.env.starts), **self.settings
        )
        proposer: Proposer = self.env.propose
        made.proposer = proposer
        return made
