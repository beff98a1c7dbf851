"""Policy server and client: the openpi wire protocol over websockets.

`PolicyServer` serves whatever satisfies `ServedPolicy`, `PolicyClient` asks it (or openpi's own server), `RemotePolicy`
lets a served policy act in our environments, `encode` and `decode` are the wire format.
"""

from rise_robot.serving.client import PolicyClient, RemotePolicy
from rise_robot.serving.codec import WireError, decode, encode
from rise_robot.serving.policy import PolicySession, ServedPolicy
from rise_robot.serving.server import PolicyServer, ServerConfig

__all__ = [
    "PolicyClient",
    "PolicyServer",
    "PolicySession",
    "RemotePolicy",
    "ServedPolicy",
    "ServerConfig",
    "WireError",
    "decode",
    "encode",
]
