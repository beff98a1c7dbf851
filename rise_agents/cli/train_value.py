r"""Train a value model: progress first, then temporal differences on recorded successes and failures.

  rise train value --data data/bricks-operator data/bricks-expert --preset small --out runs/value
  rise train value --data ... --out runs/value-2 --initial runs/value/model \
      --dynamics runs/dynamics/model --imagined 500

The second form goes on from the first on imagined frames of recorded chunks, whose true labels are known: a value
model trained on recorded frames alone misreads imagined ones. The run folder holds `model/` (what
`ValueModel.from_pretrained` loads), `metrics.json` (measured on held-out episodes), `tensorboard/`, and the full state,
from which the same command goes on to the very same result after any interruption.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "load_dynamics", "load_value_config", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--initial", type=Path, metavar="MODEL", help="value model to start from")
    parser.add_argument("--dynamics", type=Path, metavar="MODEL", help="dynamics model, for latents or imagined frames")
    parser.add_argument(
        "--imagined", type=int, default=0, metavar="N", help="mix in imagined frames of N recorded chunks (0: none)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, print."""
    import torch

    from rise_agents.cli.progress import advance, bar, say
    from rise_env.data import Windows, open_dataset, split_episodes
    from rise_env.files import to_json
    from rise_env.tasks import load_task
    from rise_env.value.imagined import imagine_recorded_chunks
    from rise_env.value.latents import LatentDataset, weights_digest
    from rise_env.value.training import train_value
    from rise_env.world_model import resolve_device

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    config = load_value_config(args.task, args.preset, args.overrides, args.steps)
    if (config.model.reads_latents or args.imagined) and args.dynamics is None:
        raise ConfigError("latents and imagined frames come from a dynamics model: give --dynamics MODEL")
    spec = load_task(args.task, args.preset, args.overrides)
    device = resolve_device(args.device)
    dataset = open_dataset(args.data, spec)
    say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {args.out}/tensorboard")
    with bar(dataset.num_frames * len(spec.cameras), "decoding", "frames") as decoding:
        dataset.prepare(lambda done, _: advance(decoding, done))

    source, imagined = dataset, None
    if args.dynamics is not None:
        dynamics = load_dynamics(args.dynamics, device)
        if config.model.reads_latents:
            source = LatentDataset(dataset, dynamics, weights_digest(dynamics))  # type: ignore[assignment]
        if args.imagined:
            held = config.training.held_out
            parts = split_episodes(dataset, {"train": 1 - held, "heldout": held}, seed=0) if held else {"train": None}
            windows = Windows(dataset, spec, episodes=parts["train"])
            with bar(min(args.imagined, len(windows)), "imagining", "chunks") as progress:
                imagined = imagine_recorded_chunks(
                    dynamics, windows, args.imagined, config.training.seed,
                    latents=config.model.reads_latents, on_chunk=lambda done: advance(progress, done),
                )  # fmt: skip

    with bar(1000, "training", "‰") as progress:

        def on_step(part: float, losses: dict[str, float]) -> None:
            advance(progress, int(1000 * part))
            progress.set_postfix(
                {name: f"{value:.3g}" for name, value in losses.items() if name != "lr"}, refresh=False
            )

        report = train_value(
            config, source, args.out,
            cameras=tuple(spec.cameras), chunk=spec.chunk, minutes=args.minutes, imagined=imagined,
            initial=args.initial, device=device, on_step=on_step,
        )  # fmt: skip
    print(to_json({name: value for name, value in report.items() if name != "provenance"}))
    print(f"model: {args.out / 'model'}")
    return 0


def load_value_config(task: str, preset: str, overrides: list[str], steps: int | None = None) -> Any:
    """The `value` section of a preset; `steps` updates in all, in the preset's proportion, when given."""
    from rise_env.config import decode, load_config
    from rise_env.value.config import ValueConfig

    config = decode(ValueConfig, load_config(task, preset, overrides).get("value", {}), "section 'value'")
    if steps is None:
        return config
    if steps < 1:
        raise ConfigError(f"--steps is {steps}, expected at least 1")
    training = config.training
    first = round(steps * training.progress_steps / (training.progress_steps + training.td_steps))
    training = dataclasses.replace(training, progress_steps=first, td_steps=steps - first)
    return dataclasses.replace(config, training=training)


def load_dynamics(path: str | Path, device: Any) -> Any:
    """A dynamics model."""
    from rise_env.dynamics.model import LatentDynamics

    return LatentDynamics.from_pretrained(path, device=device)
