"""A policy behind a server as an `Actor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rise_env.errors import ConfigError, RobotError
from rise_env.tasks import TaskSpec
from rise_robot.closing import Closing
from rise_robot.serving.client import PolicyClient

__all__ = ["RemotePolicy"]

#: Keys of an observation for real-time chunking: what is left to play (R, D), delay and horizon, in control steps.
_RTC_KEYS = ("prev_action_chunk", "inference_delay", "execute_horizon")


class RemotePolicy(Closing):
    """A policy behind a server that speaks the openpi protocol: an `RtcActor` in our environments and on robots.

    Every environment has a connection of its own, so the noise of an episode depends on its seed alone, as with a
    policy in this process.

    Args:
        host: As of `PolicyClient`, and so are `port`, `api_key` and `timeout`.
        extra: Sent along with every observation: `advantage`, `prompt`.

    Raises:
        RobotError: If there is no server, or it turns this client away.

    Attributes:
        lags: Past observations that the policy reads: make environments with `observation_lags` of these.
        supports_rtc: Whether the server says that its policy takes the constraints of real-time chunking.
        metadata: What the server says of its policy.
        name: For records.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = 8000,
        api_key: str | None = None,
        timeout: float = 10.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._make = lambda: PolicyClient(host, port, api_key, timeout)
        self._extra = dict(extra or {})
        self._clients = [self._make().connect()]
        self.metadata = dict(self._clients[0].metadata)
        self.name = f"server-{self.metadata.get('policy', 'policy')}"
        self.lags = tuple(int(lag) for lag in self.metadata.get("lags", ()))
        self.supports_rtc = bool(self.metadata.get("real_time_chunking", False))

    def check(self, task: TaskSpec) -> None:
        """Compare what the server says of its policy with a task; servers of others may say nothing; ConfigError if
        joints, chunk or control rate differ.
        """
        shape, names = [task.chunk, task.layout.dim], list(task.layout.names)
        expected: dict[str, Any] = {"joint_names": names, "action_shape": shape, "fps": task.fps}
        for key, value in expected.items():
            if key in self.metadata and self.metadata[key] != value:
                raise ConfigError(
                    f"the policy server serves {key} {self.metadata[key]}, task {task.name!r} has {value}. Serve "
                    "another policy, or choose the task and preset that it was trained for."
                )

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Episodes start in the environments of `mask`; the server learns it with the next request."""
        while len(self._clients) < len(seeds):
            self._clients.append(self._make().connect())
        for client, seed, starts in zip(self._clients, seeds, mask, strict=False):
            if starts:
                client.reset(int(seed))

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Action chunks float32 (N, chunk, D), rad and m.

        Raises:
            RobotError: As `PolicyClient.infer`, and if the server gives no actions.
        """
        return self._ask(observations, [{}] * len(observations["state"]))

    def act_rtc(
        self, observations: Mapping[str, np.ndarray], previous: np.ndarray, delay: int, horizon: int
    ) -> np.ndarray:
        """As `act`, for real-time chunking; see `rise_env.acting.RtcActor`."""
        constraints = [dict(zip(_RTC_KEYS, (rows, delay, horizon), strict=True)) for rows in previous]
        return self._ask(observations, constraints)

    def _ask(self, observations: Mapping[str, np.ndarray], more: Sequence[Mapping[str, Any]]) -> np.ndarray:
        chunks = []
        for i, (client, extra) in enumerate(zip(self._clients[: len(more)], more, strict=True)):
            row = {key: np.asarray(value)[i] for key, value in observations.items()}
            answer = client.infer({**row, **self._extra, **extra})
            if "actions" not in answer:
                raise RobotError(f"the policy server answered without 'actions': {', '.join(map(str, answer))}")
            try:
                chunk = np.asarray(answer["actions"])
            except ValueError as error:  # a ragged list
                raise RobotError(f"the policy server answered with 'actions' that are no array: {error}") from error
            # What are no real numbers stays what it is, for whoever checks actions to refuse.
            chunks.append(chunk.astype(np.float32) if chunk.dtype.kind in "fiu" else chunk)
        return np.stack(chunks)

    def close(self) -> None:
        """End the connections. Twice is fine."""
        for client in self._clients:
            client.close()
