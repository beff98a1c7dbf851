"""A client of the policy server, ours or openpi's: an observation goes out, actions come back."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Self

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from rise_env.errors import ConfigError, RobotError
from rise_robot.serving.codec import WireError, decode, encode

__all__ = ["PolicyClient"]

_RETRY = 0.25  # s between attempts to connect
_MOST_BYTES = 64 * 2**20  # of an answer


class PolicyClient:
    """Asks a policy server for actions. Not for several threads at once.

    A connection that is lost stays lost: every further request is an error until `connect` is called again, because the
    server has forgotten what it saw of the episode.

    Args:
        host: Host name or address, or the beginning of a URI ("ws://...", "wss://...").
        port: Port; None where the URI says it all.
        api_key: The server's token, if it wants one.
        timeout: Time for a request, from sending to its answer, s.

    Attributes:
        metadata: What the server said of its policy when it was connected; empty before.

    Example:
        >>> with PolicyClient("127.0.0.1", 8000) as client:  # doctest: +SKIP
        ...     client.reset(seed=0)  # an episode begins
        ...     chunk = client.infer({"image_head": image, ..., "state": state})["actions"]
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int | None = 8000, api_key: str | None = None, timeout: float = 10.0
    ) -> None:
        if timeout <= 0:
            raise ConfigError(f"timeout is {timeout}, expected a positive number of seconds")
        base = host if host.startswith(("ws://", "wss://")) else f"ws://{_bracketed(host)}"
        self.uri = base if port is None else f"{base}:{port}"
        self.timeout = timeout
        self.metadata: dict[str, Any] = {}
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._connection: ClientConnection | None = None
        self._open_connection = ExitStack()
        self._lost = ""
        self._episode: dict[str, Any] = {}

    def connect(self, wait: float = 0.0) -> Self:
        """Connect and read the metadata; RobotError if there is no server, or it turns this client away; the message
        says why.

        Args:
            wait: How long to try again while no server answers at all, s; servers listen only when they are warm.
        """
        if self._connection is not None:
            raise RobotError(f"already connected to {self.uri}")
        deadline = time.monotonic() + wait
        while True:
            try:
                opening = connect(
                    self.uri, additional_headers=self._headers, compression=None, open_timeout=self.timeout,
                    close_timeout=1.0, max_size=_MOST_BYTES,
                    proxy=None,  # a robot's policy server is in its own network
                )  # fmt: skip
                connection = self._open_connection.enter_context(opening)
                break
            except (ConnectionRefusedError, socket.gaierror) as error:
                if isinstance(error, ConnectionRefusedError) and time.monotonic() < deadline:
                    time.sleep(_RETRY)
                    continue
                raise RobotError(
                    f"no policy server at {self.uri} ({error}). Start one with `rise serve --policy PATH`; it listens "
                    "once it is warm."
                ) from error
            except (InvalidURI, InvalidHandshake) as error:
                said = error.response.body if isinstance(error, InvalidStatus) else b""
                text = f": {said.decode('utf-8', 'replace').strip()}" if said else ""
                raise RobotError(f"{self.uri} lets no client in: {error}{text}") from error
            except OSError as error:  # timeouts among them
                raise RobotError(f"cannot connect to {self.uri}: {error or type(error).__name__}") from error
        try:
            metadata = self._read(connection, self.timeout)
            if not isinstance(metadata, dict):
                raise RobotError(f"{self.uri} is no policy server: it said {type(metadata).__name__}, expected a map")
            # A receiver that stalls must not hold the sender for ever: sending has no timeout of its own.
            limit = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6))
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        except BaseException as error:
            self._open_connection.close()
            if isinstance(error, OSError):
                raise self._gone(error) from error
            raise
        self.metadata, self._connection, self._lost, self._episode = metadata, connection, "", {}
        return self

    def reset(self, seed: int | None = None) -> None:
        """An episode begins: the next request tells the server to forget what it saw, and where its noise starts."""
        self._episode = {"reset": True} if seed is None else {"reset": True, "seed": int(seed)}

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for actions.

        Args:
            observation: See docs/serving.md for the keys.

        Returns:
            `actions` float32 (chunk, D) in rad and m, `server_timing`, `policy_timing`, and what else the server adds;
            arrays are read-only.

        Raises:
            WireError: If the observation cannot be sent. The connection stays.
            RobotError: If the server refuses the observation, does not answer in time, or is gone. The connection has
                ended then.
        """
        if self._connection is None:
            raise RobotError(self._lost or f"not connected to {self.uri}: call connect() first")
        frame = encode({**observation, **self._episode})
        deadline = time.monotonic() + self.timeout
        try:
            self._connection.send(frame)
            answer = self._read(self._connection, max(0.0, deadline - time.monotonic()))
            if not isinstance(answer, dict):
                raise RobotError(f"{self.uri} answered with {type(answer).__name__}, expected a map")
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self._lost = f"the connection to {self.uri} has ended ({reason}); call connect() for a new episode"
            self._drop()
            if isinstance(error, ConnectionClosed):
                raise self._gone(error) from error
            raise
        self._episode = {}
        return answer

    def close(self) -> None:
        """End the connection. Twice is fine."""
        self._connection, self._lost = None, ""
        self._open_connection.close()

    def __enter__(self) -> Self:
        return self if self._connection is not None else self.connect()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, connection: ClientConnection, timeout: float) -> Any:
        try:
            message = connection.recv(timeout=timeout)
        except TimeoutError:
            raise RobotError(
                f"{self.uri} did not answer within {self.timeout:g} s; what it would still send belongs to a moment "
                "that has passed"
            ) from None
        except ConnectionClosed as error:
            raise self._gone(error) from error
        if isinstance(message, str):
            raise RobotError(f"the policy server refused: {message}")
        try:
            return decode(message)
        except WireError as error:
            raise RobotError(f"{self.uri} is no policy server, or a damaged one: {error}") from error

    def _drop(self) -> None:
        """End a connection that is of no use any more without waiting for the other side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):  # closed already
                connection.socket.shutdown(socket.SHUT_RDWR)
        self._open_connection.close()

    def _gone(self, error: Exception) -> RobotError:
        return RobotError(f"the policy server at {self.uri} is gone: {error}")


def _bracketed(host: str) -> str:
    """An IPv6 address as a URI has it."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
