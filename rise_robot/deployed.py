"""Policies as a robot asks them: one observation in, one chunk out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from rise_env.errors import ConfigError, RobotError
from rise_env.tasks import TaskSpec

__all__ = ["DeployedPolicy", "ServerPolicy"]


class DeployedPolicy(Protocol):
    """A policy at work.

    Attributes:
        name: For the records.
        lags: Past observations that it reads, in control steps.
        real_time_chunking: Whether `infer` understands `rise_robot.execution.RTC_KEYS`.
    """

    name: str
    lags: tuple[int, ...]
    real_time_chunking: bool

    def begin(self, seed: int) -> None:
        """An episode begins; everything random in it follows from `seed`."""

    def infer(self, observation: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> np.ndarray:
        """A chunk float32 (chunk, D), rad and m.

        Args:
            observation: As of the environments, without a batch axis.
            told: What the executor tells besides; empty, or the entries of `RTC_KEYS`.

        Raises:
            RiseError: If there is none.
        """

    def close(self) -> None:
        """The last episode is over. Twice is fine."""


class ServerPolicy:
    """A policy behind a server that speaks the openpi protocol, ours or another.

    Args:
        client: `rise_robot.serving.PolicyClient`, connected.
        extra: Sent along with every observation, e.g. `prompt` or `advantage`.
    """

    def __init__(self, client: Any, extra: Mapping[str, Any] | None = None) -> None:
        self._client, self._extra = client, dict(extra or {})
        metadata = client.metadata
        self.metadata = dict(metadata)
        self.name = f"server-{metadata.get('policy', 'policy')}"
        self.lags = tuple(int(lag) for lag in metadata.get("lags", ()))
        self.real_time_chunking = bool(metadata.get("real_time_chunking", False))

    def check(self, task: TaskSpec) -> None:
        """Compare what the server says of its policy with a task; servers of others may say nothing.

        Raises:
            ConfigError: If joints, chunk or control rate differ.
        """
        expected: dict[str, Any] = {
            "joint_names": list(task.layout.names),
            "action_shape": [task.chunk, task.layout.dim],
            "fps": task.fps,
        }
        for key, value in expected.items():
            if key in self.metadata and self.metadata[key] != value:
                raise ConfigError(
                    f"the policy server serves {key} {self.metadata[key]}, task {task.name!r} has {value}. Serve "
                    "another policy, or choose the task and preset that it was trained for."
                )

    def begin(self, seed: int) -> None:
        """Tell the server with the next request."""
        self._client.reset(seed)

    def infer(self, observation: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> np.ndarray:
        """Ask the server.

        Raises:
            RobotError: If it is gone, refuses, is too slow or gives no actions.
        """
        answer = self._client.infer({**observation, **self._extra, **told})
        if "actions" not in answer:
            raise RobotError(f"the policy server answered without 'actions': {', '.join(map(str, answer))}")
        return np.asarray(answer["actions"])

    def close(self) -> None:
        """End the connection."""
        self._client.close()
