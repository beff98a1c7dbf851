"""Work side by side: what one piece does wrong is its own matter."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rise_agents.pipelines import processes
from rise_agents.pipelines.processes import cores, side_by_side

MODULE = """
    import os, signal, sys

    def perform(what, report):
        report(0.5, "half")
        if what == "wrong":
            from rise_env.errors import ConfigError
            raise ConfigError("it does not fit")
        if what == "bug":
            raise KeyError("a bug")
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what.endswith("pid"):
            with open(what, "w") as file:
                file.write(str(os.getpid()))
            signal.pause()
        import torch
        with open(what, "w") as file:
            file.write(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")
"""


@pytest.mark.slow
def test_failures_are_told_and_leave_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some_work.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    perform = importlib.import_module("some_work").perform
    work = {"first": str(tmp_path / "first"), **{name: name for name in ("wrong", "bug", "killed")},
            "last": str(tmp_path / "last")}  # fmt: skip
    failed = side_by_side(perform, work, 2)
    assert failed == {
        "wrong": "it does not fit", "bug": "KeyError: 'a bug'",
        "killed": "it ended without a word (killed, or out of memory)",
    }  # fmt: skip
    for name in ("first", "last"):
        assert (tmp_path / name).read_text() == "1 1"
    told = capsys.readouterr().err
    assert "first: done" in told
    assert "wrong: it does not fit" in told


def test_what_the_system_refuses_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[Any] = []

    def full(what: str, _: Any) -> None:
        raise OSError(28, "No space left on device", what)

    processes._serve(full, "x.mp4", SimpleNamespace(send=said.append))  # type: ignore[arg-type]
    assert said == [(0.0, "", True, "[Errno 28] No space left on device: 'x.mp4'")]
    assert not capsys.readouterr().err


COMMAND = """
    import sys
    import some_work
    from rise_agents.cli import main as cli
    from rise_agents.pipelines.processes import side_by_side

    def add_arguments(parser):
        parser.add_argument("what")

    def run(args):
        side_by_side(some_work.perform, {"forever": args.what}, 1)

    if __name__ == "__main__":
        sys.exit(cli.main(commands={"wait": cli.Command("some_command", "wait")}))
"""


@pytest.mark.slow
def test_a_terminated_command_ends_what_it_started(tmp_path: Path) -> None:
    for name, text in (("some_work", MODULE), ("some_command", COMMAND)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    pid = tmp_path / "pid"
    command = subprocess.Popen([sys.executable, tmp_path / "some_command.py", "wait", pid], stderr=subprocess.PIPE)
    try:
        while not pid.exists() or not pid.read_text():
            assert command.poll() is None
            time.sleep(0.05)
        command.terminate()
        assert command.wait(60) == 143
        assert b"rise: terminated" in command.communicate()[1]
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
    finally:
        command.kill()


def test_nothing_to_do() -> None:
    assert side_by_side(print, {}, 2) == {}
    assert cores() >= 1
