"""The server: protocol, several clients, limits, and what no client may do to the others."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from rise_env.errors import ConfigError, RobotError
from rise_robot.serving import PolicyClient, PolicyServer, ServerConfig, decode, encode
from rise_robot.serving.server import is_loopback

type Start = Callable[..., PolicyServer]
STATE = {"state": np.arange(3, dtype=np.float32)}


@contextmanager
def dial(server: PolicyServer, **settings: Any) -> Iterator[ClientConnection]:
    """A bare connection whose greeting has been read."""
    url = f"ws://127.0.0.1:{server.port}"
    with connect(url, compression=None, max_size=None, proxy=None, **settings) as connection:
        connection.recv(timeout=30)
        yield connection


def http(server: PolicyServer, path: str, token: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}")
    if token:
        request.add_header("Authorization", f"Api-Key {token}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_greets_then_answers_with_timing(start: Start) -> None:
    server = start()
    with connect(f"ws://127.0.0.1:{server.port}", compression=None, proxy=None) as connection:
        assert decode(connection.recv(timeout=30)) == {"name": "counting", "lags": []}
        for turn in range(3):
            connection.send(encode(STATE))
            answer = decode(connection.recv(timeout=30))
            assert np.array_equal(answer["actions"], [[0, 2, 4]] * 4)
            timing = answer["server_timing"]
            assert timing["infer_ms"] >= 0
            assert ("prev_total_ms" in timing) == (turn > 0)
    assert not connection.protocol.extensions  # no compression


def test_is_warm_before_it_listens(policy: Any) -> None:
    policy.hold.clear()
    server = PolicyServer(policy, ServerConfig(port=0, warm_up=3))
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        assert policy.entered.wait(30)
        assert server.port == 0
        assert not server.running
        policy.hold.set()
        thread.join(30)
        assert server.running
        assert http(server, "/healthz") == (200, "OK\n")
        with PolicyClient(port=server.port) as client:
            assert client.infer(STATE)["seen"] == 1  # what the warm-up saw is not the client's
        assert len(policy.threads) == 1  # compiled kernels and CUDA contexts stay in their thread
    finally:
        policy.hold.set()
        server.stop()


def test_a_policy_that_cannot_infer_is_not_served(policy: Any) -> None:
    policy.fault = ConfigError("no such camera")
    server = PolicyServer(policy, ServerConfig(port=0))
    with pytest.raises(ConfigError, match="no such camera"):
        server.start()
    assert not server.running
    policy.fault = None
    with server:
        assert server.running


def test_clients_have_sessions_of_their_own_and_take_turns(start: Start, policy: Any) -> None:
    server = start()
    clients = [PolicyClient(port=server.port).connect() for _ in range(4)]
    counts: list[list[int]] = [[] for _ in clients]

    def ask(index: int) -> None:
        for _ in range(5):
            answer = clients[index].infer({"state": np.full(3, index, np.float32)})
            assert answer["actions"][0, 0] == 2 * index
            counts[index].append(answer["seen"])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counts == [[1, 2, 3, 4, 5]] * 4
    assert len(policy.threads) == 1
    until(lambda: server.metrics()["requests"] == 20)  # it counts when it has answered
    assert server.metrics()["clients"]["most"] == 4
    for client in clients:
        client.close()
    until(lambda: server.metrics()["clients"]["now"] == 0)


def test_requests_are_served_in_the_order_of_arrival(start: Start, policy: Any) -> None:
    server = start(warm_up=0)
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(dial(server)) for _ in range(3))
        policy.hold.clear()
        for waiting, (number, connection) in enumerate([(1, first), (2, second), (3, third)]):
            connection.send(encode({"state": np.full(3, number, np.float32)}))
            assert policy.entered.wait(30)
            until(lambda n=waiting: server._worker._work_queue.qsize() == n)
        assert http(server, "/healthz") == (200, "OK\n")  # while an inference is going on
        policy.hold.set()
        first.send(encode({"state": np.full(3, 4, np.float32)}))  # asks again, and is behind the others
        for connection in (first, first, second, third):
            connection.recv(timeout=30)
    assert policy.order == [1, 2, 3, 4]


def test_health_and_metrics(start: Start) -> None:
    server = start()
    assert http(server, "/healthz") == (200, "OK\n")
    with PolicyClient(port=server.port) as client:
        client.infer(STATE)
        client.infer(STATE)
        until(lambda: server.metrics()["requests"] == 2)
        status, text = http(server, "/metrics")
    assert status == 200
    figures = json.loads(text)
    assert figures["requests"] == 2
    assert figures["clients"]["now"] == 1
    for name in ("infer", "queue", "total"):
        assert set(figures["latency_ms"][name]) == {"count", "mean", "p50", "p99", "max"}
    assert http(server, "/other")[0] == 426  # upgrade required


# ---------------------------------------------------------------------- who may


def test_other_addresses_need_a_token() -> None:
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(ConfigError, match=r"token is needed.*--token-file.*RISE_SERVE_TOKEN"):
            ServerConfig(host=host)
        assert ServerConfig(host=host, token="secret").token == "secret"
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        ServerConfig(host=host)
    with pytest.raises(ConfigError, match="not known"):
        ServerConfig(host="no-such-host.invalid")


@pytest.mark.parametrize("token", ["", " ", "two words", "line\n", "gäste"])
def test_tokens_that_no_header_can_carry_are_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="token must be"):
        ServerConfig(token=token)


def test_token_is_asked_for(start: Start) -> None:
    server = start(token="open-sesame")
    for key in (None, "wrong", "open-sesam", "open-sesame2"):
        with pytest.raises(RobotError, match=r"(?s)401.*Authorization: Api-Key"):
            PolicyClient(port=server.port, api_key=key).connect()
    with PolicyClient(port=server.port, api_key="open-sesame") as client:
        assert client.infer(STATE)["seen"] == 1
    assert http(server, "/healthz") == (200, "OK\n")
    assert http(server, "/metrics")[0] == 401
    assert http(server, "/metrics", "open-sesame")[0] == 200
    assert server.metrics()["clients"]["refused"] == 5


def test_two_keys_or_another_scheme_are_no_key(start: Start) -> None:
    server = start(token="abc")
    for headers in (
        [("Authorization", "Api-Key abc")] * 2,
        [("Authorization", "Bearer abc")],
        [("Authorization", "é")],
    ):
        with pytest.raises((InvalidStatus, UnicodeEncodeError)):
            connect(f"ws://127.0.0.1:{server.port}", additional_headers=headers, proxy=None)


def test_web_pages_may_not_connect(start: Start) -> None:
    server = start()
    with pytest.raises(InvalidStatus, match="403"), dial(server, origin="http://evil.example"):
        pass


def test_number_of_clients_is_limited(start: Start) -> None:
    server = start(max_clients=2)
    with dial(server) as one, dial(server):
        with pytest.raises(RobotError, match=r"(?s)503.*2 clients already.*--max-clients"):
            PolicyClient(port=server.port).connect()
        one.close()
        until(lambda: server.metrics()["clients"]["now"] == 1)
        with PolicyClient(port=server.port) as client:
            assert client.infer(STATE)["seen"] == 1


def test_connections_that_say_nothing_keep_nobody_out(start: Start) -> None:
    server = start(max_clients=1)
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(80)]
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1
    silent[0].settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        assert silent[0].recv(1) == b""  # the oldest had to go
    for connection in silent:
        connection.close()


def test_port_in_use_is_said(start: Start, policy: Any) -> None:
    server = start()
    with pytest.raises(RobotError, match=r"cannot listen on 127\.0\.0\.1:.*--port"):
        PolicyServer(policy, ServerConfig(port=server.port)).start()
    with pytest.raises(RobotError, match="runs already"):
        server.start()


def test_a_limit_that_no_observation_meets_is_said(policy: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_bytes is 100, but an observation of this policy has \d+ bytes"):
        PolicyServer(policy, ServerConfig(port=0, max_bytes=100)).start()


@pytest.mark.parametrize(
    "settings", [{"port": 70_000}, {"max_clients": 0}, {"max_bytes": 0}, {"warm_up": -1}, {"idle_seconds": 0.0}]
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ServerConfig(**settings)


# ---------------------------------------------------------------------- errors


def refused(connection: ClientConnection, code: int = 1011) -> str:
    """The error frame, which is text and the last thing that comes."""
    text = connection.recv(timeout=30)
    assert isinstance(text, str)
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    return text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"\xc1", "type code"),
        (encode(STATE)[:-3], "cut short"),
        (encode([1, 2]), "a list came"),
        (encode({"image": 1}), "no 'state'"),
        ("text", "text message"),
        (encode({"state": "x"}), "the policy failed: ValueError"),
    ],
)
def test_errors_are_text_and_end_the_connection(start: Start, message: Any, text: str) -> None:
    server = start()
    with dial(server) as connection:
        connection.send(message)
        assert text in refused(connection)
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1
    assert server.metrics()["errors"] == 1


def test_oversized_messages_get_an_error_frame(start: Start) -> None:
    server = start(max_bytes=10_000)
    with dial(server) as connection:
        connection.send(encode({"state": np.zeros(10_000)}))
        assert "at most 10000 bytes" in refused(connection, 1009)
    with dial(server) as connection:
        connection.send([b"\0" * 6_000, b"\0" * 6_000])  # in two fragments
        assert "at most 10000 bytes" in refused(connection, 1009)
    until(lambda: server.metrics()["errors"] == 2)
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1


def test_default_limit_leaves_room_for_camera_images(start: Start) -> None:
    server = start()
    with PolicyClient(port=server.port) as client:
        images = {f"image_{i}": np.zeros((480, 640, 3), np.uint8) for i in range(8)}
        assert client.infer({**STATE, **images})["seen"] == 1


def test_empty_fragments_without_end_are_refused(start: Start) -> None:
    server = start()
    with dial(server) as connection:
        with contextlib.suppress(ConnectionClosed):  # whether it hears of it before all is sent is a matter of time
            connection.send([b""] * 20_000)
        text = connection.recv(timeout=30)
        assert "fragments" in str(text)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=30)


def test_internal_errors_are_logged_and_do_not_end_the_server(
    start: Start, policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    policy.fault = RuntimeError("CUDA out of memory")
    with dial(server) as connection, caplog.at_level(logging.ERROR):
        connection.send(encode(STATE))
        text = refused(connection)
    assert "RuntimeError: CUDA out of memory" in text
    assert "Traceback" not in text
    assert "Traceback" in caplog.text
    policy.fault = None
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1


def test_an_answer_that_cannot_be_sent_is_an_error_frame(start: Start, policy: Any) -> None:
    server = start()
    policy.answer = {"oops": {1, 2}}
    with dial(server) as connection:
        connection.send(encode(STATE))
        assert "set cannot be sent" in refused(connection)


# ---------------------------------------------------------------------- slow and gone clients


def test_a_silent_client_blocks_nobody_and_is_dropped(start: Start) -> None:
    server = start(idle_seconds=2.0)
    with dial(server) as silent, PolicyClient(port=server.port) as client:
        for _ in range(3):
            client.infer(STATE)
        assert "no observation came for 2 s" in refused(silent)


def test_half_a_message_blocks_nobody(start: Start) -> None:
    server = start(idle_seconds=2.0)
    frame = encode({"state": np.zeros(1000)})

    def halves() -> Any:
        yield frame[: len(frame) // 2]
        ended.wait(30)

    ended = threading.Event()
    with dial(server) as slow:
        thread = threading.Thread(target=send_in_vain, args=(slow, halves()))
        thread.start()
        with PolicyClient(port=server.port) as client:
            assert client.infer(STATE)["seen"] == 1
        until(lambda: server.metrics()["clients"]["now"] == 0)
        ended.set()
        thread.join(30)


def send_in_vain(connection: ClientConnection, message: Any) -> None:
    with pytest.raises(ConnectionClosed):
        connection.send(message)


def test_a_client_that_does_not_read_is_dropped(start: Start, policy: Any) -> None:
    policy.answer = {"large": np.zeros(2**22, np.uint8)}  # more than the network's buffers hold
    server = start(send_seconds=1.0)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    until(lambda: server.metrics()["clients"]["now"] == 1)
    frame = encode(STATE)
    raw.sendall(bytes([0x82, 0x80 | len(frame)]) + bytes(4) + frame)  # one masked binary frame
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1
        until(lambda: server.metrics()["clients"]["now"] == 1)
    raw.close()


def test_a_client_that_leaves_while_it_is_served_is_forgotten(start: Start, policy: Any) -> None:
    server = start()
    with dial(server) as connection:
        policy.entered.clear()
        policy.hold.clear()
        connection.send(encode(STATE))
        assert policy.entered.wait(30)
        connection.socket.shutdown(socket.SHUT_RDWR)
        policy.hold.set()
    until(lambda: server.metrics()["clients"]["now"] == 0)
    with PolicyClient(port=server.port) as client:
        assert client.infer(STATE)["seen"] == 1


def test_stopping_says_goodbye_and_frees_the_port(policy: Any) -> None:
    server = PolicyServer(policy, ServerConfig(port=0))
    server.start()
    port = server.port
    with dial(server) as connection:
        server.stop()
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert not server.running
    with PolicyServer(policy, ServerConfig(port=port)) as again:
        assert again.port == port
