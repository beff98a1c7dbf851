"""Improve a policy in imagination.

  rise improve --agent rise --policy runs/policy --data data/operator data/expert --labels v1 \
      --chunks 30000 --seed 0 --out runs/rise
  rise evaluate --policy runs/rise --episodes 200

The policy starts chunks from recorded states of `--data`, the world model of `--env` imagines them, and the policy is
trained on what came of them, mixed with the recorded chunks under the advantages that `rise label` gave them. Without
`--data`, the recordings that the task's bundle ships are used. `--set` changes settings of the agent, such as
`--set group=4 relative=true`. The run folder holds `model/`, `metrics.json`, `tensorboard/` and the full state: run the
same command again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]

_SAVE_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--agent", default="rise", help="agent (default: %(default)s)")
    parser.add_argument("--env", default="RISE-BrickSorting-v0", help="imagination (default: %(default)s)")
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="recorded datasets (default: the bundle's)")
    parser.add_argument("--labels", default="bundle", metavar="TAG", help="tag of their advantages")
    parser.add_argument("--chunks", type=int, default=30_000, help="chunks to imagine (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="longest time to spend")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder; an old one is resumed")
    parser.add_argument("--num-envs", type=int, default=32, help="imaginations at once (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=4096, metavar="N", help="recorded states to start from")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle in place of the shipped one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="agent settings")


def run(args: argparse.Namespace) -> int:
    """Improve."""
    import gymnasium
    import torch
    import yaml

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents import make_agent
    from rise_agents.cli.progress import say
    from rise_agents.policies.data import RecordedChunks, levels_of, measured_advantages
    from rise_agents.policies.loading import find_policy, load_policy
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.data import open_dataset, split_episodes
    from rise_env.files import write_json
    from rise_env.provenance import provenance
    from rise_env.starts import StartStates

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings: dict[str, Any] = {}
    for item in args.overrides:
        key, given, value = item.partition("=")
        if not given:
            raise ConfigError(f"--set {item!r}: expected KEY=VALUE")
        settings[key] = yaml.safe_load(value)
    bundle = load_bundle(args.bundle or find_bundle(gymnasium.spec(args.env).kwargs.get("task", "")))
    path = find_policy(args.policy, bundle.spec.name)
    if path is None:
        raise ConfigError(f"--policy {args.policy}: there is no such policy (a run folder, a checkpoint, 'base')")
    policy = load_policy(path)
    recordings = args.data or bundle.data
    if recordings is None:
        raise ConfigError(f"the bundle {bundle.path} holds no recordings: give --data")
    dataset = open_dataset(recordings, bundle.spec)
    say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames; TensorBoard: {args.out}/tensorboard")
    levels, _ = levels_of(*measured_advantages(dataset, args.labels), policy.codec)
    offline = RecordedChunks(dataset, policy.lags, levels, split_episodes(dataset)["train"])
    starts = StartStates.from_dataset(dataset, bundle.spec, args.starts, seed=0)
    envs = gymnasium.make_vec(
        args.env, num_envs=args.num_envs, bundle=str(bundle.path), starts=starts,
        observation_lags=list(policy.lags), autoreset_mode="disabled",
    )  # fmt: skip
    agent = make_agent(
        args.agent, envs, policy, offline=offline, log=args.out / "tensorboard", seed=args.seed, **settings
    )
    if agent.restore(args.out):
        say(f"going on after {agent.num_chunks} chunks")
    config = {"agent": args.agent, "env": args.env, "policy": str(args.policy), "settings": settings}
    write_json(args.out / "config.json", {**config, "provenance": provenance(config, args.seed)})
    saved = time.monotonic()

    def callback(trained: Any) -> None:
        nonlocal saved
        if time.monotonic() - saved > _SAVE_SECONDS:
            trained.save(args.out)
            saved = time.monotonic()

    limit = None if args.minutes is None else 60 * args.minutes
    try:
        agent.learn(args.chunks, callback=callback, progress_bar=True, seconds=limit)
    finally:
        agent.save(args.out)
        envs.close()
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"policy: {args.out / 'model'}")
    return 0
