"""Serve a policy over websockets: the openpi protocol, so that openpi's clients and ours can ask it for actions.

  rise serve --policy base                                    this machine only, port 8000
  rise serve --policy runs/rise --port 0                      a free port, printed when the server is ready
  rise serve --policy runs/rise --host 0.0.0.0 --token-file token.txt

A client connects to ws://HOST:PORT, gets a message about the policy, then sends observations and gets action chunks:

  from rise_robot.serving import PolicyClient
  with PolicyClient("127.0.0.1", 8000) as client:
      client.reset(seed=0)
      chunk = client.infer({"state": state, "images": {"top_head": image, ...}})["actions"]   # (chunk, D), rad and m

Addresses that other machines can reach need a token (`Authorization: Api-Key TOKEN`), from a file or the environment
variable RISE_SERVE_TOKEN; the connection is not encrypted, so use a private network or an SSH tunnel. GET /healthz says
OK once the policy is warm, GET /metrics tells latencies. Ctrl-C or SIGTERM ends the server. All keys: docs/serving.md.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from rise_agents.cli.options import finite

__all__ = ["add_arguments", "run", "service_of"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--policy", required=True, help="base (the bundle's), a run folder, a checkpoint or a Hub id")
    parser.add_argument("--task", default="brick_sorting", help="task of `base` or a LeRobot policy (%(default)s)")
    parser.add_argument("--preset", default="small", help="preset of a LeRobot policy's task (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of that, such as task.fps=15")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of the policy (default: torch's)")
    parser.add_argument(
        "--advantage", metavar="BIN",
        help="advantage to ask for where a client says none: best (default), middle, worst, none, or 0, 1, ...",
    )  # fmt: skip
    parser.add_argument("--guidance", type=finite, metavar="W", help="classifier-free guidance (default: the policy's)")
    parser.add_argument("--steps", type=int, metavar="N", help="integration steps per chunk (default: the policy's)")
    parser.add_argument(
        "--bars", choices=("auto", "cut", "add"), default="auto",
        help="images of other proportions: cut off the black bars that openpi's resize_with_pad made, add some, or let "
        "each client's first image that shows which decide (default: %(default)s)",
    )  # fmt: skip
    network = parser.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    network.add_argument("--port", type=int, default=8000, help="0 takes a free port (default: %(default)s)")
    network.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token (or RISE_SERVE_TOKEN)")
    network.add_argument("--max-clients", type=int, default=8, metavar="N", help="at once (default: %(default)s)")
    size_help = "longest message (default: 4 observations and 8 MiB)"
    network.add_argument("--max-megabytes", type=finite, metavar="MB", help=size_help)
    network.add_argument(
        "--idle-seconds", type=finite, default=3600.0, metavar="S",
        help="drop a client that sends nothing for so long (default: %(default)g)",
    )  # fmt: skip
    network.add_argument("--warm-up", type=int, default=2, metavar="N", help="inferences before clients are let in")
    parser.add_argument("--quiet", action="store_true", help="log warnings and errors only")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from rise_robot.serving import ServerConfig, read_token, serve_until_signal

    # First what can be wrong with a setting: loading the policy takes seconds.
    most, token = args.max_megabytes and round(args.max_megabytes * 2**20), read_token(args.token_file)
    config = ServerConfig(args.host, args.port, token, args.max_clients, most, args.warm_up, args.idle_seconds)

    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    service = service_of(args)
    about = service.metadata
    chunk, dim = about["action_shape"]
    what = f"{args.policy} ({about['policy']}, {about['task']}, {chunk} x {dim} actions)"
    level = logging.WARNING if args.quiet else logging.INFO
    ready = lambda address: print(f"serving {what} on {address}; Ctrl-C ends it", flush=True)  # noqa: E731
    serve_until_signal(service, config, ready, level)
    print("stopped", flush=True)
    return 0


def service_of(args: argparse.Namespace) -> Any:
    """The policy as a server serves it."""
    from rise_agents.policies.resolve import find_policy, lerobot_source, resolve_policy
    from rise_agents.policies.served import PolicyService
    from rise_agents.policies.served_lerobot import LeRobotService
    from rise_env.errors import ConfigError
    from rise_env.tasks import load_task
    from rise_env.world_model import resolve_device

    device, path = resolve_device(args.device), find_policy(args.policy, args.task)
    if path is not None and (source := lerobot_source(path, device)) is not None:
        asked = ("advantage", "guidance", "steps")
        if useless := [f"--{name}" for name in asked if getattr(args, name) is not None]:
            raise ConfigError(f"policy {args.policy!r} is of LeRobot: it takes no {', '.join(useless)}")
        return LeRobotService(source.load(load_task(args.task, args.preset, args.overrides)), bars=args.bars)
    policy = resolve_policy(args.policy, task=args.task, device=device)
    return PolicyService(policy, args.advantage or "best", guidance=args.guidance, steps=args.steps, bars=args.bars)
