"""Success rate of a policy in an environment, with its 95 % Wilson interval.

Episode i uses seed S + i, so two policies evaluated with the same seed meet the same episodes. Policies of the work
cell: `expert`; `operator` (imperfect); `operator-noisy`, `-delayed`, `-confused`, `-hesitant`, `-hasty`, `-clumsy`,
`-distracted`, `-playful`; `corrected` (an operator corrected by the expert); `random`. Trained policies: `base` (the
bundle's), a run folder, a checkpoint directory or a Hub id; `--advantage` says what to ask them for.

  rise evaluate --env RISE-BrickSorting-Cell-v0 --policy expert --episodes 200 --seed 0 --json expert.json
  rise evaluate --env RISE-BrickSorting-Piper-v0 --robot cell --policy base --episodes 20   # over ROS: rise ros-cell
  rise evaluate --policy operator --difficulty hard --episodes 100 --videos out/videos --num-videos 4
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rise_agents.evaluation.evaluate import Episode, PolicyMaker

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--env", default="RISE-BrickSorting-Cell-v0", help="environment id (default: %(default)s)")
    parser.add_argument("--policy", required=True, help="name or path of a policy")
    parser.add_argument(
        "--advantage", metavar="LEVEL", help="advantage to ask for: best (default), middle, worst, none, or 0, 1, ..."
    )
    parser.add_argument("--guidance", type=float, metavar="W", help="classifier-free guidance (default: the policy's)")
    parser.add_argument(
        "--noise", type=float, metavar="S", help="noise a chunk starts from, 0 to 1 (default: the policy's; best-of: 1)"
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="imagine N proposals per decision and execute the best"
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="whose world model imagines them (default: shipped)")
    parser.add_argument("--threads", type=int, help="CPU threads of the policy (default: torch's)")
    parser.add_argument("--episodes", type=int, default=100, help="number of episodes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--num-envs", type=int, help="environments at the same time (default: 16; one robot)")
    parser.add_argument("--robot", help="of a Piper environment: piper (default), cell (rise ros-cell) or a YAML file")
    parser.add_argument("--preset", help="preset of the task (default: the environment's)")
    parser.add_argument("--difficulty", help="easy, normal or hard (default: the preset's)")
    parser.add_argument("--execute", type=int, help="actions of each chunk to run (default: the preset's)")
    parser.add_argument("--variation", action="store_true", help="vary lighting, colours, friction and camera")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="film the first episodes of every outcome")
    parser.add_argument("--num-videos", type=int, default=2, help="videos per outcome (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write JSON and videos."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.cli.progress import bar
    from rise_agents.evaluation.evaluate import evaluate, policy_of
    from rise_env.files import write_json
    from rise_env.provenance import provenance

    values = {"preset": args.preset, "difficulty": args.difficulty, "execute": args.execute, "robot": args.robot}
    env_kwargs = {key: value for key, value in values.items() if value is not None}
    if args.variation:
        env_kwargs["variation"] = True
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    make, needs = policy_of(
        args.policy, args.env,
        advantage=args.advantage, guidance=args.guidance, noise=args.noise, best_of=args.best_of, bundle=args.bundle,
    )  # fmt: skip
    env_kwargs |= needs
    successes = 0
    with bar(args.episodes, f"{args.policy} in {args.env}", "episodes") as progress:

        def on_episode(episode: Episode) -> None:
            nonlocal successes
            successes += episode.success
            progress.set_postfix(success=f"{successes / (progress.n + 1):.0%}", refresh=False)
            progress.update()

        result = evaluate(
            args.env, make, args.episodes, args.seed,
            num_envs=args.num_envs or (1 if "-Piper-" in args.env else 16),
            env_kwargs=env_kwargs, on_episode=on_episode,
        )  # fmt: skip
    low, high = result.success_interval
    last = args.seed + args.episodes - 1
    print(f"{args.policy} in {args.env} ({result.episodes} episodes, seeds {args.seed} to {last})")
    print(f"  success     {result.success_rate:.1%}  (95 % interval {low:.1%} to {high:.1%})")
    print(f"  score       {result.score_mean:.2f} of 10")
    print(f"  failures    {', '.join(f'{mode} {count}' for mode, count in result.failure_modes.items()) or 'none'}")
    print(f"  duration    {result.episode_seconds:.2f} s per episode; evaluated in {result.seconds:.1f} s")
    if args.json:
        config = {"env": args.env, "policy": args.policy, "episodes": args.episodes, **env_kwargs}
        config |= (
            {
                "advantage": args.advantage or "best",
                "guidance": args.guidance,
                "noise": "the policy's" if args.noise is None else args.noise,
                "best_of": args.best_of or 1,
            }
            if needs
            else {}
        )
        write_json(args.json, {**result.to_dict(), **config, "provenance": provenance(config, args.seed)})
        print(f"  json        {args.json}")
    if args.videos:
        for path in _film(args, make, result.details, env_kwargs):
            print(f"  video       {path}")
    return 0


def _film(
    args: argparse.Namespace, make: PolicyMaker, details: Sequence[Episode], env_kwargs: dict[str, Any]
) -> Iterator[Path]:
    """Film the first episodes of every outcome."""
    from rise_agents.reporting.filming import film_episodes, outcome, write_video

    by_outcome: dict[str, list[int]] = {}
    for episode in details:
        by_outcome.setdefault(outcome(episode), []).append(episode.seed)
    seeds = sorted(seed for found in by_outcome.values() for seed in found[: args.num_videos])
    for episode, frames, fps in film_episodes(args.env, make, seeds, env_kwargs):
        yield write_video(args.videos / f"episode-{episode.seed}-{outcome(episode)}.mp4", frames, fps)
