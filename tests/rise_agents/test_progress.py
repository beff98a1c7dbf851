"""Lines that are drawn in place."""

from __future__ import annotations

import io
import sys

import pytest

from rise_agents.progress import Board


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_line_each_and_keeps_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    board = Board()
    board.show(["a  10%", "b  20%"], "2 running")
    board.show(["never seen"], "too soon after the last")
    board.say("a: done")
    board.show(["b  30%"], "1 running", force=True)
    text = terminal.getvalue()
    assert "never seen" not in text
    assert text.index("a  10%") < text.index("2 running") < text.index("\x1b[3F\x1b[Ja: done") < text.index("b  30%")


def test_a_file_gets_the_last_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    board = Board()
    board.show(["a  10%"], "1 running")
    board.show(["a  20%"], "1 running, soon after")
    board.say("a: done")
    assert file.getvalue() == "1 running\na: done\n"
