"""A websocket connection on which a hostile client cannot use up memory."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State

__all__ = ["Gate", "GuardedConnection", "library_logger"]

#: Pings that a client may send at once, and per second in the long run.
_PING_BURST, _PING_RATE = 100, 10.0
_PIECE = 2**15


class Gate:
    """Connections that have not finished their handshake yet: when there are too many, the oldest is dropped.

    A normal client is through within milliseconds, so it gets in even while others open connections and stay silent.

    Args:
        most: Such connections at the same time.
        max_bytes: Longest message, for the explanation that a client gets.
    """

    def __init__(self, most: int, max_bytes: int) -> None:
        self.most, self.max_bytes = most, max_bytes
        self._waiting: dict[ServerConnection, None] = {}  # in the order of arrival

    def enter(self, connection: ServerConnection) -> None:
        """Count a new connection."""
        self._waiting[connection] = None
        if len(self._waiting) > self.most:
            next(iter(self._waiting)).transport.abort()

    def leave(self, connection: ServerConnection) -> None:
        """Uncount a connection that is through, or lost. Twice is fine."""
        self._waiting.pop(connection, None)


class GuardedConnection(ServerConnection):
    """A connection with limits that the library does not have, and with words for the one it has."""

    def __init__(self, gate: Gate, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gate = gate
        self._pings = self._last_ping = 0.0
        # The library answers an oversized message with a close frame alone, which openpi's clients show without a
        # reason. What it has to say is sent as an error frame first, like every other error.
        fail = self.protocol.fail

        def fail_with_words(code: CloseCode | int, reason: str = "") -> None:
            if code == CloseCode.MESSAGE_TOO_BIG and self.protocol.state is State.OPEN:
                text = f"the message is too big: {reason}. The server takes at most {gate.max_bytes} bytes"
                self.protocol.send_text(f"{text} (rise serve --max-megabytes); send smaller images.".encode())
            fail(code, reason)

        self.protocol.fail = fail_with_words  # type: ignore[method-assign]

    async def refuse(self, text: str, code: CloseCode) -> None:
        """Send an error frame, which is a text message, and close (openpi's convention); ConnectionClosed if the client
        was gone before.
        """
        await self.send(text)
        async with self.send_context():
            # Unlike `close` this throws away what the client still sends, instead of waiting for it to be read.
            self.protocol.fail(code, "the reason is in the message before")
            self.transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        super().connection_made(transport)
        self._gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Uncount it."""
        self._gate.leave(self)
        del self.protocol.fail  # the cycle of references would keep a big half of a message alive for a while
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take data piece by piece, so that nothing is answered any more once the connection has been dropped."""
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE])
        if self.protocol.state is State.CLOSING:
            # Unread messages may have paused reading; the end of the connection would then not be seen.
            self.transport.resume_reading()

    def process_event(self, event: Event) -> None:
        """Drop a client that floods the server with pings: whoever does not read the pongs makes them pile up."""
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            now = self.loop.time()
            self._pings = max(0.0, self._pings - _PING_RATE * (now - self._last_ping)) + 1
            self._last_ping = now
            if self._pings > _PING_BURST:
                self.transport.abort()
        super().process_event(event)


def library_logger() -> logging.Logger:
    """The library's logger without what strangers can fill a log with: a traceback for every failed handshake."""
    logger = logging.getLogger("rise_robot.serving.websockets")
    logger.setLevel(logging.WARNING)
    if not logger.filters:
        logger.addFilter(lambda record: "handshake failed" not in str(record.msg))
    return logger
