"""Show the work cell: experts and imperfect operators sort bricks, and a dataset is recorded.

Writes into `--out`: `grid.png` (a row of pictures per policy), one video per policy, a small LeRobot dataset with its
preview video, and the success table on the way. Takes about a minute on two cores.

  rise showcase
  rise showcase --out out/showcase --json out/showcase.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]

_ENV = "RISE-BrickSorting-Cell-v0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, default=Path("out/showcase"), help="directory (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=40, help="episodes per policy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate, film, record."""
    import numpy as np

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.cli.progress import bar
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.policies.resolve import resolve_actor
    from rise_agents.reporting.filming import caption, film_episodes, outcome, picture_grid, write_video
    from rise_env.files import write_json
    from rise_env.provenance import provenance
    from rise_robot.cell.collect import CollectedEpisode, collect
    from rise_robot.cell.config import load_cell
    from rise_robot.cell.task import make_cell_task
    from rise_robot.recording import write_preview

    started = time.perf_counter()
    spec, config = load_cell("brick_sorting", "small")
    policies = make_cell_task(spec.name, config.ranges).scripted_policies
    results: dict[str, Any] = {}
    rows = []
    print(f"{_ENV}: {spec.prompt}")
    with bar(len(policies), "evaluating and filming", "policies") as progress:
        for policy in policies:
            result = evaluate(_ENV, resolve_actor(policy), args.episodes, args.seed)
            results[policy] = result
            # What is typical of an imperfect operator is how it fails; of the others, how they succeed.
            failed = [episode for episode in result.details if not episode.success]
            shown = failed if policy.startswith("operator") and failed else list(result.details)
            (episode, frames, fps) = next(iter(film_episodes(_ENV, resolve_actor(policy), [shown[0].seed])))
            text = f"{policy}   seed {episode.seed}   {outcome(episode)}   {episode.seconds:.1f} s"
            rows.append((text, frames))
            write_video(args.out / f"{policy}.mp4", np.stack([caption(frame, text) for frame in frames]), fps)
            progress.update()
    print(f"{'policy':<20}{'success':>9}   95 % interval     score   s/episode   failures")
    for policy, result in results.items():
        low, high = result.success_interval
        failures = ", ".join(f"{mode} {count}" for mode, count in result.failure_modes.items())
        print(
            f"{policy:<20}{result.success_rate:>8.0%}   {low:>5.0%} to {high:<5.0%}    {result.score_mean:>5.2f}"
            f"{result.episode_seconds:>10.1f}    {failures}"
        )
    grid = picture_grid(args.out / "grid.png", rows)
    dataset = args.out / "dataset"
    with bar(6, "recording a dataset", "episodes") as progress:

        def on_episode(saved: int, _: CollectedEpisode | None) -> None:
            progress.update(saved - progress.n)

        collect(spec, config, "corrected", 6, args.seed, dataset, on_episode=on_episode)
    preview = write_preview(dataset, dataset / "preview.mp4", episodes=6)
    minutes = (time.perf_counter() - started) / 60
    if args.json:
        table = {policy: result.to_dict() for policy, result in results.items()}
        content = {"results": table, "minutes": minutes, "report": str(grid)}
        write_json(
            args.json, {**content, "provenance": provenance({"env": _ENV, "episodes": args.episodes}, args.seed)}
        )
    print(f"done in {minutes:.1f} min. Look at:")
    print(f"  {args.out}/*.mp4   one episode of every policy, filmed")
    print(f"  {preview}   a recorded LeRobot dataset, read back")
    print(f"  {grid}   all of it in one picture")
    return 0
