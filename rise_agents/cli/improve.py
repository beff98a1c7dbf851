"""Improve a policy in imagination.

  rise improve --agent rise --policy runs/policy --data data/operator data/expert --labels v1 \
      --chunks 30000 --seed 0 --out runs/rise
  rise evaluate --policy runs/rise --episodes 200

The policy starts chunks from recorded states of `--data`, the world model of `--env` imagines them, and the policy is
trained on what came of them, mixed with the recorded chunks under the advantages that `rise label` gave them. Without
`--data`, the start states of the task's bundle and the chunks recorded there serve, scored by imagination. `--set`
changes settings of the agent, such as `--set group=4 relative=true`. The run folder holds `model/`, `metrics.json`,
`tensorboard/` and the full state: run the same command again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "learn", "parsed_settings", "run", "set_up"]

_SAVE_SECONDS, _WATCH_SECONDS = 60.0, 120.0
_AUDIT_SEED = 970_000
#: The true world starts from states of so many episodes, a quarter of them an operator's, as in the demo's recordings.
_POOL, _OPERATOR = 560, "operator-confused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--agent", default="rise", help="agent (default: %(default)s)")
    parser.add_argument("--env", default="RISE-BrickSorting-v0", help="imagination (default: %(default)s)")
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument(
        "--data", type=Path, nargs="+", metavar="DIR", help="recorded datasets (default: the bundle's states)"
    )
    parser.add_argument("--labels", metavar="TAG", help="tag of their advantages, with --data")
    parser.add_argument("--chunks", type=int, default=30_000, help="chunks to imagine (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="longest time to spend, interruptions left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder; an old one is resumed")
    parser.add_argument("--num-envs", type=int, default=32, help="imaginations at once (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=4096, metavar="N", help="recorded states to start from")
    parser.add_argument(
        "--oracle", action="store_true",
        help="the work cell in place of imagination: the ceiling, not a method (from a checkout; needs --data)",
    )  # fmt: skip
    parser.add_argument(
        "--audit", type=int, default=0, metavar="N",
        help="before, every other minute and after, hold imagination against the cell: four chunks of the policy from "
        "each of N states that it got to at first (from a checkout; nothing is learned from it)",
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle in place of the shipped one")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="agent settings")


def run(args: argparse.Namespace) -> int:
    """Improve."""
    import torch

    from rise_agents.cli.progress import say
    from rise_agents.policies.resolve import resolve_policy, task_of
    from rise_env.files import write_json
    from rise_env.provenance import provenance

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings = parsed_settings(args.overrides)
    policy = resolve_policy(args.policy, task=task_of(args.env), bundle=args.bundle)
    agent = set_up(
        args.agent, args.env, policy, args.data, args.labels,
        bundle=args.bundle, oracle=args.oracle, num_envs=args.num_envs, starts=args.starts,
        log=args.out / "tensorboard",
        settings={**settings, "seed": args.seed},
    )  # fmt: skip
    watch = _audit(agent.policy, args) if args.audit else None  # before `restore`: at the states of the base
    if agent.restore(args.out):
        say(f"going on after {agent.num_chunks} chunks")
    config = {"agent": args.agent, "env": args.env, "policy": str(args.policy), "settings": settings}
    write_json(args.out / "config.json", {**config, "provenance": provenance(config, args.seed)})
    learn(agent, args.out, args.chunks, None if args.minutes is None else 60 * args.minutes, watch)
    print((args.out / "metrics.json").read_text(encoding="utf-8"), end="")
    print(f"policy: {args.out / 'model'}")
    return 0


def parsed_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Settings of an agent from KEY=VALUE on the command line; values are YAML.

    Raises:
        ConfigError: If one has no value.
    """
    import yaml

    settings: dict[str, Any] = {}
    for item in overrides:
        key, given, value = item.partition("=")
        if not given:
            raise ConfigError(f"--set {item!r}: expected KEY=VALUE")
        settings[key] = yaml.safe_load(value)
    return settings


def set_up(
    agent: str,
    env_id: str,
    policy: Any,
    data: Sequence[Path] | None,
    labels: str | None,
    *,
    bundle: Path | None = None,
    oracle: bool = False,
    num_envs: int = 32,
    starts: int = 4096,
    log: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Make an agent that improves a policy in imagination, from recorded data.

    Args:
        agent: Name of the agent.
        env_id: Id of the imagination environment.
        policy: Policy to improve.
        data: Recorded datasets: start states, and chunks to mix in; the bundle's start states when None.
        labels: Tag of their advantages, with `data`.
        bundle: Bundle whose world model imagines; that of the environment's task when None.
        oracle: Let the work cell take the place of imagination; it starts from states that the policy, and in a
            quarter of the episodes an operator, gets to.
        num_envs: Imaginations at once.
        starts: Start states drawn from the data.
        log: Directory for TensorBoard.
        settings: Settings of the agent.
    """
    import gymnasium
    import numpy as np

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents import make_agent
    from rise_agents.cli.progress import say
    from rise_agents.policies.data import RecordedChunks, StartChunks, advantage_bins_of, measured_advantages
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.data import open_dataset, split_episodes
    from rise_env.envs.start_dataset import starts_from_dataset

    found = load_bundle(bundle or find_bundle(gymnasium.spec(env_id).kwargs.get("task", "")))
    kwargs: dict[str, Any] = {
        "bundle": str(found.path),
        "observation_lags": list(policy.lags),
        "autoreset_mode": "disabled",
        "render_mode": "rgb_array",  # for films in TensorBoard
    }
    envs: Any
    offline: Any
    if data:
        if labels is None:
            raise ConfigError("--data needs --labels, the tag that `rise label` gave its advantages")
        dataset = open_dataset(list(data), found.spec)
        say(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames" + (f"; TensorBoard: {log}" if log else ""))
        levels, _ = advantage_bins_of(*measured_advantages(dataset, labels), policy.codec)
        offline = RecordedChunks(dataset, policy.lags, levels, split_episodes(dataset)["train"])
        if oracle:
            from rise_agents.policies.actor import PolicyActor
            from rise_robot.cell.oracle import OracleVectorEnv

            own = PolicyActor(policy, guidance=1.0)
            envs = OracleVectorEnv(
                found.spec.name, num_envs=num_envs, behaviour_policies=(own, own, own, _OPERATOR),
                observation_lags=policy.lags, pool=_POOL,
            )  # fmt: skip
        else:
            kwargs["starts"] = starts_from_dataset(dataset, found.spec, starts, seed=0)
            envs = gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs).unwrapped
    elif oracle:
        raise ConfigError("--oracle needs --data and --labels: it has no recordings of its own")
    else:
        envs = gymnasium.make_vec(env_id, num_envs=num_envs, **kwargs).unwrapped
        advantages = _imagined_advantages(envs)
        levels, _ = advantage_bins_of(advantages, np.zeros(len(advantages), bool), policy.codec)
        offline = StartChunks(envs.starts, found.spec, policy.lags, levels)
        say(f"no --data: {len(offline)} start states of {found.path.name}, scored by imagination")
    return make_agent(agent, envs, policy, offline=offline, log=log, **(settings or {}))


def _imagined_advantages(envs: Any) -> Any:
    """Advantages, as imagined, of the chunks that were recorded at all start states of an environment, (M,)."""
    import numpy as np

    count, found = len(envs.starts), []
    for first in range(0, count, envs.num_envs):
        rows = [min(first + i, count - 1) for i in range(envs.num_envs)]
        envs.reset(seed=0, options={"start_index": rows})
        chunks, _ = envs.recorded_actions()
        found.append(envs.step(chunks)[1])
    return np.concatenate(found)[:count]


def learn(
    agent: Any, out: Path, chunks: int, seconds: float | None, watch: Callable[[Any], None] | None = None
) -> None:
    """Let an agent learn, and save it now and then and at the end, whatever happens.

    Args:
        agent: Agent.
        out: Its folder.
        chunks: Imagined chunks in all.
        seconds: Longest time to spend in all.
        watch: Called with the agent before, every other minute, and after.
    """
    saved = watched = time.monotonic()

    def look() -> None:
        agent.film()
        if watch is not None:
            watch(agent)

    def callback(trained: Any) -> None:
        nonlocal saved, watched
        if time.monotonic() - saved > _SAVE_SECONDS:
            trained.save(out)
            saved = time.monotonic()
        if time.monotonic() - watched > _WATCH_SECONDS:
            look()
            watched = time.monotonic()

    try:
        look()
        agent.learn(chunks, callback=callback, progress_bar=True, seconds=seconds)
        look()
    finally:
        agent.save(out)
        agent.envs.close()


def _audit(base: Any, args: argparse.Namespace) -> Callable[[Any], None]:
    """A function that writes to TensorBoard and to `audit.json` how far imagination and the cell agree."""
    import copy
    import json

    from rise_agents.cli.progress import say
    from rise_agents.evaluation.audit import audit_policy
    from rise_env.files import write_json

    if args.oracle:
        raise ConfigError("--audit holds imagination against the cell: it makes no sense with --oracle")
    first, file = copy.deepcopy(base), args.out / "audit.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []  # of a run that goes on

    def watch(trained: Any) -> None:
        figures = audit_policy(
            trained.policy, trained.envs.world_model,
            states=args.audit, num_candidates=4, seed=_AUDIT_SEED, behaviour_policy=first, guidance=1.0,
        )  # fmt: skip
        rows.append({"chunks": trained.num_chunks, **figures})
        write_json(file, rows)
        trained.log.scalars("audit", figures, trained.num_chunks)
        say(
            f"audit of {figures['states']} states: imagined and true advantage agree to {figures['overall']:.2f}, "
            f"{figures['within_state']:.2f} within a state; true advantage {figures['advantage_mean']:+.3f}"
        )

    return watch
