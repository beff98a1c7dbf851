"""Strangers at a real socket: whatever they send, the server stays up, stays small, and answers the others."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import socket
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rise_robot.serving import PolicyClient, PolicyServer, encode

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GOOD = encode({"state": np.ones(3, np.float32), "images": {"head": np.zeros((8, 8, 3), np.uint8)}, "prompt": "go"})
OPCODES = [0, 1, 2, 2, 2, 2, 2, 3, 8, 9, 10, 15]


def frame(payload: bytes, opcode: int = 2, fin: bool = True, length: int | None = None, masked: bool = True) -> bytes:
    """A websocket frame; `length` may lie."""
    size = len(payload) if length is None else length
    head = bytes([0x80 * fin | opcode])
    if size < 126:
        head += bytes([0x80 * masked | size])
    elif size < 2**16:
        head += bytes([0x80 * masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 * masked | 127]) + struct.pack("!Q", size)
    return head + (bytes(4) if masked else b"") + payload  # a mask of zeros changes nothing


def damaged(rng: random.Random) -> bytes:
    """A good observation with a few bytes changed, cut out or put in."""
    data = bytearray(GOOD)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place : place + rng.randint(1, 40)]
            case _:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def message(rng: random.Random, limit: int) -> bytes:
    """Bytes of a stranger, after the handshake."""
    match rng.randrange(9):
        case 0:
            return frame(rng.randbytes(rng.randint(0, 200)))
        case 1:
            return frame(rng.randbytes(rng.randint(0, 200)), rng.choice(OPCODES), rng.random() < 0.7)
        case 2:
            return frame(damaged(rng)) * rng.randint(1, 3)
        case 3:
            return frame(GOOD, length=len(GOOD) + rng.randint(1, limit))  # the rest never comes
        case 4:
            return frame(b"", length=rng.choice([limit + 1, 2**32, 2**62]))
        case 5:
            return frame(bytes(limit + 1))
        case 6:
            return frame(GOOD, masked=False)
        case 7:
            return b"".join(frame(b"", 0 if i else 2, fin=False) for i in range(rng.randint(1, 6000)))
        case _:
            return frame(b"ping" * 25, 9) * rng.randint(1, 500)


def visit(port: int, rng: random.Random, limit: int) -> None:
    """One stranger comes, sends, perhaps listens, and goes."""
    opening = HANDSHAKE
    if rng.random() < 0.15:
        opening = rng.choice([rng.randbytes(100), HANDSHAKE[:60], b"GET /" + b"a" * 9000, b"\r\n" * 50])
    listens, stays = rng.random() < 0.7, rng.random() < 0.5
    messages = [message(rng, limit) for _ in range(rng.randint(1, 2))]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(opening)
            if opening is HANDSHAKE and listens:
                assert connection.recv(4096).startswith((b"HTTP/1.1 101", b"HTTP/1.1 503"))
            for text in messages:
                connection.sendall(text)
            if stays:
                connection.shutdown(socket.SHUT_WR)
                received(connection, until=None)
        except TimeoutError:
            raise
        except OSError:  # cut off, as strangers are
            return


@pytest.mark.parametrize("seed", [0, 1])
def test_strangers_do_no_harm(start: Callable[..., PolicyServer], seed: int, caplog: pytest.LogCaptureFixture) -> None:
    limit = 200_000
    server = start(max_bytes=limit, max_clients=4)
    rng = random.Random(seed)
    caplog.set_level(logging.CRITICAL)  # kept records would count as memory of the server
    sizes = []
    with PolicyClient(port=server.port) as client:
        tracemalloc.start()
        try:
            for rounds in (40, 120):
                for _ in range(rounds):
                    visit(server.port, rng, limit)
                    assert client.infer({"state": np.ones(3, np.float32)})["actions"][0, 0] == 2
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4_000_000 + 6 * 4 * limit
    assert sizes[1] - sizes[0] < 4 * limit  # what the strangers of the moment have sent, but no more of it
    assert server.running
    with PolicyClient(port=server.port) as late:
        assert late.infer({"state": np.zeros(3, np.float32)})["seen"] == 1


def test_unread_messages_do_not_pile_up(start: Callable[..., PolicyServer], policy: Any) -> None:
    server = start(max_bytes=1_000_000)
    policy.entered.clear()
    policy.hold.clear()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(HANDSHAKE + frame(GOOD))
        assert policy.entered.wait(10)
        connection.settimeout(0.5)
        tracemalloc.start()
        try:
            with pytest.raises(TimeoutError):
                connection.sendall(frame(bytes(900_000)) * 60)  # far more than the kernel holds
            assert tracemalloc.get_traced_memory()[1] < 70_000_000  # 54 of which are the test's own
        finally:
            tracemalloc.stop()
        policy.hold.set()
        with PolicyClient(port=server.port) as client:
            assert client.infer({"state": np.zeros(3, np.float32)})["seen"] == 1


def test_a_flood_of_pings_is_cut_off_and_keepalive_is_not(start: Callable[..., PolicyServer]) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(HANDSHAKE)
        connection.sendall(frame(b"x" * 125, 9) * 90)
        connection.sendall(frame(GOOD))
        assert received(connection, until=b"actions")
        with contextlib.suppress(ConnectionError):
            connection.sendall(frame(b"x" * 125, 9) * 8000)
            assert received(connection, until=None) < 8000 * 127
    with PolicyClient(port=server.port) as client:
        assert client.infer({"state": np.zeros(3, np.float32)})["seen"] == 1


def received(connection: socket.socket, until: bytes | None) -> int:
    """Bytes that come until some that are waited for, or until the end."""
    data = b""
    while until is None or until not in data:
        part = connection.recv(2**16)
        if not part:
            break
        data += part
    return len(data)


def test_damaged_observations_are_errors_of_that_client_alone(start: Callable[..., PolicyServer]) -> None:
    server = start()
    rng = random.Random(2)
    with PolicyClient(port=server.port) as good:
        for turn in range(1, 31):
            wrong: Any = {"state": rng.choice(["text", [[1], [2, 3]], {"a": 1}, np.array(["x"])])}
            bad = PolicyClient(port=server.port).connect()
            with pytest.raises(Exception, match="refused"):
                bad.infer(wrong)
            bad.close()
            assert good.infer({"state": np.zeros(3, np.float32)})["seen"] == turn
