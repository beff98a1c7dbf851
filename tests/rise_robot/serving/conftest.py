"""A policy that is all arithmetic, so that tests of the server are about the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.serving import PolicyServer, ServerConfig


class CountingPolicy:
    """Answers twice the state, and how many observations the session has seen.

    `hold` makes the next inferences wait, `fault` makes them fail.
    """

    def __init__(self) -> None:
        self.metadata = {"name": "counting", "lags": []}
        self.opened = 0
        self.threads: set[int] = set()
        self.fault: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()
        self.answer: dict[str, Any] = {}
        self.order: list[float] = []

    def open(self) -> CountingSession:
        self.opened += 1
        return CountingSession(self)

    def example(self) -> dict[str, Any]:
        return {"state": np.zeros(3, np.float32), "image_head": np.zeros((8, 8, 3), np.uint8)}


class CountingSession:
    def __init__(self, policy: CountingPolicy) -> None:
        self.policy, self.seen = policy, 0

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.policy.threads.add(threading.get_ident())
        self.policy.entered.set()
        assert self.policy.hold.wait(20)
        if self.policy.fault is not None:
            raise self.policy.fault
        if "state" not in observation:
            raise ConfigError("the observation has no 'state'")
        self.seen = 1 if observation.get("reset") else self.seen + 1
        state = np.asarray(observation["state"], np.float32)
        self.policy.order.append(float(state[0]))
        return {"actions": np.stack([2 * state] * 4), "seen": self.seen, **self.policy.answer}


@pytest.fixture
def policy() -> CountingPolicy:
    return CountingPolicy()


@pytest.fixture
def start(policy: CountingPolicy) -> Iterator[Callable[..., PolicyServer]]:
    """A function that starts a server on a free port; the test's end stops it."""
    with ExitStack() as stack:

        def make(**settings: Any) -> PolicyServer:
            return stack.enter_context(PolicyServer(policy, ServerConfig(**{"port": 0, **settings})))

        yield make
        policy.hold.set()
