"""Measure speed and truth: JSON with hardware, git revision and seed, so that a table can be made again.

  rise bench cell --json out/bench-cell.json
  rise bench imagination --json out/bench-imagination.json
  rise bench imagination --preset paper --random --precision bf16 --compile --device cuda --json out/bench-paper.json
  rise bench truth --states 64 --json out/truth.json --pictures out/truth
  rise bench truth --lpips alexnet-owt-7be5be79.pth --fvd i3d_torchscript.pt --json out/truth.json

`cell`: physics, rendering, recording.

`imagination`: chunks per second and seconds per chunk by batch size, with the split encode (recorded histories, at
resets), denoise, decode, reencode (imagined frames into the next history, with a video autoencoder), value and
environment. It measures the task's bundle unless `--bundle` or `--world-model` and `--starts` say otherwise.
`--random` makes a model in the shape of `--preset` and `--set` with random weights, which is as fast as a trained one;
`paper` is the published shape: the LTX transformer with 28 blocks of 32 heads, chunks of 50, 25 frames of 3 views at
192 x 256. One that does not fit, or would take minutes per chunk, is refused with figures; `--force` measures it all
the same. What does not change within a chunk is encoded once per chunk: latents of the history and, with the official
transformer, caption and actions.

`truth`: the same chunks from the same saved states in the work cell and in imagination. LPIPS and FVD need networks
whose weights are named, and are reported as not run without them; nothing is downloaded. `--lpips` takes torchvision's
AlexNet or VGG-16 (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth or vgg16-397923af.pth) or the state dict
of an lpips.LPIPS, and needs `pip install 'rise-robotics[metrics]'`. `--fvd` takes i3d_torchscript.pt, the I3D of
Kinetics-400; TorchScript runs code, so name only a file that you trust.

`audit`: the same for a policy's own proposals, eight from each of the states that it gets to itself: does imagination
know which of them is best?
`rise bench audit --policy base --states 64 --seed 960000 --json out/audit.json`

`serving`: what the policy server adds to an inference on loopback, by layout of the observations and number of clients.
`rise bench serving --policy base --json out/serving.json`

`ros`: delays of images, joint states and commands over ROS 1, and from a camera's stamp to the first command after it,
with the policy in this process and behind the server; needs `make ros`. `rise bench ros --json out/ros.json`

Benchmarks live in `benchmarks/` of the repository and run from a checkout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]

_PROPOSALS = 8  # per state of the audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", choices=list(_BENCHMARKS), help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, not a measurement")
    parser.add_argument("--task", default="brick_sorting", help="task (default: %(default)s)")
    parser.add_argument("--preset", help="preset (default: that of the bundle; small for the cell)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle (default: the task's)")
    parser.add_argument("--world-model", type=Path, metavar="DIR", help="world model instead of the bundle's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--seed",
        type=int,
        default=900_000,
        help="seed of the first state (truth) or of the weights (default: %(default)s)",
    )
    speed = parser.add_argument_group("imagination")
    speed.add_argument("--starts", type=Path, metavar="DIR", help="start states instead of the bundle's")
    speed.add_argument("--batch", type=int, nargs="+", metavar="N", help="numbers of environments (default: 1 8 32 64)")
    speed.add_argument("--random", action="store_true", help="random weights in the shape of --preset")
    speed.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides",
        help="with --random, such as dynamics.flow.steps=10",
    )  # fmt: skip
    speed.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="of imagination (default: the model's)")
    speed.add_argument(
        "--compile", nargs="?", const="inductor", metavar="BACKEND", help="use torch.compile (backend: inductor)"
    )
    speed.add_argument("--force", action="store_true", help="measure a model that takes minutes per chunk here")
    parser.add_argument("--policy", default="base", help="policy to audit or to serve (default: the bundle's)")
    parser.add_argument("--advantage", metavar="LEVEL", help="audit: what to ask it for (default: best)")
    against = parser.add_argument_group("truth, audit")
    against.add_argument("--states", type=int, default=64, help="start states (default: %(default)s)")
    against.add_argument("--truth-set", type=Path, metavar="NPZ", help="keep the ground truth here for reuse")
    against.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures and a video, true above imagined")
    against.add_argument("--lpips", type=Path, metavar="FILE", help="weights for LPIPS (see above)")
    against.add_argument(
        "--fvd", type=Path, metavar="FILE", help="I3D for FVD: TorchScript, which runs code (see above)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_env.files import to_json, write_json
    from rise_env.provenance import provenance

    try:
        import benchmarks  # noqa: F401
    except ImportError as error:
        raise ConfigError("benchmarks are not part of an installed package: run `rise bench` in a checkout") from error
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    result = _BENCHMARKS[args.what](args)
    config = {key: str(value) for key, value in vars(args).items() if value is not None}
    content = {"benchmark": args.what, "quick": args.quick, **result, "provenance": provenance(config, args.seed)}
    print(to_json({key: value for key, value in content.items() if key != "provenance"}))
    if args.json:
        write_json(args.json, content)
        print(f"json: {args.json}")
    return 0


def _cell(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import cell
    from rise_agents.cli.progress import say

    return cell.measure(quick=args.quick, on_step=lambda name: say(f"measuring: {name}"))


def _imagination(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import imagination
    from rise_agents.cli.progress import say

    if any(count < 1 for count in args.batch or ()):
        raise ConfigError(f"--batch {' '.join(map(str, args.batch))}: environments are at least 1")
    model, starts = _random_parts(args) if args.random else _trained_parts(args)
    if args.precision:
        imagination.set_precision(model, args.precision)
    if args.compile:
        imagination.compile_parts(model, args.compile)
    batches = tuple(args.batch or ((1, 4) if args.quick else imagination.BATCHES))
    about = {**imagination.describe(model), "compile": args.compile, "weights": "random" if args.random else "trained"}
    rows = imagination.measure(model, starts, batches, lambda count: say(f"measuring: batch {count}"), args.quick)
    return {"model": about, **rows}


def _trained_parts(args: argparse.Namespace) -> tuple[Any, Any]:
    from rise_env.envs.sources import resolve

    if args.overrides or args.force:
        raise ConfigError("--set and --force go with --random: a trained model is as it is")
    paths = {name: getattr(args, name) for name in ("bundle", "starts", "world_model")}
    try:
        found = resolve(
            task=args.task, preset=_variant(args), dataset=None, uncertainty=None, max_batch=None, device=args.device,
            **paths,
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(f"{error} Or add --random to measure a preset with random weights.") from error
    return found.world_model, found.starts


def _random_parts(args: argparse.Namespace) -> tuple[Any, Any]:
    from benchmarks import random_model
    from rise_agents.cli.progress import say
    from rise_env.world_model import resolve_device

    if args.bundle or args.world_model or args.starts:
        raise ConfigError("--random makes a model and its start states: leave out --bundle, --world-model and --starts")
    device, preset = resolve_device(args.device), args.preset or "small"
    cost = random_model.count_cost(args.task, preset, args.overrides)
    say(random_model.check_affordable(cost, device, preset, force=args.force))
    model = random_model.random_world_model(args.task, preset, args.overrides, device, args.seed)
    return model, random_model.random_starts(model.spec, seed=args.seed)


def _variant(args: argparse.Namespace) -> str | None:
    """Which bundle of a task `--preset` means; that of `small` bears the task's name alone."""
    return None if args.preset == "small" else args.preset


def _truth(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import truth
    from benchmarks.truth_pictures import write_pictures
    from benchmarks.truth_set import TruthSet, collect_truth
    from rise_agents.cli.progress import bar, say
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.metrics.perceptual import Lpips, VideoFeatures
    from rise_env.world_model import CompositionalWorldModel, resolve_device
    from rise_robot.cell.config import load_cell

    device = resolve_device(args.device)
    # First what can be wrong with a file: the rest takes minutes.
    lpips = Lpips.load(args.lpips, device) if args.lpips else None
    video = VideoFeatures.load(args.fvd, device) if args.fvd else None
    if args.world_model:
        model = CompositionalWorldModel.from_pretrained(args.world_model, device=device)
    else:
        model = load_bundle(args.bundle or find_bundle(args.task, _variant(args))).world_model(device=device)
    spec, config = load_cell(args.task, args.preset or "small")
    if args.truth_set and args.truth_set.exists():
        found = TruthSet.load(args.truth_set)
        say(f"{args.truth_set}: {len(found.seeds)} states")
    else:
        with bar(args.states, "running chunks in the cell", "states") as progress:
            found = collect_truth(spec, config, args.states, args.seed, progress.update)
        if args.truth_set:
            found.save(args.truth_set)
    with bar(len(found.seeds), "imagining", "states") as progress:
        imagined = truth.imagine(model, found, spec.prompt, on_state=progress.update)
    if args.pictures:
        for path in write_pictures(args.pictures, found, imagined, list(spec.cameras), spec.fps // spec.stride):
            say(f"picture: {path}")
    with bar(len(found.seeds) if video else 0, "reading clips", "states", disable=video is None) as progress:
        result = truth.measure(found, imagined, list(spec.cameras), lpips, video, progress.update)
    result["reward_source"] = model.reward_source
    for name, reason in result["not_run"].items():
        say(f"{name}: not run: {reason}")
    return result


def _audit(args: argparse.Namespace) -> dict[str, Any]:
    from rise_agents.evaluation.audit import audit_policy
    from rise_agents.policies.loading import advantage_bin_of
    from rise_agents.policies.resolve import resolve_policy
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.world_model import CompositionalWorldModel

    bundle = load_bundle(args.bundle or find_bundle(args.task))
    model = bundle.world_model(device=args.device)
    if args.world_model:
        model = CompositionalWorldModel.from_pretrained(args.world_model, device=args.device)
    policy = resolve_policy(args.policy, bundle=bundle)
    return audit_policy(
        policy, model,
        states=args.states, num_candidates=_PROPOSALS, seed=args.seed, preset=args.preset or "small",
        advantage_bin=advantage_bin_of(policy, args.advantage or "best"),
    )  # fmt: skip


def _serving(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import serving
    from rise_agents.cli.progress import say
    from rise_agents.policies.resolve import resolve_policy
    from rise_agents.policies.served import PolicyService
    from rise_env.world_model import resolve_device

    service = PolicyService(resolve_policy(args.policy, task=args.task, device=resolve_device(args.device)))
    return serving.measure(service, args.quick, lambda name: say(f"measuring: {name}"))


def _ros(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks import ros
    from rise_agents.cli.progress import say
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.resolve import resolve_policy

    actor = PolicyActor(resolve_policy(args.policy, task=args.task))
    return ros.measure(actor, args.policy, actor.lags, args.quick, lambda name: say(f"measuring: {name}"))


_BENCHMARKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cell": _cell,
    "imagination": _imagination,
    "truth": _truth,
    "audit": _audit,
    "ros": _ros,
    "serving": _serving,
}
