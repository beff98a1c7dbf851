"""Tests of the `rise` command itself, with stand-in sub-commands."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from rise_agents.cli import info
from rise_agents.cli.main import COMMANDS, Command, main
from rise_env.errors import ConfigError

FAKE = {"echo": Command("rise_test_echo", "repeat a word", "Tests"), "other": Command("rise_test_absent", "absent")}


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A sub-command that prints its word, or raises `module.error`."""
    module = ModuleType("rise_test_echo", "Repeat a word.\n\nLong   help.")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("word", nargs="?", default="")
        parser.add_argument("--code", type=int, default=0)

    def run(args: argparse.Namespace) -> int:
        if module.error is not None:
            raise module.error
        print(args.word)
        return args.code

    module.error, module.add_arguments, module.run = None, add_arguments, run
    monkeypatch.setitem(sys.modules, "rise_test_echo", module)
    return module


@pytest.fixture(autouse=True)
def _no_traceback_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RISE_TRACEBACK", raising=False)


@pytest.mark.usefixtures("echo")
def test_runs_the_command_and_returns_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["echo", "hello", "--code", "5"], FAKE) == 5
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_commands_by_group(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, FAKE) == 0  # although the module of `other` does not exist
    text = capsys.readouterr().out
    assert "Tests:\n  echo   repeat a word" in text
    assert "Commands:\n  other  absent" in text
    assert "Examples:" not in text


def test_real_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:\n  rise " in text
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.module == f"rise_agents.cli.{name.replace('-', '_')}"


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("arguments", [["echo", "--help"], ["help", "echo"]])
def test_help_of_a_command_is_its_docstring(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments, FAKE)
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: rise echo")
    assert "Long   help." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ecko"], "unknown command 'ecko'. Did you mean 'echo'? Commands: echo, other."),
        (["xyz"], "unknown command 'xyz'. Commands: echo, other."),
        (["--versoin"], "unknown option '--versoin'. Did you mean '--version'?"),
    ],
)
def test_what_is_unknown_gets_a_suggestion(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, FAKE) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message} See: rise --help\n"
    assert captured.out == ""


@pytest.mark.usefixtures("echo")
def test_unknown_argument_of_a_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["echo", "--cod", "5"], FAKE)  # no abbreviations: they break when an argument is added
    assert exit_.value.code == 2
    assert "--cod" in capsys.readouterr().err


def test_project_errors_are_one_line(echo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    echo.error = ConfigError("no such preset")
    assert main(["echo"], FAKE) == 2
    assert capsys.readouterr().err == "error: no such preset\n"


@pytest.mark.parametrize("arguments", [["--traceback", "echo"], ["echo", "--traceback"]])
def test_traceback_on_request(echo: ModuleType, arguments: list[str]) -> None:
    echo.error = ConfigError("no such preset")
    with pytest.raises(ConfigError):
        main(arguments, FAKE)


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_traceback_by_environment(echo: ModuleType, value: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISE_TRACEBACK", value)
    echo.error = ConfigError("no such preset")
    if shown:
        with pytest.raises(ConfigError):
            main(["echo"], FAKE)
    else:
        assert main(["echo"], FAKE) == 2


def test_refusals_of_the_file_system_are_one_line(echo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    echo.error = PermissionError(13, "Permission denied", "/somewhere")
    assert main(["echo"], FAKE) == 2
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: '/somewhere'\n"


@pytest.mark.parametrize(
    "error", [MemoryError("3 TiB for an array"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 TiB")]
)
def test_too_small_a_machine_is_one_line(
    echo: ModuleType, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    echo.error = error
    assert main(["echo"], FAKE) == 2
    assert capsys.readouterr().err == f"error: not enough memory: {error}\n"


def test_faults_of_ours_keep_their_traceback(echo: ModuleType) -> None:
    echo.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        main(["echo"], FAKE)


def test_interrupt_is_one_line(echo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    echo.error = KeyboardInterrupt()
    assert main(["echo"], FAKE) == 130
    assert capsys.readouterr().err == "rise: interrupted\n"
    echo.error.add_note("out keeps 3 updates")
    assert main(["echo"], FAKE) == 130
    assert capsys.readouterr().err == "rise: interrupted\nout keeps 3 updates\n"


def test_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from rise_agents.cli.main import main; sys.exit(main(['--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(timeout=300) == 141
    assert errors == b""


def test_version_names_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rise 0.")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rise_agents.cli.main import main; main(['--help']);"
        "sys.exit(sum(name in sys.modules for name in ('numpy', 'gymnasium', 'torch', 'mujoco', 'lerobot')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_info_prints_and_writes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", str(tmp_path / "info.json")]) == 0
    text = capsys.readouterr().out
    written = json.loads((tmp_path / "info.json").read_text(encoding="utf-8"))
    assert "brick_sorting" in written["presets"]
    assert written["provenance"]["packages"]["torch"] in text
    for name in written["environments"]:
        assert name in text


def test_info_says_none_where_there_is_nothing() -> None:
    text = info._text({**info.collect(), "environments": []})
    assert "Environments:\n  none\n" in text
    assert text.endswith("Plug-ins that could not be loaded:\n  none")


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(28, "No space left on device"), "error: [Errno 28] No"), (ValueError("bug"), "Traceback")],
)
def test_what_the_file_system_refuses_a_thread_is_one_line(
    echo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    def fail() -> None:
        raise error

    def run(_: argparse.Namespace) -> int:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return 0

    echo.run = run
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["rise", "echo"])
    assert main(None, FAKE) == 0
    text = capsys.readouterr().err
    assert told in text
    assert ("Traceback" in text) == (told == "Traceback")


def test_warnings_come_without_the_line_of_code(echo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["rise", "echo"])
    assert main(None, FAKE) == 0
    told = UserWarning("seeds are lost")
    assert warnings.formatwarning(told, UserWarning, "/x/rise_env/a.py", 3) == "warning: seeds are lost\n"
    assert "b.py:3: UserWarning" in warnings.formatwarning(told, UserWarning, "/x/torch/b.py", 3)
