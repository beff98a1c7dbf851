"""Record episodes of a policy in a task's work cell, or in its own simulation, as a LeRobot v3.0 dataset.

Policies: trained ones, `base` (the bundle's), a run folder, a checkpoint or a Hub id; and those of the work cell
(below; corrected frames carry `is_intervention`), which a simulation of somebody else's has not.

Episode i uses seed S + i. Run the same command again to continue after an interruption, or with more episodes to
extend the dataset; nothing that was finished is lost, whenever the process dies. A preview video of the first episodes
is written beside the dataset as `<out>/preview.mp4`.

  rise record --task brick_sorting --policy expert --episodes 50 --seed 0 --out data/bricks-expert
  rise record --task brick_sorting --policy operator --episodes 200 --seed 1000 --out data/bricks-operator

Read it with `LeRobotDataset("rise/bricks-expert", root="data/bricks-expert", video_backend="pyav")`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rise_agents.cli.options import (
    SCRIPTED_POLICIES,
    add_acting,
    add_overrides,
    add_task,
    add_variation,
    at_least,
    finite,
    folder,
)

if TYPE_CHECKING:
    from rise_env.acting import Actor
    from rise_env.tasks import TaskSpec

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = SCRIPTED_POLICIES
    add_task(parser)
    parser.add_argument("--policy", default="expert", help="name or path of a policy (default: %(default)s)")
    add_acting(parser)
    parser.add_argument(
        "--episodes", type=at_least(1), default=10, help="episodes in the dataset (default: %(default)s)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--out", type=folder, required=True, help="directory of the dataset")
    add_variation(parser)
    parser.add_argument(
        "--tail-seconds", type=finite, help="go on this long after the outcome is clear (default: one action chunk)"
    )
    parser.add_argument(
        "--preview", type=at_least(0), default=4, metavar="N", help="episodes in the preview video; 0 for none"
    )
    parser.add_argument(
        "--explore", nargs="+", metavar="KIND", default=[],
        help="let a trained policy do something else at half of its decisions, so that a world model sees what comes "
        "of it: policy (its own, with noise), wide (more noise), offset (moved in space), warp (in time), both, turn "
        "(some joints turned far)",
    )  # fmt: skip
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Record."""
    from rise_agents.progress import advance, bar, say
    from rise_robot.recording import read_episode_records, write_preview

    spec, record = _recording(args)
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()
    with bar(args.episodes, f"recording {args.policy}", "episodes") as progress:

        def on_episode(saved: int, outcome: str | None) -> None:
            advance(progress, saved)
            if outcome is None:
                say(f"{args.out} holds {saved} episodes already; continuing")
                return
            outcomes[outcome] += 1
            progress.set_postfix(dict(outcomes), refresh=False)

        record(args.episodes, args.seed, args.out, tail_seconds=args.tail_seconds, on_episode=on_episode)
    elapsed = time.perf_counter() - started
    records = read_episode_records(args.out)
    successes, frames = sum(r.success for r in records), sum(r.num_frames for r in records)
    corrected = sum(r.num_intervention_frames for r in records)
    print(f"{args.out}: {len(records)} episodes, {frames} frames at {spec.fps} Hz, {successes} successful", end="")
    print(f", {corrected} corrected frames" if corrected else "")
    if recorded := outcomes.total():
        print(f"recorded {recorded} episodes in {elapsed:.1f} s ({elapsed / recorded:.2f} s each)")
    if args.preview:
        preview = write_preview(args.out, args.out / "preview.mp4", episodes=min(args.preview, len(records)))
        print(f"preview: {preview}")
    return 0


def _recording(args: argparse.Namespace) -> tuple[TaskSpec, Callable[..., None]]:
    """The task, and what records it: in its simulation, if it has one, else in its work cell."""
    from rise_env.errors import ConfigError
    from rise_env.registry import TASKS, load_object
    from rise_env.tasks import load_task, name_of_task
    from rise_robot.cell.collect import collect
    from rise_robot.cell.config import cell_overrides, load_cell
    from rise_robot.recording.simulated import record_simulation

    task = name_of_task(args.task)
    where = TASKS.find(task).target.simulation if task in TASKS else None
    if where is None:
        options = cell_overrides(args.difficulty, None, None, args.variation or None)
        spec, config = load_cell(args.task, args.preset, [*options, *args.overrides])
        actor, name = _actor(args, spec)  # a scripted one is found by its name, in the cell
        return spec, functools.partial(collect, spec, config, name, actor=actor)
    if args.difficulty or args.variation:
        raise ConfigError(f"task {task!r} has a simulation of its own: --difficulty and --variation are of work cells")
    spec = load_task(args.task, args.preset, args.overrides)
    actor, name = _actor(args, spec)
    if actor is None:
        raise ConfigError(
            f"there is no trained policy {args.policy!r}, and the simulation of task {task!r} has no scripted ones: "
            "give --policy a run folder, a checkpoint, a Hub id or 'base'. A scripted operator of yours records with "
            "rise_robot.recording.EpisodeRecorder or LeRobot's own writer (docs/your_data.md)"
        )
    make = load_object(where, f"simulation of {task!r}")

    def in_simulation(*what: Any, **how: Any) -> None:
        with contextlib.closing(make()) as simulation:
            record_simulation(spec, simulation, actor, name, *what, **how)

    return spec, in_simulation


def _actor(args: argparse.Namespace, spec: TaskSpec) -> tuple[Actor | None, str]:
    """Who acts, and the name in the records; no actor for a scripted policy."""
    from rise_agents.algorithms.proposals import ExploringActor
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.resolve import LeRobotSource, record_name, resolve_actor
    from rise_env.acting import Actor
    from rise_env.errors import ConfigError

    found = resolve_actor(args.policy, task=spec.name, advantage=args.advantage, guidance=args.guidance)
    if isinstance(found, LeRobotSource):
        found = found.load(spec)
    if args.explore:
        if not isinstance(found, PolicyActor):
            raise ConfigError(f"--explore: {args.policy} is no trained policy; leave --explore out")
        found = ExploringActor(found.policy, args.explore, advantage_bin=found.advantage_bin, guidance=found.guidance)
        return found, f"{record_name(args.policy)}-exploring-{'-'.join(args.explore)}"
    return (found, record_name(args.policy)) if isinstance(found, Actor) else (None, args.policy)
