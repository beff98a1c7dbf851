"""The client: what it says when something is wrong, and that it never goes on with half an episode."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from rise_env.errors import ConfigError, RobotError
from rise_robot.serving import PolicyClient, PolicyServer, RemotePolicy, ServerConfig, WireError, encode

type Start = Callable[..., PolicyServer]
STATE = {"state": np.arange(3, dtype=np.float32)}


@contextlib.contextmanager
def peer(handler: Callable[[ServerConnection], None]) -> Iterator[int]:
    """The port of another server."""
    with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


def test_context_manager_connects_and_closes(start: Start) -> None:
    server = start()
    client = PolicyClient(port=server.port)
    assert client.metadata == {}
    with client:
        assert client.metadata["name"] == "counting"
        assert client.infer(STATE)["actions"].dtype == np.float32
        with pytest.raises(RobotError, match="already connected"):
            client.connect()
    with pytest.raises(RobotError, match=r"not connected to ws://127.*connect\(\)"):
        client.infer(STATE)
    client.close()
    with client.connect():
        assert client.infer(STATE)["seen"] == 1


def test_reset_goes_along_with_the_next_observation(start: Start) -> None:
    server = start()
    with PolicyClient(port=server.port) as client:
        assert [client.infer(STATE)["seen"] for _ in range(3)] == [1, 2, 3]
        client.reset(seed=4)
        assert [client.infer(STATE)["seen"] for _ in range(2)] == [1, 2]


def test_no_server_is_said_and_waited_for(policy: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RobotError, match=f"no policy server at ws://127.0.0.1:{port} .*rise serve"):
        PolicyClient(port=port).connect()
    server = PolicyServer(policy, ServerConfig(port=port))
    thread = threading.Timer(0.3, server.start)
    thread.start()
    client = PolicyClient(port=port).connect(wait=10)
    assert client.infer(STATE)["seen"] == 1
    client.close()
    thread.join()
    server.stop()


def test_unknown_hosts_and_bad_settings_are_said() -> None:
    with pytest.raises(RobotError, match=r"no policy server at ws://no-such-host\.invalid:8000"):
        PolicyClient("no-such-host.invalid").connect(wait=60)
    with pytest.raises(RobotError, match="lets no client in"):
        PolicyClient("ws://", None).connect()
    with pytest.raises(ConfigError, match="timeout"):
        PolicyClient(timeout=0)
    assert PolicyClient("::1", 9).uri == "ws://[::1]:9"
    assert PolicyClient("wss://robot.example/policy", None).uri == "wss://robot.example/policy"


def test_a_server_that_stops_is_an_error_and_stays_one(policy: Any) -> None:
    server = PolicyServer(policy, ServerConfig(port=0))
    server.start()
    port = server.port
    client = PolicyClient(port=port).connect()
    client.infer(STATE)
    server.stop()
    with pytest.raises(RobotError, match="is gone"):
        client.infer(STATE)
    with PolicyServer(policy, ServerConfig(port=port)):  # it is back, but has forgotten the episode
        with pytest.raises(RobotError, match=r"has ended.*connect\(\) for a new episode"):
            client.infer(STATE)
        client.connect()
        assert client.infer(STATE)["seen"] == 1
        client.close()


def test_a_refused_observation_ends_the_connection(start: Start) -> None:
    server = start()
    client = PolicyClient(port=server.port).connect()
    with pytest.raises(RobotError, match="refused: the observation has no 'state'"):
        client.infer({"image": 1})
    with pytest.raises(RobotError, match="has ended"):
        client.infer(STATE)


def test_what_cannot_be_sent_is_an_error_before_it_is_sent(start: Start) -> None:
    server = start()
    with PolicyClient(port=server.port) as client:
        with pytest.raises(WireError, match="images/head"):
            client.infer({"images": {"head": object()}})
        assert client.infer(STATE)["seen"] == 1


def test_a_late_answer_is_never_taken_for_another(start: Start, policy: Any) -> None:
    server = start()
    client = PolicyClient(port=server.port, timeout=2.0).connect()
    policy.hold.clear()
    with pytest.raises(RobotError, match=r"did not answer within 2 s"):
        client.infer(STATE)
    policy.hold.set()
    with pytest.raises(RobotError, match="has ended"):
        client.infer(STATE)


def test_a_server_that_does_not_read_holds_nobody_for_ever() -> None:
    ended = threading.Event()

    def greet(connection: ServerConnection) -> None:
        connection.send(encode({}))
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ended.wait(20)

    with peer(greet) as port:
        client = PolicyClient(port=port, timeout=0.5).connect()
        began = time.monotonic()
        with pytest.raises(RobotError):
            client.infer({"state": np.zeros(50_000_000, np.uint8)})
        assert time.monotonic() - began < 10  # not for ever; no claim on speed
        ended.set()


@pytest.mark.parametrize("said", [b"\xc1", "hello", encode([1])])
def test_nonsense_from_a_server_is_said(said: Any) -> None:
    with peer(lambda connection: connection.send(said)) as port, pytest.raises(RobotError, match="policy server"):
        PolicyClient(port=port).connect()


def test_nonsense_as_an_answer_is_said() -> None:
    def answer(connection: ServerConnection) -> None:
        connection.send(encode({}))
        connection.recv()
        connection.send(encode(3))

    with peer(answer) as port, PolicyClient(port=port) as client, pytest.raises(RobotError, match="answered with int"):
        client.infer(STATE)


def test_remote_policy_has_a_session_per_environment(start: Start, policy: Any) -> None:
    server = start()
    with RemotePolicy(port=server.port) as remote:
        assert remote.lags == ()
        remote.reset([5, 6], np.array([True, True]))
        states = np.arange(6, dtype=np.float32).reshape(2, 3)
        chunks = remote.act({"state": states})
        assert chunks.shape == (2, 4, 3)
        assert np.array_equal(chunks[:, 0], 2 * states)
        assert server.metrics()["clients"]["now"] == 2
    assert policy.opened == 3  # one to warm up
