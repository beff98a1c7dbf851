"""A policy server as a command: token, addresses, signals, and a log that strangers cannot fill."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from rise_env.errors import ConfigError, RobotError
from rise_robot.serving.policy import ServedPolicy
from rise_robot.serving.server import PolicyServer, ServerConfig
from rise_robot.signals import StopSignals

__all__ = ["parse_address", "read_token", "serve_until_signal"]


def read_token(path: Path | None) -> str | None:
    """The token in a file; without a file that of the environment variable, or None; ConfigError if the file cannot be
    read, or is empty.
    """
    if path is None:
        return os.environ.get("RISE_SERVE_TOKEN")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"token file {path}: {error}") from error
    if not text:
        raise ConfigError(f"token file {path}: the file is empty")
    return text


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT"; ConfigError if it is not of this form."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(f"server address {text!r} is not of the form HOST:PORT")
    return host, int(port)


def serve_until_signal(
    policy: ServedPolicy, config: ServerConfig, on_ready: Callable[[str], None], level: int = logging.INFO
) -> None:
    """Serve a policy until SIGINT or SIGTERM; RobotError if the port is taken, or the server ends by itself.

    `on_ready` is called with the address, "ws://HOST:PORT", once clients can connect. Messages below `level` are not
    logged.
    """
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("asyncio").addFilter(lambda record: record.getMessage() != "socket.send() raised exception.")
    with PolicyServer(policy, config) as server, StopSignals() as stop:
        host = f"[{config.host}]" if ":" in config.host else config.host
        on_ready(f"ws://{host}:{server.port}")
        while stop() is None:
            time.sleep(0.1)
            if not server.running:
                raise RobotError("the policy server has ended by itself; its log says why")
