"""Train a part of the learned simulator. Run the same command again to go on after an interruption.

  rise train bundle --data data/operator data/expert --out bundles/brick_sorting --minutes 60
  rise train dynamics --data data/bricks-operator data/bricks-expert --preset small --out runs/dynamics --minutes 60

`rise train dynamics` trains the autoencoder, then the transformer. The run folder holds `model/` (what
`LatentDynamics.from_pretrained` loads), `samples/` (real above imagined frames), `tensorboard/`, `metrics.json`, and
the full state, from which a run by `--steps` goes on to the very same result after any interruption.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rise_env.errors import ConfigError

__all__ = ["PARTS", "Bars", "Part", "add_arguments", "run"]


class Part(NamedTuple):
    """Something that can be trained."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, part in PARTS.items():
        part.add_arguments(parts.add_parser(name, help=part.summary, description=part.summary, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Train."""
    return PARTS[args.part].run(args)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every part has."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="recorded datasets")
    parser.add_argument("--task", default="brick_sorting", help="task name or YAML path (default: %(default)s)")
    parser.add_argument("--preset", default="small", help="preset (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder; an old one is resumed")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to train, interruptions not counted")
    length.add_argument("--steps", type=int, help="updates (default: the preset's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="such as dynamics.training.rate=5e-4",
    )


# ---------------------------------------------------------------------- dynamics


def _dynamics_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--autoencoder-steps", type=int, help="updates of the autoencoder (default: the preset's)")
    parser.add_argument(
        "--autoencoder", type=Path, metavar="MODEL", help="take the autoencoder of this model instead of training one"
    )
    parser.add_argument(
        "--initial", type=Path, metavar="MODEL", help="go on from this model (on new recordings), autoencoder included"
    )


def _train_dynamics(args: argparse.Namespace) -> int:
    import torch

    from rise_agents.cli.progress import say
    from rise_agents.cli.train_value import load_value_config
    from rise_env.data import open_dataset
    from rise_env.dynamics.config import load_dynamics_config
    from rise_env.dynamics.training import FrameValues, Training, train_dynamics
    from rise_env.tasks import load_task
    from rise_env.training.loop import Budget
    from rise_env.value.labels import make_labels
    from rise_env.world_model import resolve_device

    if args.threads is not None:
        if args.threads < 1:
            raise ConfigError(f"--threads is {args.threads}, expected at least 1")
        torch.set_num_threads(args.threads)
    config = load_dynamics_config(args.task, args.preset, args.overrides)
    with Bars() as bars:
        dataset = open_dataset(args.data, load_task(args.task, args.preset, args.overrides), progress=bars.decoding)
        if args.minutes is not None:
            share = 0.0 if args.autoencoder or args.initial else config.training.autoencoder_share
            budgets = [Budget(seconds=60 * args.minutes * part) for part in (share or 1.0, 1.0 - share)]
            if args.autoencoder_steps is not None:
                budgets = [Budget(steps=args.autoencoder_steps), Budget(seconds=60 * args.minutes)]
        else:
            steps = args.autoencoder_steps or config.training.autoencoder_steps
            budgets = [Budget(steps=steps), Budget(steps=args.steps or config.training.steps)]
        values = None
        if config.predicts_values:
            labels = make_labels(dataset, load_value_config(args.task, args.preset, args.overrides).labels)
            values = FrameValues(labels.progress, labels.progress_known)
        training = Training(
            dataset, config, args.out, budgets[0], budgets[1], resolve_device(args.device), bars.training, values=values
        )
        say(
            f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; {len(training.train)} windows to train on, "
            f"{len(training.held_out)} kept aside; TensorBoard: {args.out}/tensorboard"
        )
        train_dynamics(training, args.autoencoder, args.initial)
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"model: {args.out / 'model'}")
    return 0


class Bars:
    """One progress bar at a time: decoding, then each phase of training in thousandths of its budget."""

    _SHOWN = ("loss", "spread", "latent_mse", "latent_mse_copy", "psnr_end", "psnr_end_copy", "sample_error", "success")

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def decoding(self, done: int, total: int) -> None:
        """Show how far videos are decoded."""
        self._show("decoding", done, total, "frames")

    def training(self, progress: Any) -> None:
        """Show how far training is."""
        if progress.resumed:
            from rise_agents.cli.progress import say

            say(f"{progress.phase}: resuming at update {progress.step}")
        self._show(progress.phase, round(1000 * progress.used), 1000, "‰")
        figures = {name: f"{progress.metrics[name]:.3g}" for name in self._SHOWN if name in progress.metrics}
        self._bar.set_postfix({"update": progress.step, **figures}, refresh=False)

    def _show(self, name: str, done: int, total: int, unit: str) -> None:
        from rise_agents.cli.progress import bar

        if name != self._name:
            self._close()
            self._bar, self._name = bar(total, name, unit, initial=done), name
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""


# ---------------------------------------------------------------------- parts in modules of their own


def _mounted(summary: str, module: str) -> Part:
    """A part whose module has `add_arguments` and `run`, like a sub-command; imported when it is asked for."""

    def declare(parser: argparse.ArgumentParser) -> None:
        part = importlib.import_module(module)
        parser.description, parser.formatter_class = part.__doc__, argparse.RawDescriptionHelpFormatter
        add_common_arguments(parser)
        part.add_arguments(parser)

    return Part(summary, declare, lambda args: int(importlib.import_module(module).run(args)))


PARTS: Mapping[str, Part] = {
    "bundle": _mounted("train all parts and put them into a bundle for gym.make", "rise_agents.cli.train_bundle"),
    "dynamics": Part("train the dynamics model: autoencoder, then transformer", _dynamics_arguments, _train_dynamics),
    "policy": _mounted("train a policy on recorded chunks and their advantages", "rise_agents.cli.train_policy"),
    "value": _mounted("train the value model: progress, then temporal differences", "rise_agents.cli.train_value"),
}
