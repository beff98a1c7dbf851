"""Arguments that several commands share, and what they accept."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["SCRIPTED_POLICIES", "add_acting", "add_dataset_keys", "add_device", "add_imagine", "add_overrides",
           "add_skip", "add_task", "add_threads", "add_variation", "at_least", "cell_of", "dataset_overrides",
           "evaluated_in", "finite", "folder", "imagining", "model", "new_file", "port", "set_threads"]  # fmt: skip


#: Epilog of commands that take them.
SCRIPTED_POLICIES = """\
scripted policies of the work cell:
  expert            knows the ground truth
  operator          imperfect, a mixture of habits
  operator-KIND     one habit:
    brick_sorting     noisy, delayed, confused, hesitant, hasty, clumsy, distracted, playful
    backpack_packing  noisy, hasty, careless, forgetful, rough, hesitant, distracted, playful, clumsy
    box_closing       noisy, hasty, impatient, forgetful, clumsy, hesitant, distracted, playful, careless
  corrected         an operator corrected by the expert
"""


def port(text: str) -> int:
    """A port of `add_argument(type=...)`: 0 (any free one) to 65535."""
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port, expected 0 (any free one) to 65535")
    return int(text)


def model(text: str) -> Path:
    """A model of `add_argument(type=...)`: its directory, or that of the run that trained it."""
    path = Path(text)
    return path / "model" if (path / "model" / "config.json").is_file() else path


def at_least(limit: int) -> Callable[[str], int]:
    """An argument type: a whole number that is not below `limit`."""

    def number(text: str) -> int:
        if int(text) < limit:
            raise argparse.ArgumentTypeError(f"{text} is less than {limit}")
        return int(text)

    return number


def finite(text: str) -> float:
    """An argument type: a number, neither NaN nor infinity."""
    if not math.isfinite(number := float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return number


def folder(text: str) -> Path:
    """An argument type: a directory, which is there already or can be made."""
    path = Path(text)
    if first := next((place for place in (path, *path.parents) if place.exists()), None):
        if not first.is_dir():
            raise argparse.ArgumentTypeError(f"{first} is not a directory")
        if not os.access(first, os.W_OK):
            raise argparse.ArgumentTypeError(f"nothing may be written to {first}")
    return path


def new_file(text: str) -> Path:
    """An argument type: a file that is there already or can be made. Told before hours of work, not after them."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory")
    if not path.exists():
        folder(str(path.parent))
    return path


def add_task(parser: Any, preset: str | None = "small", **kwargs: Any) -> None:
    """Declare `--task` and `--preset`."""
    what = "task: a name, a folder that `rise init-task` wrote, or a YAML file (default: %(default)s)"
    defaults = {"default": "brick_sorting", "help": what}
    parser.add_argument("--task", **{**defaults, **kwargs})
    parser.add_argument("--preset", default=preset, help=f"preset of the task (default: {preset or 'its own'})")


def add_dataset_keys(parser: Any) -> None:
    """Declare where recorded datasets keep state and action; `dataset_overrides` turns this into settings."""
    parser.add_argument("--state-key", metavar="KEY", help="feature with the joint state (default: the task's)")
    parser.add_argument("--action-key", metavar="KEY", help="feature with the action (default: the task's)")
    parser.add_argument("--trust-layout", action="store_true", help="accept datasets that do not name their joints")


def add_skip(parser: Any) -> None:
    """Declare `--skip-bad-episodes`."""
    parser.add_argument(
        "--skip-bad-episodes", action="store_true",
        help="leave out episodes with missing or damaged files, or impossible joint values, and list them",
    )  # fmt: skip


def dataset_overrides(args: argparse.Namespace) -> list[str]:
    """Settings of the task that the options of `add_dataset_keys` stand for."""
    given = {"state_key": args.state_key, "action_key": args.action_key, "trust_layout": args.trust_layout or None}
    return [f"task.{key}={str(value).lower() if value is True else value}" for key, value in given.items() if value]


def add_overrides(parser: Any) -> None:
    """Declare the overrides at the end."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides such as task.fps=15")


def add_acting(parser: Any) -> None:
    """Declare what a trained policy is asked for."""
    parser.add_argument("--advantage", metavar="BIN", help="advantage to ask a trained policy for: best (default), "
                        "middle, worst, none, or 0, 1, ...")  # fmt: skip
    parser.add_argument("--guidance", type=finite, metavar="W", help="classifier-free guidance (default: the policy's)")


def add_variation(parser: Any) -> None:
    """Declare what varies in the cell."""
    parser.add_argument("--difficulty", help="easy, normal or hard (default: the preset's)")
    parser.add_argument("--variation", action="store_true", help="vary lighting, colours, friction and camera")


def add_imagine(parser: Any) -> None:
    """Declare `--imagine`; `imagining` puts it into effect."""
    parser.add_argument(
        "--imagine", action="append", metavar="KEY=VALUE",
        help="how trained dynamics imagine, such as flow.steps=4 or 'flow.sigmas=[1, 0.9375, 0.8333, 0.625]'; may be "
        "given several times",
    )  # fmt: skip


@contextlib.contextmanager
def imagining(args: argparse.Namespace) -> Iterator[None]:
    """Imagine as `--imagine` says, where the command has it, in this process and those that it starts.

    Raises:
        ConfigError: If a setting is unknown or wrong.
    """
    given: list[str] | None = getattr(args, "imagine", None)
    if not given:
        yield
        return
    from rise_env.dynamics.config import DynamicsConfig
    from rise_env.dynamics.settings import VARIABLE, changed, from_environment

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "; ".join([*([before] if before else []), *given])
    try:
        changed(DynamicsConfig(), from_environment())  # a mistake is told now, not after minutes of work
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def add_device(parser: Any, default: str = "auto") -> None:
    """Declare `--device`."""
    parser.add_argument("--device", default=default, help="auto, cpu, cuda or cuda:1 (default: %(default)s)")


def add_threads(parser: Any) -> None:
    """Declare `--threads`; `set_threads` puts it into effect."""
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (default: torch's)")


def set_threads(threads: int | None) -> None:
    """Compute with so many threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def cell_of(task: str) -> str:
    """Environment id of the work cell of a task; a ConfigError that says what is possible instead, if it has none."""
    from rise_env.tasks import cell_id

    return cell_id(task)


def evaluated_in(task: str) -> str:
    """Environment id in which the successes of a task are counted; a ConfigError that says what is possible instead."""
    from rise_env.tasks import evaluation_id

    return evaluation_id(task)
