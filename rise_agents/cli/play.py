"""Play with imagination on a page of this machine: begin at a state, choose chunks, watch what is imagined.

The page shows the imagined cameras, beside the true ones where the task has a work cell, with the curves of value and
uncertainty. Chunks come from a policy, the expert of the cell, the recording, chance, or sliders and keys that
move the joints. Each step goes on from what was imagined; any can be taken back.

  rise play --task brick_sorting
  rise play --bundle bundles/mine --policy runs/mine --port 8090
  rise play --bundle lab/bricks

It needs the extra web: pip install 'rise-robotics[web]'. See docs/play.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import add_device, add_imagine, at_least, port

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--task", help="task whose bundle to take (default: brick_sorting)")
    parser.add_argument("--bundle", type=Path, help="directory or Hub id, in place of the task's")
    parser.add_argument("--policy", help="trained policy that chooses chunks (default: the bundle's, if it has one)")
    parser.add_argument("--no-cell", action="store_true", help="imagined only, although there is a work cell")
    parser.add_argument("--port", type=port, default=8090, help="port (default: %(default)s; 0: a free one)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of what is imagined (default: %(default)s)")
    add_imagine(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Load, serve until Ctrl-C."""
    from concurrent.futures import ThreadPoolExecutor

    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.errors import ConfigError
    from rise_env.tasks import name_of_task

    try:
        from rise_agents.pipelines.play_page import listen, make_server, serve
    except ModuleNotFoundError as error:
        if error.name not in ("nicegui", "fastapi", "uvicorn", "starlette"):
            raise
        raise ConfigError("rise play needs NiceGUI: pip install 'rise-robotics[web]'") from error
    from rise_agents.pipelines.play import PlaySession, acting_policy
    from rise_agents.pipelines.play_cell import cell_beside

    bundle = load_bundle(args.bundle or find_bundle(args.task or "brick_sorting"))
    if args.task and name_of_task(args.task) != bundle.spec.name:
        raise ConfigError(
            f"bundle {bundle.path} is of task {bundle.spec.name!r}, not of {args.task!r}: leave --task out"
        )
    listening = listen(args.port)  # a port in use is told before anything is loaded

    def load() -> PlaySession:
        policy = acting_policy(args.policy, bundle, args.device)
        return PlaySession(bundle, None if args.no_cell else cell_beside(bundle.spec), policy, args.device, args.seed)

    with ThreadPoolExecutor(1) as worker:
        session = worker.submit(load).result()
        server = make_server(session, worker)
        address = "http://{}:{}".format(*listening.getsockname())
        kind = "beside the work cell" if session.cell else "imagined only"
        print(f"{bundle.name}, {kind}: open {address} (Ctrl-C ends it)", flush=True)
        try:
            serve(server, listening)
        except KeyboardInterrupt:
            print("stopped", flush=True)
        finally:
            if session.cell is not None:
                worker.submit(session.cell.close).result()
    return 0
