"""Show the work cell of a task: its expert and imperfect operators act, and a dataset is recorded.

Writes into `--out`: `grid.png` (a row of pictures per policy), one video per policy, a small LeRobot dataset with its
preview video, and the success table on the way. Takes about a minute on two cores.

  rise showcase
  rise showcase --task brick_sorting --out out/showcase --json out/showcase.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rise_agents.cli.options import add_task, at_least, cell_of, folder, new_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_task(parser)
    parser.add_argument("--out", type=folder, default=Path("out/showcase"), help="directory (default: %(default)s)")
    parser.add_argument("--episodes", type=at_least(1), default=40, help="episodes per policy (default: %(default)s)")
    parser.add_argument(
        "--recorded", type=at_least(1), default=6, help="episodes of the dataset (default: %(default)s)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate, film, record."""
    from rise_agents.progress import advance, bar
    from rise_agents.reporting.gallery import film_gallery, scripted_policies
    from rise_env.files import write_json
    from rise_env.provenance import provenance
    from rise_robot.cell.collect import collect
    from rise_robot.cell.config import load_cell
    from rise_robot.recording import write_preview

    started = time.perf_counter()
    spec, config = load_cell(args.task, args.preset)
    env_id = cell_of(spec.name)
    print(f"{env_id}: {spec.prompt}")
    policies = scripted_policies(env_id, args.preset)
    with bar(len(policies), "evaluating and filming", "policies") as progress:
        results = film_gallery(
            env_id, policies, args.out, args.episodes, args.seed,
            preset=args.preset, on_policy=lambda name, result: progress.update(),
        )  # fmt: skip
    print(f"{'policy':<20}{'success':>9}   95 % interval     score   s/episode   failures")
    for policy, result in results.items():
        low, high = result.success_interval
        failures = ", ".join(f"{mode} {count}" for mode, count in result.failure_modes.items())
        print(
            f"{policy:<20}{result.success_rate:>8.0%}   {low:>5.0%} to {high:<5.0%}    {result.score_mean:>5.2f}"
            f"{result.episode_seconds:>10.1f}    {failures}"
        )
    dataset, name = args.out / "dataset", "corrected" if "corrected" in policies else "expert"
    with bar(args.recorded, "recording a dataset", "episodes") as progress:
        collect(spec, config, name, args.recorded, args.seed, dataset, on_episode=lambda n, _: advance(progress, n))
    preview = write_preview(dataset, dataset / "preview.mp4", episodes=args.recorded)
    minutes = (time.perf_counter() - started) / 60
    if args.json:
        table = {policy: result.to_dict() for policy, result in results.items()}
        source = provenance({"env": env_id, "episodes": args.episodes}, args.seed)
        content = {"results": table, "minutes": minutes, "report": str(args.out / "grid.png"), "provenance": source}
        write_json(args.json, content)
    print(f"done in {minutes:.1f} min. Look at:")
    print(f"  {args.out}/*.mp4   one episode of every policy, filmed")
    print(f"  {preview}   a recorded LeRobot dataset, read back")
    print(f"  {args.out / 'grid.png'}   all of it in one picture")
    return 0
