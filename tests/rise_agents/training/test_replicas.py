"""A learner on two places learns what it learns on one, whoever is lost meanwhile."""

from __future__ import annotations

import pickle
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents import make_agent
from rise_agents.policies.data import StartChunks
from rise_agents.training.cluster import offline
from rise_agents.training.cluster.replicas import LostError, Recipe, SharedGradients, StandIn, lead
from rise_env.errors import RiseError
from tests.rise_agents.algorithms.conftest import Lab

_LAB = Lab()
_SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 16, "num_shards": 2}  # sums of two are exact
_AGENTS: dict[str, dict[str, Any]] = {
    "rise": {**_SMALL, "trainable": "all", "offline_ratio": 0.5},
    "selective_rise": {
        **_SMALL,
        "advantage_threshold": 10.0,
        "num_candidates": 3,
        "top_k": 2,
        "min_advantage_gap": 0.0,
    },
}
_CHUNKS = 64


class Sum:
    """Sums over two threads; from call number `breaks` on, one of them is gone."""

    def __init__(self, breaks: int = -1) -> None:
        self._barrier, self._parts = threading.Barrier(2, timeout=20), dict[int, torch.Tensor]()
        self._breaks, self._calls = breaks, [0, 0]

    def of(self, rank: int) -> Any:
        def all_reduce(flat: torch.Tensor) -> None:
            self._calls[rank] += 1
            if self._calls[rank] == self._breaks:
                self._barrier.abort()
            self._parts[rank] = flat.clone()
            self._barrier.wait()
            flat.copy_(self._parts[0] + self._parts[1])
            self._barrier.wait()

        return all_reduce


def first(name: str) -> Any:
    env = _LAB.envs(8)
    recorded = StartChunks(env.starts, _LAB.spec, [2], np.arange(len(env.starts)) % _LAB.codec.num_bins)
    made = make_agent(name, env, _LAB.policy(offset=0.5), offline=recorded if name == "rise" else None, **_AGENTS[name])
    made.proposer = lambda policy, seen, noise, guidance: policy.propose(policy.context_of(seen), noise, guidance)
    return made


def learned(name: str, breaks: int = -1) -> tuple[Any, Any, list[BaseException]]:
    """The algorithm of the first place, that of the second, and how the second ended."""
    leader, summed, failed = first(name), Sum(breaks), list[BaseException]()
    recipe = Recipe(name, _AGENTS[name], StandIn(leader.env, leader.env.starts),
                    offline.elsewhere(leader.offline, [], {}))  # fmt: skip
    follower: Any = pickle.loads(pickle.dumps(recipe))
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    follower.env.listen(told)
    second = follower.make(_LAB.policy(offset=0.5))
    second.learner.sharing = SharedGradients(1, 2, summed.of(1))

    def work() -> None:
        try:
            second.learn(_CHUNKS)
        except LostError as error:
            failed.append(error)

    lead(leader, lambda *answer: told.put(pickle.loads(pickle.dumps(answer))))
    lost: list[int] = []
    leader.learner.sharing = SharedGradients(0, 2, summed.of(0), lambda: lost.append(1))
    thread = threading.Thread(target=work)
    thread.start()
    leader.learn(_CHUNKS)
    thread.join(20)
    assert len(lost) == len(failed) == (breaks > 0)
    return leader, second, failed


@pytest.mark.parametrize("name", list(_AGENTS))
def test_two_places_learn_what_one_learns(name: str) -> None:
    alone = first(name)
    alone.learn(_CHUNKS)
    leader, second, _ = learned(name)
    assert alone.learner.num_updates == leader.learner.num_updates == second.learner.num_updates > 1
    for kind in ("policy", "learner"):
        one, two, other = (getattr(which, kind).state_dict() for which in (alone, leader, second))
        torch.testing.assert_close(two, one, rtol=0.0, atol=0.0)
        torch.testing.assert_close(other, two, rtol=0.0, atol=0.0)


def test_the_first_place_goes_on_where_another_is_lost() -> None:
    alone = first("rise")
    alone.learn(_CHUNKS)
    leader, _, failed = learned("rise", breaks=3)
    assert "place 1 of 2" in str(failed[0])
    torch.testing.assert_close(leader.policy.state_dict(), alone.policy.state_dict(), rtol=0.0, atol=0.0)


def test_gradients_that_no_place_has_stay_none() -> None:
    parameters = [torch.zeros(2), torch.zeros(3, 1), torch.zeros(1)]

    def double(flat: torch.Tensor) -> None:
        flat *= 2

    shared = SharedGradients(1, 2, double)
    loss, found = shared(lambda some: (float(sum(some)), [torch.ones(2), None, torch.ones(1)]), 4, parameters)
    assert loss == 8.0  # shards 1 and 3, twice
    assert found[1] is None
    torch.testing.assert_close(found[0], torch.full((2,), 2.0))


def test_places_that_are_out_of_step_are_told_apart() -> None:
    stand_in = StandIn(_LAB.envs(2), _LAB.envs(2).starts)
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stand_in.listen(told)
    told.put(("reset", 0))
    with pytest.raises(RiseError, match="step is asked here, reset on the first place"):
        stand_in.step(None)


def test_recordings_are_opened_again_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorded = _LAB.recordings(episodes=4)
    asked: list[Any] = []

    def open_dataset(*args: Any, **opening: Any) -> Any:
        asked.append((*args, opening))
        return recorded.dataset

    monkeypatch.setattr(offline, "open_dataset", open_dataset)
    monkeypatch.chdir(tmp_path)
    make = pickle.loads(pickle.dumps(offline.elsewhere(recorded, [Path("data")], {"trust_layout": True})))
    again: Any = make(None)
    assert asked == [([tmp_path / "data"], recorded.spec, {"trust_layout": True})]
    rows = np.arange(len(recorded))
    torch.testing.assert_close(vars(again.batch(rows))["chunks"], recorded.batch(rows).chunks)
