"""Policy server and client: the openpi wire protocol over websockets.

`PolicyServer` serves whatever satisfies `ServedPolicy`, `PolicyClient` asks it (or openpi's own server), `RemotePolicy`
lets a served policy act in our environments and on robots, `encode` and `decode` are the wire format.
"""

from rise_robot.serving.client import PolicyClient
from rise_robot.serving.codec import WireError, decode, encode
from rise_robot.serving.policy import PolicySession, ServedPolicy
from rise_robot.serving.remote import RemotePolicy
from rise_robot.serving.run import parse_address, read_token, serve_until_signal
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
    "parse_address",
    "read_token",
    "serve_until_signal",
]
