"""The policy server: the openpi protocol over websockets, for several clients at once."""

from __future__ import annotations

import asyncio
import functools
import hmac
import ipaddress
import json
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from rise_env.errors import ConfigError, RiseError, RobotError, requirement
from rise_robot.serving.codec import WireError, decode, encode
from rise_robot.serving.connection import Gate, GuardedConnection, library_logger
from rise_robot.serving.policy import PolicySession, ServedPolicy

__all__ = ["PolicyServer", "ServerConfig", "is_loopback"]

logger = logging.getLogger(__name__)
_HALF_OPEN = 64  # connections that may be there besides the clients: handshakes
_MOST_FRAGMENTS = 4096
_MARGIN, _MARGIN_BYTES = 4, 8 * 2**20  # default limit of a message, over the example observation


@dataclass(frozen=True)
class ServerConfig:
    """Settings of a `PolicyServer`.

    Attributes:
        host: Address to bind to. Any but loopback requires a token.
        port: Port; 0 takes a free one.
        token: What clients must present as `Authorization: Api-Key <token>`; None for everybody on this machine.
        max_clients: Clients at the same time.
        max_bytes: Longest message taken, bytes; None for 4 example observations and 8 MiB.
        warm_up: Inferences on an observation of zeros before the first client is let in.
        idle_seconds: A client that sends no whole observation for so long is dropped, s.
        send_seconds: A client that does not take its answer within this is dropped, s.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_clients: int = 8
    max_bytes: int | None = None
    warm_up: int = 2
    idle_seconds: float = 3600.0
    send_seconds: float = 10.0

    def __post_init__(self) -> None:
        require = requirement("policy server")
        require(0 <= self.port < 2**16, f"port is {self.port}, expected 0 (any free one) to 65535")
        require(self.max_clients >= 1, f"max_clients is {self.max_clients}, expected at least 1")
        require(self.max_bytes is None or self.max_bytes >= 1, f"max_bytes is {self.max_bytes}, expected at least 1")
        require(self.warm_up >= 0, f"warm_up is {self.warm_up}, expected at least 0")
        for name in ("idle_seconds", "send_seconds"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, expected a positive number")
        if self.token is not None:
            sound = self.token.isascii() and self.token.isprintable() and self.token.split() == [self.token]
            require(sound, "the token must be ASCII letters, digits and signs, without spaces, and not empty")
        elif not is_loopback(self.host):
            raise ConfigError(
                f"policy server: {self.host!r} can be reached from other machines, so a token is needed. Give one "
                "(rise serve --token-file FILE, or the environment variable RISE_SERVE_TOKEN), or serve on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether an address, or all addresses of a name, are of this machine alone; ConfigError if the name is unknown."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"policy server: host {host!r} is not known here ({error}). Use 127.0.0.1") from error
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


class PolicyServer:
    """Serves a policy until it is stopped; works beside the program that starts it, in threads of its own.

    One thread talks to all clients, another one infers: one observation at a time, in the order of arrival. A client
    waits for its answer before its next observation is read, so none can crowd out the others.

    Raises:
        ConfigError: If other machines could reach it and there is no token.

    Example:
        >>> with PolicyServer(policy, ServerConfig(port=0)) as server:  # doctest: +SKIP
        ...     with PolicyClient("127.0.0.1", server.port) as client:
        ...         client.infer(observation)["actions"]
    """

    def __init__(self, policy: ServedPolicy, config: ServerConfig | None = None) -> None:
        self.policy, self.config = policy, config or ServerConfig()
        self.max_bytes = 0
        self.port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready: Future[int] = Future()
        self._greeting = b""
        self._worker: ThreadPoolExecutor
        self._started = time.monotonic()
        self._clients = self._most_clients = self._all_clients = 0
        self._refused = self._errors = self._answered = 0
        #: Durations of the last thousand requests, ms.
        self._latencies = {name: deque[float](maxlen=1000) for name in ("infer", "queue", "total")}

    def start(self) -> None:
        """Warm up, then let clients in. Returns when they can connect.

        Raises:
            RobotError: If the port is taken, or it runs already.
            RiseError: Whatever the policy raises on an observation of zeros.
        """
        if self._thread is not None:
            raise RobotError("this policy server runs already")
        self._ready = Future()
        self._worker = ThreadPoolExecutor(1, "rise-policy")
        try:
            self._worker.submit(self._warm_up).result()
            self._thread = threading.Thread(target=self._run, name="rise-server", daemon=True)
            self._thread.start()
            self.port = self._ready.result()
        except BaseException:
            self._thread = None
            self._worker.shutdown()
            raise

    @property
    def running(self) -> bool:
        """Whether clients can connect."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Say goodbye to the clients and end. Twice is fine."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stop is not None and thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        thread.join()
        self._worker.shutdown()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def metrics(self) -> dict[str, Any]:
        """Clients, requests, errors, and latencies in ms of the last 1000 requests.

        `queue` is the wait for other clients' inferences, `infer` the policy, `total` from the whole observation having
        arrived until its answer was handed to the network.
        """
        return {
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "clients": {
                "now": self._clients, "most": self._most_clients, "all": self._all_clients, "refused": self._refused
            },
            "requests": self._answered,
            "errors": self._errors,
            "latency_ms": {name: self._summary(latencies) for name, latencies in self._latencies.items()},
            "max_bytes": self.max_bytes,
        }  # fmt: skip

    def _summary(self, latencies: Sequence[float]) -> dict[str, float]:
        if not latencies:
            return {"count": 0}
        p50, p99 = np.quantile(latencies, [0.5, 0.99])
        found = {"mean": np.mean(latencies), "p50": p50, "p99": p99, "max": max(latencies)}
        return {"count": self._answered, **{name: round(float(value), 3) for name, value in found.items()}}

    def _warm_up(self) -> None:
        example = self.policy.example()
        size = len(encode(example))
        self.max_bytes = self.config.max_bytes or _MARGIN * size + _MARGIN_BYTES
        if self.max_bytes < size:
            raise ConfigError(
                f"policy server: max_bytes is {self.max_bytes}, but an observation of this policy has {size} bytes "
                "(rise serve --max-megabytes)"
            )
        session = self.policy.open()
        for _ in range(self.config.warm_up):
            encode(session.infer(decode(encode(example))))
        self._greeting = encode(dict(self.policy.metadata))

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except RiseError as error:
            self._ready.set_exception(error)
        except Exception as error:
            logger.exception("the policy server ended with an error")
            if not self._ready.done():
                self._ready.set_exception(error)

    async def _main(self) -> None:
        config = self.config
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        gate = Gate(_HALF_OPEN, self.max_bytes)

        async def serve_client(connection: ServerConnection) -> None:
            assert isinstance(connection, GuardedConnection)
            gate.leave(connection)
            await self._serve_client(connection)

        try:
            server: Server = await serve(
                serve_client,
                config.host,
                config.port,
                origins=[None],  # browsers send an origin; a web page must not drive a robot
                compression=None,
                process_request=self._answer_request,
                server_header=None,
                open_timeout=5,
                close_timeout=5,
                max_size=self.max_bytes,
                max_queue=1,  # as many whole messages wait in memory
                logger=library_logger(),
                create_connection=functools.partial(GuardedConnection, gate),  # type: ignore[arg-type]
            )
        except OSError as error:
            raise RobotError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}. "
                "Choose another port (--port; 0 takes a free one) or end the program that uses it."
            ) from error
        async with server:
            self._started = time.monotonic()
            self._ready.set_result(server.sockets[0].getsockname()[1])
            await self._stop.wait()

    def _answer_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what needs no websocket, and turn away who may not have one."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not self._authorised(request):
            self._refused += 1
            logger.warning("refused %s: wrong token or none", _peer(connection))
            text = "This policy server wants a token, sent as: Authorization: Api-Key <token>\n"
            return connection.respond(HTTPStatus.UNAUTHORIZED, text)
        if path == "/metrics":
            response = connection.respond(HTTPStatus.OK, json.dumps(self.metrics()) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        if self._clients >= self.config.max_clients:
            self._refused += 1
            logger.warning("refused %s: %d clients are connected", _peer(connection), self._clients)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, self._full() + "\n")
        return None

    def _authorised(self, request: Request) -> bool:
        if self.config.token is None:
            return True
        given = request.headers.get_all("Authorization")
        wanted = f"Api-Key {self.config.token}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "surrogateescape"), wanted)

    def _full(self) -> str:
        return f"this policy server has its {self.config.max_clients} clients already (rise serve --max-clients)"

    async def _serve_client(self, connection: GuardedConnection) -> None:
        """Talk to one client until it leaves or something is wrong."""
        peer = _peer(connection)
        if self._clients >= self.config.max_clients:  # several were let in at the same moment
            self._refused += 1
            await self._refuse(connection, self._full(), CloseCode.TRY_AGAIN_LATER)
            return
        self._clients += 1
        self._all_clients += 1
        self._most_clients = max(self._most_clients, self._clients)
        logger.info("client %s connected, %d in all", peer, self._clients)
        try:
            await self._answer_observations(connection)
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._errors += 1
            logger.info("client %s left: %s", peer, error)
        except RiseError as error:
            self._errors += 1
            logger.warning("client %s: %s", peer, error)
            await self._refuse(connection, str(error))
        except Exception as error:  # a client's frame must not take the server down, whatever the policy makes of it
            self._errors += 1
            logger.exception("client %s: the policy failed", peer)
            await self._refuse(connection, f"the policy failed: {type(error).__name__}: {error} (see the server's log)")
        finally:
            self._clients -= 1

    async def _answer_observations(self, connection: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        session = await loop.run_in_executor(self._worker, self.policy.open)
        await self._send(connection, self._greeting)
        previous: float | None = None
        while True:
            frame = await self._receive(connection)
            arrived = time.perf_counter()
            observation = decode(frame)
            del frame
            if not isinstance(observation, dict):
                raise WireError(f"an observation is a map of names to values; a {type(observation).__name__} came")
            answer, started, ended = await loop.run_in_executor(self._worker, _infer, session, observation)
            del observation
            timing = {"infer_ms": 1e3 * (ended - started), "queue_ms": 1e3 * (started - arrived)}
            if previous is not None:
                timing["prev_total_ms"] = previous
            await self._send(connection, encode({**answer, "server_timing": timing}))
            previous = 1e3 * (time.perf_counter() - arrived)
            for name, took in (("infer", timing["infer_ms"]), ("queue", timing["queue_ms"]), ("total", previous)):
                self._latencies[name].append(took)
            self._answered += 1

    async def _receive(self, connection: ServerConnection) -> bytes:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.config.idle_seconds):
                async for part in connection.recv_streaming():
                    if isinstance(part, str):
                        raise WireError("a text message came; observations are binary messages (msgpack)")
                    parts.append(part)
                    if len(parts) > _MOST_FRAGMENTS:  # empty ones would add up without end
                        raise WireError(f"a message came in more than {_MOST_FRAGMENTS} fragments")
        except TimeoutError:
            seconds = f"{self.config.idle_seconds:g} s"
            raise RobotError(f"no observation came for {seconds} (rise serve --idle-seconds); connect again") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _send(self, connection: ServerConnection, message: bytes) -> None:
        try:
            async with asyncio.timeout(self.config.send_seconds):
                await connection.send(message)
        except TimeoutError:
            logger.warning("client %s does not take its answers: dropped", _peer(connection))
            connection.transport.abort()
            await connection.wait_closed()
            raise ConnectionClosed(None, None) from None

    async def _refuse(self, connection: GuardedConnection, text: str, code: CloseCode | None = None) -> None:
        try:
            async with asyncio.timeout(self.config.send_seconds):
                await connection.refuse(text, code or CloseCode.INTERNAL_ERROR)
        except TimeoutError:
            connection.transport.abort()
        except ConnectionClosed:
            logger.info("client %s left before it could be told why", _peer(connection))


def _infer(session: PolicySession, observation: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    started = time.perf_counter()
    answer = session.infer(observation)
    return answer, started, time.perf_counter()


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
