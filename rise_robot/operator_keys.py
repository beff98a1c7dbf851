"""The operator's keys, behind an interface so that neither an environment nor a test needs a terminal."""

from __future__ import annotations

import os
import select
import sys
from enum import StrEnum
from typing import Any, TextIO

from rise_env.errors import RobotError

__all__ = ["HELP", "Key", "Keys", "TerminalKeys", "ask_in_terminal", "terminal_keys"]


class Key(StrEnum):
    """What an operator can say during an episode; the value is the key."""

    STOP = "q"
    SUCCESS = "s"
    FAILURE = "f"
    TAKE_OVER = "i"
    HAND_BACK = "o"


#: One line for people.
HELP = "q stop   s success   f failure   i take over   o hand back"
_KEYS = {key.value for key in Key}
_ALSO_STOP = {" ", "\x1b", "\x03"}  # space, escape, and Ctrl-C where the terminal passes it on


class Keys:
    """A source of keys; this one has none.

    Attributes:
        available: Whether somebody can press them.
    """

    available = False

    def open(self) -> None:
        """Take what is needed. Twice is fine."""

    def poll(self) -> list[Key]:
        """Keys pressed since the last call, in order; never waits."""
        return []

    def close(self) -> None:
        """Give back what was taken. Twice is fine."""


class TerminalKeys(Keys):
    """Keys of a terminal (standard input when omitted), read without Enter while it is open."""

    available = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdin if stream is None else stream
        self._settings: list[Any] | None = None

    def open(self) -> None:
        """Read keys one by one from now on; RobotError if the stream is no terminal."""
        if not self._stream.isatty():
            raise RobotError("standard input is no terminal, so there are no operator keys")
        if self._settings is None:
            import termios
            import tty

            self._settings = termios.tcgetattr(self._stream)
            tty.setcbreak(self._stream)

    def poll(self) -> list[Key]:
        """Keys pressed since the last call; others are ignored."""
        found: list[Key] = []
        while self._settings is not None and select.select([self._stream], [], [], 0)[0]:
            # Not the stream's own read: its buffer would hide further keys from select.
            pressed = os.read(self._stream.fileno(), 64).decode("ascii", "ignore").lower()
            if not pressed:  # the terminal is gone
                break
            found += [Key.STOP if key in _ALSO_STOP else Key(key) for key in pressed if key in _ALSO_STOP | _KEYS]
        return found

    def close(self) -> None:
        """Put the terminal back as it was."""
        if self._settings is not None:
            import termios

            termios.tcsetattr(self._stream, termios.TCSADRAIN, self._settings)
            self._settings = None


def terminal_keys() -> Keys:
    """Keys of the terminal where standard input is one; none otherwise (see `Keys.available`)."""
    return TerminalKeys() if sys.stdin is not None and sys.stdin.isatty() else Keys()


def ask_in_terminal(question: str) -> None:
    """Show a question and wait for Enter; RobotError if standard input is no terminal, or has ended."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise RobotError(
            f"nobody can be asked, because standard input is no terminal: {question!r}. "
            "Run it in a terminal, or with confirm=False (--yes) if the scene needs no hands."
        )
    try:
        input(f"{question} [Enter] ")
    except EOFError:
        raise RobotError(f"the terminal was closed at the question {question!r}") from None
