"""Entry point of the `rise` command.

Sub-commands are imported only when they are called, so `rise --help` answers at once. A sub-command is a module with

* a docstring: the text of `rise NAME --help`, its first line a summary;
* `add_arguments(parser: argparse.ArgumentParser) -> None`;
* `run(args: argparse.Namespace) -> int`, which returns the exit code.

Errors that the project raises on purpose (`rise_env.errors.RiseError`), and those of the file system, are printed in
one piece, without a traceback.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rise_agents.cli.options import imagining

__all__ = ["COMMANDS", "Command", "main"]

_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_EXIT_TERMINATED = 143
#: What torch's allocator of the CPU says in a RuntimeError.
_OUT_OF_MEMORY = "can't allocate memory"
_formatwarning = warnings.formatwarning


class Command(NamedTuple):
    """Where a sub-command lives and how `rise --help` lists it."""

    module: str
    summary: str
    group: str = "Commands"


COMMANDS: Mapping[str, Command] = {
    "demo": Command("rise_agents.cli.demo", "improve a policy in imagination, prove it in the cell", "Start here"),
    "showcase": Command("rise_agents.cli.showcase", "film experts and operators in the work cell", "Start here"),
    "play": Command(
        "rise_agents.cli.play", "a page to play with imagination: sliders, policies, true cameras", "Start here"
    ),
    "info": Command("rise_agents.cli.info", "versions, hardware, tasks, presets and environment ids", "Start here"),
    "init-task": Command("rise_agents.cli.init_task", "write a task for a dataset of yours", "Data"),
    "record": Command("rise_agents.cli.record", "record episodes as a LeRobot dataset", "Data"),
    "convert": Command("rise_agents.cli.convert", "ALOHA and Piper HDF5 episodes to a LeRobot dataset", "Data"),
    "check": Command("rise_agents.cli.check", "is a dataset good enough to train on? findings, films, a page", "Data"),
    "stats": Command("rise_agents.cli.stats", "normalisation statistics of a dataset", "Data"),
    "train": Command("rise_agents.cli.train", "train a part of the learned simulator", "Learn"),
    "label": Command("rise_agents.cli.label", "values and advantages of recorded frames, with pictures", "Learn"),
    "improve": Command("rise_agents.cli.improve", "improve a policy in imagination", "Learn"),
    "compare": Command("rise_agents.cli.compare", "agents side by side: table, curves and films", "Measure"),
    "ablate": Command("rise_agents.cli.ablate", "the paper's ablations, as a comparison", "Measure"),
    "evaluate": Command("rise_agents.cli.evaluate", "success rate of a policy, with its interval", "Measure"),
    "deploy": Command("rise_agents.cli.deploy", "run a policy on a robot, under its safety rules", "Robot"),
    "export": Command("rise_agents.cli.export", "write a policy as LeRobot loads it", "Robot"),
    "extend": Command("rise_agents.cli.extend", "put further policies, or a critic, into a bundle", "Share"),
    "push": Command("rise_agents.cli.push", "share a bundle, world model or policy on the Hugging Face Hub", "Share"),
    "serve": Command("rise_agents.cli.serve", "serve a policy to robots over the network (openpi protocol)", "Robot"),
    "bench": Command("rise_agents.cli.bench", "speed and truth of imagination and cell", "Measure"),
    "ros-cell": Command("rise_agents.cli.ros_cell", "serve the work cell over ROS 1 as a dual Piper", "Robot"),
}

_EXAMPLES = {
    "demo": "rise demo --json demo.json",
    "play": "rise play --task brick_sorting",
    "init-task": "rise init-task data/my_robot",
    "record": "rise record --task brick_sorting --policy expert --episodes 50 --out data/bricks",
    "check": "rise check data/bricks --task brick_sorting --json check.json",
    "train": "rise train dynamics --data data/bricks --preset small --out runs/dynamics --minutes 60",
    "improve": "rise improve --agent rise --policy base --chunks 30000 --seed 0 --out runs/rise",
    "label": "rise label data/bricks --value runs/value/model --tag v1",
    "compare": "rise compare short",
    "evaluate": "rise evaluate --task brick_sorting --policy base --episodes 100",
    "deploy": "rise deploy --policy base --driver cell --episodes 20 --execution smooth",
    "export": "rise export --lerobot runs/diffusion outputs/improved",
    "extend": "rise extend bundles/mine --policy novice=runs/few --critic runs/skilled --out bundles/mine",
    "push": "rise push bundles/mine lab/bricks --private",
    "serve": "rise serve --policy base --port 8000",
    "bench": "rise bench cell --json cell.json",
}


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; those of the process when omitted.
        commands: Sub-commands by name; `COMMANDS` when omitted.

    Returns:
        Exit code: 0 success, 2 wrong usage or a `RiseError`, 130 interrupted, 143 ended by SIGTERM, 141 reader of the
        output gone; else what the sub-command returns.

    Raises:
        SystemExit: On `--help` of a sub-command and on arguments it does not know, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    if argv is None and not _wants_traceback(arguments):
        threading.excepthook = _in_one_line
        warnings.formatwarning = _one_paragraph
    try:
        try:
            return _dispatch(arguments, COMMANDS if commands is None else commands)
        finally:
            sys.stdout.flush()  # here, not at exit, so that a broken pipe is met below
    except KeyboardInterrupt as stopped:
        _say_stopped("interrupted", stopped)
        return _EXIT_INTERRUPTED
    except _Terminated as stopped:
        _say_stopped("terminated", stopped)
        return _EXIT_TERMINATED
    except BrokenPipeError:
        # The interpreter's own flush at exit must not meet the broken pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE
    except Exception as error:
        from rise_env.errors import RiseError  # registers the environments, 0.3 s: not on the way to --help

        # What the file system refuses (a full disk, no permission, a file in place of a directory) is no bug either,
        # and neither is a machine that is too small.
        small = isinstance(error, MemoryError) or _OUT_OF_MEMORY in str(error)
        if not (small or isinstance(error, (RiseError, OSError))) or _wants_traceback(arguments):
            raise
        print(f"error: {f'not enough memory: {error}' if small else error}", file=sys.stderr)
        return _EXIT_ERROR


class _Terminated(BaseException):
    """SIGTERM, as an exception: what was started is ended on its way out."""


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the program at once
    raise _Terminated


def _say_stopped(how: str, stopped: BaseException) -> None:
    """Say so, and what was kept."""
    print("\n".join([f"rise: {how}", *getattr(stopped, "__notes__", ())]), file=sys.stderr)


def _in_one_line(happened: threading.ExceptHookArgs) -> None:
    """What the file system refuses a thread, such as TensorBoard's on a full disk, is no traceback either."""
    if isinstance(happened.exc_value, OSError):
        name = happened.thread.name if happened.thread else "a thread"
        print(f"error: {happened.exc_value} ({name})", file=sys.stderr)
    else:
        threading.__excepthook__(happened)


def _one_paragraph(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What we warn a user of comes without the line of code that says it; warnings to programmers stay as they are."""
    if category is UserWarning and "rise_" in filename:
        return f"warning: {message}\n"
    return _formatwarning(message, category, filename, lineno, line)


def _dispatch(arguments: list[str], commands: Mapping[str, Command]) -> int:
    position = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    options, rest = arguments[:position], arguments[position:]
    for option in options:
        if option in ("-h", "--help"):
            print(_help(commands))
            return 0
        if option in ("-V", "--version"):
            print(_version())
            return 0
        if option != "--traceback":
            return _usage_error(f"unknown option {option!r}.{_nearest(option, ('--help', '--traceback', '--version'))}")
    if not rest:
        print(_help(commands))
        return 0
    name, *rest = rest
    if name == "help" and name not in commands:
        return _dispatch([*rest[:1], "--help"], commands)
    if name not in commands:
        return _usage_error(f"unknown command {name!r}.{_nearest(name, commands)} Commands: {', '.join(commands)}.")
    return _run(name, rest, commands[name])


def _run(name: str, arguments: Sequence[str], command: Command) -> int:
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"rise {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    args = parser.parse_args(arguments)
    with imagining(args):
        return int(module.run(args))


def _help(commands: Mapping[str, Command]) -> str:
    width = max((len(name) for name in commands), default=0)
    groups: dict[str, list[str]] = {}
    for name, command in commands.items():
        groups.setdefault(command.group, []).append(f"  {name:<{width}}  {command.summary}")
    examples = [f"  {text}" for name, text in _EXAMPLES.items() if name in commands]
    parts = [
        "usage: rise COMMAND [ARGUMENTS]",
        "Improve robot policies inside a learned world model.",
        *("\n".join([f"{group}:", *lines]) for group, lines in groups.items()),
        *(["\n".join(["Examples:", *examples])] if examples else []),
        "Options:\n"
        "  -h, --help     this text; `rise COMMAND --help` tells all about one command\n"
        "  -V, --version  version and git revision\n"
        "  --traceback    show where an error comes from (also RISE_TRACEBACK=1)",
    ]
    return "\n\n".join(parts)


def _version() -> str:
    from rise_env.provenance import git_revision, package_versions

    text = f"rise {package_versions()['rise-robotics'] or '(not installed)'}"
    git = git_revision()
    if git is not None:
        text += f" (git {git['revision'][:12]}{', modified' if git['modified'] else ''})"
    return text


def _usage_error(message: str) -> int:
    print(f"error: {message} See: rise --help", file=sys.stderr)
    return _EXIT_ERROR


def _nearest(name: str, known: Sequence[str] | Mapping[str, Command]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _wants_traceback(arguments: Sequence[str]) -> bool:
    return "--traceback" in arguments or os.environ.get("RISE_TRACEBACK", "") not in ("", "0")


if __name__ == "__main__":
    sys.exit(main())
