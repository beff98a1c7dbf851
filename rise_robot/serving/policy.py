"""What the policy server serves: anything that turns an observation into actions, with a session per client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

__all__ = ["PolicySession", "ServedPolicy"]


@runtime_checkable
class PolicySession(Protocol):
    """One client's view of a policy; whatever it remembers (past observations, random numbers) is that client's."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Answer an observation.

        Args:
            observation: What the client sent: arrays (read-only), numbers, text, and dicts and lists of these.

        Returns:
            What the client gets: `actions` float32 (chunk, D), and whatever else; nothing that msgpack cannot carry.

        Raises:
            RiseError: If the observation is wrong. Its message is sent to the client as it is.
        """


@runtime_checkable
class ServedPolicy(Protocol):
    """A policy as the server needs it. All its methods, and those of its sessions, run in one and the same thread.

    Attributes:
        metadata: Sent to every client when it connects; plain values.
    """

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See above."""

    def open(self) -> PolicySession:
        """A session for a new client."""

    def example(self) -> dict[str, Any]:
        """An observation of zeros with everything that `infer` needs: for warming up, and for how big frames get."""
