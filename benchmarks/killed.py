"""Kill -9 at random moments: do commands go on to what they would have reached undisturbed, bit for bit?

Each command runs once undisturbed, at the smallest size. Then it is started again and again in a fresh folder, its
whole process group is killed at a random moment between its first file and its end, and the same command is run again.
Compared are all weights, arrays and recorded frames; whatever is left over besides counts as a failure.

  rise bench killed --points 50 --seed 0 --json out/killed.json
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import load_file

from rise_agents.progress import say
from rise_env.data import open_dataset
from rise_env.errors import ConfigError, RiseError
from rise_robot.recording import read_episode_records

__all__ = ["COMMANDS", "Undisturbed", "add_arguments", "content", "kill_once", "run"]

_RECORD = ["record", "--preset", "tiny", "--policy"]
_SMALL = ["--task", "brick_sorting", "--preset", "tiny", "--threads", "1"]
_DATA = ["--data", "{world}/expert", "{world}/operator"]
_LAGS = "policy.model.lags=[2]"
#: Arguments of the commands that are killed; `{world}` holds what they need, `{out}` is their folder.
COMMANDS: dict[str, list[str]] = {
    "record": [*_RECORD, "operator", "--episodes", "3", "--seed", "50", "--out", "{out}"],
    "train dynamics": ["train", "dynamics", *_SMALL, *_DATA, "--out", "{out}"],
    "train value": ["train", "value", *_SMALL, *_DATA, "--out", "{out}"],
    "train policy": ["train", "policy", *_SMALL, *_DATA, "--plain", "--steps", "60", "--out", "{out}",
                     "--set", _LAGS],
    "train bundle": ["train", "bundle", *_SMALL, *_DATA, "--starts", "16", "--imagined", "24", "--policy",
                     "{world}/policy/model", "--out", "{out}/bundle"],
    "improve": ["improve", "--agent", "rise", "--bundle", "{world}/bundle", "--policy", "base", "--chunks", "48",
                "--num-envs", "8", "--out", "{out}", "--set", "batch_size=8", "epochs=1"],
    "demo": ["demo", "--preset", "tiny", "--bundle", "{world}/bundle", "--episodes", "2", "--agent", "rise", "--chunks",
             "48", "--out", "{out}", "--json", "{out}/demo.json", "--set", "batch_size=8", "epochs=1", "--",
             "demo.recordings=[{{policy: base, episodes: 2, seed: 70}}, {{policy: expert, episodes: 2, seed: 80}}]"],
}  # fmt: skip
_WORLD = [
    [*_RECORD, "expert", "--episodes", "4", "--seed", "0", "--out", "{world}/expert"],
    [*_RECORD, "operator", "--episodes", "4", "--seed", "20", "--out", "{world}/operator"],
    ["train", "policy", *_SMALL, *_DATA, "--plain", "--steps", "20", "--out", "{world}/policy", "--set", _LAGS],
    ["train", "bundle", *_SMALL, *_DATA, "--starts", "16", "--imagined", "24", "--policy", "{world}/policy/model",
     "--out", "{world}/bundle"],
]  # fmt: skip
#: How often a running command is looked at, s.
_POLL = 0.02


class Undisturbed:
    """A command's undisturbed run.

    Attributes:
        first: When it wrote its first file, s after its start.
        seconds: How long it took.
        content: What it left; see `content`.
    """

    def __init__(self, command: Sequence[str], out: Path) -> None:
        began, first = time.monotonic(), 0.0

        def watch() -> None:
            nonlocal first
            if not first and _files(out):
                first = time.monotonic() - began

        _finish(command, watch)
        self.first, self.seconds, self.content = first, time.monotonic() - began, content(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every benchmark has."""
    parser.add_argument("--points", type=int, default=50, help="moments, in turn over the commands (default: 50)")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, metavar="COMMAND", help="these commands alone")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """How often each command was killed, when, and how often it then ended as if nothing had been."""
    if args.points < 1:
        raise ConfigError(f"--points is {args.points}, expected at least 1")
    names = args.only or list(COMMANDS)
    draw = random.Random(args.seed)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="rise-killed-") as folder:
        world = Path(folder) / "world"
        say("making a small world: recordings, a policy, a bundle")
        for command in _WORLD:
            _finish(_fill(command, world, world))
        for name, point in zip(itertools.cycle(names), range(args.points)):
            out = Path(folder) / "out"
            if name not in rows:
                whole = Undisturbed(_fill(COMMANDS[name], world, out), out)
                rows[name] = {"undisturbed": whole, "killed": 0, "equal": 0, "moments": [], "differences": []}
                shutil.rmtree(out)
            row = rows[name]
            whole = row["undisturbed"]
            moment = draw.uniform(whole.first, whole.seconds)
            killed, differences = kill_once(_fill(COMMANDS[name], world, out), out, moment, whole.content)
            row["killed"] += killed
            row["equal"] += not differences
            row["moments"].append(round(moment, 2))
            row["differences"] += differences
            say(f"{point + 1} of {args.points}: {name} at {moment:.1f} of {whole.seconds:.1f} s: "
                + ("" if killed else "had ended before, ") + ("; ".join(differences) or "as undisturbed"))  # fmt: skip
            shutil.rmtree(out)
    for row in rows.values():
        row["seconds"] = round(row.pop("undisturbed").seconds, 1)
    total = {key: sum(row[key] for row in rows.values()) for key in ("killed", "equal")}
    return {"points": args.points, **total, "commands": rows}


def kill_once(command: Sequence[str], out: Path, moment: float, expected: dict[str, str]) -> tuple[bool, list[str]]:
    """Kill a command after `moment` seconds, run it again to its end.

    Returns:
        Whether it still ran at that moment, and what differs from `expected`.
    """
    with _start(command, subprocess.DEVNULL) as process:
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
    differences = [f"still running: {line}" for line in _running(out)]
    _finish(command)
    found = content(out)
    differences += [f"differs: {key}" for key in sorted(found.keys() | expected) if found.get(key) != expected.get(key)]
    return killed, differences


def content(out: Path) -> dict[str, str]:
    """Digests of everything that a run leaves and that must not depend on interruptions, by relative name.

    These are weights, arrays, recorded frames and tables; besides, the names of all files that stand for nothing else,
    so that a file left over by a killed process shows. Logs, states for resuming and films count by name alone.
    """
    digests: dict[str, str] = {}
    datasets = [path.parent.parent for path in out.rglob("meta/info.json")]
    for root in datasets:
        digests[f"dataset {root.relative_to(out)}"] = _dataset_digest(root)
    for path in _files(out):
        name = str(path.relative_to(out))
        if any(root in path.parents for root in datasets) or "tensorboard" in path.parts:
            continue
        if path.suffix == ".safetensors":
            parts = sorted(load_file(path).items())
            digests[name] = _digest(*(part for key, value in parts for part in (key.encode(), value.tobytes())))
        elif path.suffix in (".npy", ".npz"):
            digests[name] = _digest(path.read_bytes())
        else:
            digests[name] = "there"
    return digests


def _dataset_digest(root: Path) -> str:
    dataset = open_dataset(root)
    parts = [np.ascontiguousarray(x).tobytes() for x in (dataset.state, dataset.action, dataset.lengths)]
    records = [repr(record).encode() for record in read_episode_records(root)]
    return _digest(*parts, dataset.frames(np.arange(dataset.num_frames)).tobytes(), *records)


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fill(command: Sequence[str], world: Path, out: Path) -> list[str]:
    return [part.format(world=world, out=out) for part in command]


def _start(command: Sequence[str], log: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a command. Its messages go to a file: a pipe that nobody empties would stop it once full."""
    words = [sys.executable, "-m", "rise_agents.cli.main", *command]
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=log)


def _finish(command: Sequence[str], watch: Callable[[], None] = lambda: None) -> None:
    """Run a command to its end, calling `watch` again and again; RiseError if it fails."""
    with tempfile.TemporaryFile() as log, _start(command, log) as process:
        while process.poll() is None:
            watch()
            time.sleep(_POLL)
        if process.returncode:
            log.seek(0)
            error = log.read().decode(errors="replace")[-2000:]
            raise RiseError(f"`rise {' '.join(command)}` ended with {process.returncode}:\n{error}")


def _running(out: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(out) in line:
            found.append(line[:200])
    return found
