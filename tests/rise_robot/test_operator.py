"""The operator's keys, and questions."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from rise_env.errors import RobotError
from rise_robot.operator_keys import Key, Keys, TerminalKeys, ask_in_terminal, terminal_keys
from rise_robot.testing import ScriptedKeys


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """A pseudo-terminal: where a person types, and what the program reads."""
    person, program = pty.openpty()
    with os.fdopen(program, "r") as stream:
        yield person, stream
    os.close(person)


def test_keys_are_read_one_by_one_without_enter(terminal: tuple[int, TextIO]) -> None:
    person, stream = terminal
    keys = TerminalKeys(stream)
    before = termios.tcgetattr(stream)
    assert keys.poll() == []  # not opened yet: nothing is taken
    keys.open()
    keys.open()
    assert keys.poll() == []
    os.write(person, b"sxI")
    assert keys.poll() == [Key.SUCCESS, Key.TAKE_OVER]
    os.write(person, b"ofq \x1b")
    assert keys.poll() == [Key.HAND_BACK, Key.FAILURE, Key.STOP, Key.STOP, Key.STOP]
    assert keys.poll() == []
    keys.close()
    keys.close()
    assert termios.tcgetattr(stream) == before


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "file").write_text("sss")
    with (tmp_path / "file").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        keys = terminal_keys()
        assert type(keys) is Keys
        assert not keys.available
        assert keys.poll() == []
        with pytest.raises(RobotError, match="no terminal"):
            TerminalKeys(stream).open()
        with pytest.raises(RobotError, match=r"'Ready\?'.*confirm=False"):
            ask_in_terminal("Ready?")


def test_questions_wait_for_enter(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person, stream = terminal
    monkeypatch.setattr("sys.stdin", stream)
    assert isinstance(terminal_keys(), TerminalKeys)
    os.write(person, b"\n")
    ask_in_terminal("Ready?")
    assert "Ready? [Enter]" in capsys.readouterr().out
    os.write(person, b"\x04")  # the end of what is typed
    with pytest.raises(RobotError, match="terminal was closed"):
        ask_in_terminal("Ready?")


def test_scripted_keys_are_pressed_once() -> None:
    keys = ScriptedKeys({1: [Key.STOP], 3: [Key.SUCCESS, Key.FAILURE]})
    assert [keys.poll() for _ in range(5)] == [[], [Key.STOP], [], [Key.SUCCESS, Key.FAILURE], []]
