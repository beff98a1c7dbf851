"""Success rate of a policy in an environment, with its 95 % Wilson interval.

Episode i uses seed S + i, so two policies evaluated with the same seed meet the same episodes. Policies: those of the
work cell (below); `random`; and trained ones: `base` (the bundle's), a run folder, a checkpoint directory or a Hub id;
`--advantage` says what to ask them for.

  rise evaluate --task brick_sorting --policy expert --episodes 200 --seed 0 --json expert.json
  rise evaluate --env RISE-BrickSorting-Piper-v0 --robot cell --policy base --episodes 20   # over ROS: rise ros-cell
  rise evaluate --policy operator --difficulty hard --episodes 100 --videos out/videos --num-videos 4
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_agents.cli.aliases import add_alias
from rise_agents.cli.options import (
    SCRIPTED_POLICIES,
    add_acting,
    add_imagine,
    add_threads,
    add_variation,
    at_least,
    evaluated_in,
    finite,
    folder,
    new_file,
    set_threads,
)

if TYPE_CHECKING:
    from rise_agents.evaluation.results import EvaluationResult

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = SCRIPTED_POLICIES
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--task", default="brick_sorting", help="task, for its simulation or work cell (default: %(default)s)"
    )
    where.add_argument("--env", metavar="ID", help="another environment than the task's")
    parser.add_argument("--policy", required=True, help="name or path of a policy")
    add_acting(parser)
    parser.add_argument(
        "--noise-scale", type=finite, metavar="S",
        help="standard deviation of the noise a chunk starts from, 0 (deterministic) to 1 (default: the policy's; 1 "
        "with --best-of)",
    )  # fmt: skip
    add_alias(parser, "--noise", "--noise-scale", type=finite)
    parser.add_argument(
        "--best-of", type=at_least(1), metavar="N", help="imagine N proposals per decision and execute the best"
    )
    parser.add_argument(
        "--proposals", nargs="+", metavar="KIND",
        help="where those of --best-of come from: policy (default), wide (more noise), offset (moved in space), warp "
        "(in time), both, turn (some joints turned far); several share the number",
    )  # fmt: skip
    parser.add_argument(
        "--judge", choices=("imagination", "oracle"),
        help="who chooses with --best-of: the world model (default), or the work cell, in which all are run: what the "
        "best choice at every decision would bring, with hindsight",
    )  # fmt: skip
    parser.add_argument(
        "--bundle", type=Path, help="bundle of `base` and --best-of: directory or Hub id (default: shipped)"
    )
    add_imagine(parser)
    add_threads(parser)
    parser.add_argument("--episodes", type=at_least(1), default=100, help="number of episodes (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the first episode (default: %(default)s)")
    parser.add_argument("--num-envs", type=at_least(1), help="environments at the same time (default: 16; one robot)")
    parser.add_argument("--robot", help="of a Piper environment: piper (default), cell (rise ros-cell) or a YAML file")
    parser.add_argument("--preset", help="preset of the task (default: the environment's)")
    parser.add_argument("--execute", type=at_least(1), help="actions of each chunk to run (default: the preset's)")
    add_variation(parser)
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare episode by episode with what --json wrote"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--videos", type=folder, metavar="DIR", help="film the first episodes of every outcome")
    parser.add_argument("--num-videos", type=at_least(1), default=2, help="videos per outcome (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, write JSON and videos."""
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.evaluation.paired import paired_change
    from rise_agents.policies.resolve import find_policy, resolve_actor, task_of
    from rise_agents.progress import episode_bar
    from rise_agents.reporting.filming import film_outcomes
    from rise_env.errors import ConfigError
    from rise_env.files import write_json
    from rise_env.provenance import content_fingerprint, provenance

    env_id = args.env or evaluated_in(args.task)
    before = None if args.against is None else _paired_with(args, env_id)
    values = {"preset": args.preset, "difficulty": args.difficulty, "execute": args.execute, "robot": args.robot}
    env_kwargs = {key: value for key, value in values.items() if value is not None}
    if args.variation:
        env_kwargs["variation"] = True
    set_threads(args.threads)
    asked = {
        name: getattr(args, name) for name in ("advantage", "guidance", "noise_scale", "best_of", "proposals", "judge")
    }
    if args.best_of is None and (args.proposals or args.judge):
        raise ConfigError("--proposals and --judge are of --best-of N: say how many are proposed")
    actor = resolve_actor(args.policy, task=task_of(env_id), bundle=args.bundle, **asked)
    with episode_bar(args.episodes, f"{args.policy} in {env_id}") as on_episode:
        result = evaluate(
            env_id, actor, args.episodes, args.seed,
            num_envs=args.num_envs or (1 if "-Piper-" in env_id else 16),
            env_kwargs=env_kwargs, on_episode=on_episode,
        )  # fmt: skip
    low, high = result.success_interval
    last = args.seed + args.episodes - 1
    print(f"{args.policy} in {env_id} ({result.episodes} episodes, seeds {args.seed} to {last})")
    print(f"  success     {result.success_rate:.1%}  (95 % interval {low:.1%} to {high:.1%})")
    print(f"  score       {result.score_mean:.2f} of 10")
    print(f"  failures    {', '.join(f'{mode} {count}' for mode, count in result.failure_modes.items()) or 'none'}")
    print(f"  duration    {result.episode_seconds:.2f} s per episode; evaluated in {result.seconds:.1f} s")
    change = None if before is None else paired_change(before, result)
    if change is not None:
        down, up = change.interval
        print(f"  change      {change.gain:+.1f} points (95 % interval {down:+.1f} to {up:+.1f})")
        print(f"              {change.gained} episodes gained, {change.lost} lost against {args.against}")
    if args.json:
        # None stands for the policy's own; a scripted policy takes none of what is asked.
        config = {"env": env_id, "policy": args.policy, "episodes": args.episodes, **env_kwargs, **asked}
        if weights := find_policy(args.policy, task_of(env_id), args.bundle):
            config["policy_content"] = content_fingerprint(Path(weights))
        if change is not None:
            config |= {"against": str(args.against), "change": dataclasses.asdict(change)}
        write_json(args.json, {**result.to_dict(), **config, "provenance": provenance(config, args.seed)})
        print(f"  json        {args.json}")
    if args.videos:
        for path in film_outcomes(env_id, actor, result.details, args.videos, args.num_videos, env_kwargs):
            print(f"  video       {path}")
    return 0


def _paired_with(args: argparse.Namespace, env_id: str) -> EvaluationResult:
    """The result to compare with; told before episodes are run, if they are not the same."""
    from rise_agents.evaluation.results import EvaluationResult
    from rise_env.errors import ConfigError
    from rise_env.files import read_json

    content = read_json(args.against, dict[str, Any])
    before = EvaluationResult.from_dict(content)
    seeds, asked = sorted(episode.seed for episode in before.details), [args.seed + i for i in range(args.episodes)]
    if seeds != asked or content.get("env") != env_id:
        raise ConfigError(
            f"--against {args.against}: it holds {len(seeds)} episodes of {content.get('env')} from seed {seeds[:1]} "
            f"on, asked for are {len(asked)} of {env_id} from seed {asked[:1]} on. Only the same episodes can be "
            "compared: give the same environment, --seed and --episodes"
        )
    return before
