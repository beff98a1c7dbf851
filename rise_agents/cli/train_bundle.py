r"""Train dynamics and value on recorded data and put them, with start states, into a bundle.

  rise train bundle --task brick_sorting --data data/operator data/expert data/corrected --out bundles/brick_sorting
  rise train bundle --task brick_sorting --data data/operator data/expert data/corrected --out bundles/brick_sorting \
      --minutes 60

One command from recordings to what `gym.make` needs. Without `--minutes` every part gets the preset's number of
updates, and on one machine the result depends on data, preset and seed alone: after an interruption, `kill -9`
included, the same command goes on to the very same bundle. `--steps N` is a shorter or longer run of that kind: N
updates of the transformer, and of every other part in the preset's proportion. `--minutes` are shared: three quarters
for the dynamics, the rest for the value, of which the last three tenths train on imagined frames of recorded chunks;
how far that comes depends on the speed of the machine.

Everything in between stays in `--runs` (default: `<out>-runs`). Parts that are trained already can be given with
`--dynamics` and `--value`; `--policy` puts a base policy in, for `--policy base` of other commands and for the demo.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from rise_env.errors import ConfigError

__all__ = ["Updates", "add_arguments", "count_updates", "run"]

_DYNAMICS_SHARE, _FINE_TUNE_SHARE = 0.75, 0.3


class Updates(NamedTuple):
    """Number of updates of every part."""

    autoencoder: int
    transformer: int
    value: int
    imagined: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, on top of those that every part of `rise train` has."""
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the training runs (default: <out>-runs)")
    parser.add_argument("--dynamics", type=Path, metavar="MODEL", help="trained dynamics model to use")
    parser.add_argument("--value", type=Path, metavar="MODEL", help="trained value model to use")
    parser.add_argument("--policy", type=Path, metavar="MODEL", help="base policy to put in (`rise train policy`)")
    parser.add_argument("--starts", type=int, default=512, metavar="N", help="start states (default: %(default)s)")
    parser.add_argument(
        "--imagined", type=int, default=3000, metavar="N",
        help="recorded chunks to imagine for the value; 0 for none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--imagined-steps", type=int, metavar="N",
        help="updates of the value on imagined frames (default: three sevenths of its updates before)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train what is not given, then write the bundle."""
    _check(args)
    from rise_agents.cli.progress import say
    from rise_agents.policies.loading import load_policy
    from rise_env.bundle import save_bundle
    from rise_env.data import open_dataset
    from rise_env.dynamics.model import LatentDynamics
    from rise_env.envs.start_dataset import starts_from_dataset
    from rise_env.tasks import load_task
    from rise_env.value.model import ValueModel
    from rise_env.world_model import CompositionalWorldModel

    # What is given is read now: an hour of training is no moment to find a wrong path.
    for given, kind in ((args.dynamics, LatentDynamics), (args.value, ValueModel)):
        if given is not None:
            kind.from_pretrained(given)
    if args.policy is not None:
        load_policy(args.policy)
    runs = args.runs or args.out.with_name(f"{args.out.name}-runs")
    updates = None if args.minutes is not None else count_updates(args)
    ours = {} if updates is None else updates._asdict()
    for given, parts in ((args.dynamics, ("autoencoder", "transformer")), (args.value, ("value", "imagined"))):
        if given is not None:
            ours = {name: count for name, count in ours.items() if name not in parts}
    if ours:
        say(f"updates: {', '.join(f'{name} {count}' for name, count in ours.items())}")
    dynamics = args.dynamics or _dynamics(args, runs / "dynamics", updates)
    value = args.value or _value(args, runs, dynamics, updates)

    spec = load_task(args.task, args.preset, args.overrides)
    say("drawing start states")
    starts = starts_from_dataset(open_dataset(args.data, spec), spec, args.starts, seed=0)
    imagines = LatentDynamics.from_pretrained(dynamics)
    reward_source = "dynamics" if imagines.predicts_values else "value"
    model = CompositionalWorldModel(imagines, ValueModel.from_pretrained(value), spec, reward_source=reward_source)
    about = {
        "data": [Path(path).name for path in args.data],
        "minutes": args.minutes,
        "updates": ours or None,
    }
    bundle = save_bundle(args.out, starts, model, policy=args.policy, about=about, seed=0)
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    print(f"bundle: {bundle.path} ({size / 1e6:.1f} MB, {len(starts)} start states)")
    return 0


def count_updates(args: argparse.Namespace) -> Updates:
    """Updates of every part: the preset's, or `--steps` of the transformer and the others in proportion.

    Raises:
        ConfigError: If the configuration is wrong or a number is not positive.
    """
    from rise_agents.cli.train_value import load_value_config
    from rise_env.dynamics.config import load_dynamics_config

    dynamics = load_dynamics_config(args.task, args.preset, args.overrides).training
    value = load_value_config(args.task, args.preset, args.overrides).training
    transformer = dynamics.steps if args.steps is None else args.steps
    if transformer < 1:
        raise ConfigError(f"--steps is {transformer}, expected at least 1")

    def scaled(updates: float) -> int:
        return max(1, round(updates * transformer / dynamics.steps))

    whole = value.progress_steps + value.td_steps
    # The share of the value's time that `--minutes` gives to imagined frames, in updates.
    imagined = scaled(whole * _FINE_TUNE_SHARE / (1 - _FINE_TUNE_SHARE))
    return Updates(
        scaled(dynamics.autoencoder_steps),
        transformer,
        scaled(whole),
        0 if not args.imagined else (args.imagined_steps or imagined),
    )


def _check(args: argparse.Namespace) -> None:
    """Find what is wrong with the arguments before anything is trained."""
    for name, least in (("starts", 1), ("imagined", 0), ("imagined_steps", 1)):
        number = getattr(args, name)
        if number is not None and number < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {number}, expected at least {least}")
    if args.imagined_steps is not None:
        for useless, why in (
            (args.minutes is not None, "--minutes shares the time among the parts"),
            (args.value is not None, "--value is trained already"),
            (not args.imagined, "--imagined 0 imagines nothing"),
        ):
            if useless:
                raise ConfigError(f"--imagined-steps has nothing to count: {why}. Leave one of them out.")
    if (
        args.out.exists()
        and not (args.out / "bundle.json").is_file()
        and (args.out.is_file() or any(args.out.iterdir()))
    ):
        raise ConfigError(f"--out {args.out} exists and is no bundle: it is left alone. Choose another directory.")


def _dynamics(args: argparse.Namespace, out: Path, updates: Updates | None) -> Path:
    from rise_agents.cli.train import PARTS

    minutes = None if args.minutes is None else args.minutes * _DYNAMICS_SHARE
    steps = None if updates is None else updates.transformer
    first = None if updates is None else updates.autoencoder
    PARTS["dynamics"].run(
        _part(args, out=out, minutes=minutes, steps=steps, autoencoder=None, initial=None, autoencoder_steps=first)
    )
    return out / "model"


def _value(args: argparse.Namespace, runs: Path, dynamics: Path, updates: Updates | None) -> Path:
    """Train on recorded frames alone, then, from there, with imagined ones among them.

    The second run is one of its own, with a learning rate that rises and falls again: its frames have other statistics.
    """
    from rise_agents.cli import train_value

    rest = None if args.minutes is None else args.minutes * (1 - _DYNAMICS_SHARE)
    first = None if rest is None else rest * (1 - _FINE_TUNE_SHARE)
    steps = None if updates is None else updates.value
    out = runs / "value"
    train_value.run(_part(args, out=out, minutes=first, steps=steps, dynamics=dynamics, initial=None, imagined=0))
    if not args.imagined:
        return out / "model"
    tuned = runs / "value-imagined"
    second = None if rest is None else rest * _FINE_TUNE_SHARE
    steps = None if updates is None else updates.imagined
    train_value.run(_part(args, out=tuned, minutes=second, steps=steps, dynamics=dynamics, initial=out / "model"))
    return tuned / "model"


def _part(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})
