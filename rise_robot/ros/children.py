"""Python processes that never outlive the one that started them, however that ends."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from rise_env.errors import RobotError

__all__ = ["ChildProcess"]

# The child ends when its standard input does: also when the parent is killed.
_PRELUDE = (
    "import os, sys, threading\n"
    "threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()\n"
)


class ChildProcess:
    """A Python program in a process of its own.

    Args:
        code: The program; `sys` is imported already.
        arguments: Its arguments.
        environment: Environment variables besides ours.
        name: What it is, for messages.
        timeout: Time in which it must be ready, s.
        ready: How the line begins that it prints when it is ready.

    Attributes:
        ready: The rest of that line.

    Raises:
        RobotError: If it ends or is silent for too long; the message has the end of what it said.
    """

    def __init__(
        self,
        code: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        name: str = "program",
        timeout: float = 60.0,
        ready: str = "ready",
    ) -> None:
        self._name, self._word = name, ready.encode()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PRELUDE + code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the parent, which stops this one in order
        )
        self._said = b""
        try:
            self.ready = self._first_line(timeout)
        except BaseException:
            self.kill()
            raise

    def running(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.running():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _first_line(self, timeout: float) -> str:
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([descriptor], [], [], left)[0]:
                break
            found = os.read(descriptor, 4096)
            self._said += found
            if not found:
                raise RobotError(f"the {self._name} ended before it was ready; it said:\n{self._tail()}")
            for line in self._said.split(b"\n")[:-1]:
                if line.startswith(self._word):
                    return line.removeprefix(self._word).decode().strip()
        raise RobotError(f"the {self._name} was not ready after {timeout:g} s; it said:\n{self._tail()}")

    def _tail(self) -> str:
        return self._said.decode(errors="replace")[-2000:].strip() or "(nothing)"
