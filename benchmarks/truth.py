"""The same chunks from the same saved states in the work cell and in imagination.

  rise bench truth --states 64 --json out/truth.json --pictures out/truth
  rise bench truth --lpips alexnet-owt-7be5be79.pth --fvd i3d_torchscript.pt --json out/truth.json

LPIPS and FVD need networks whose weights are named, and are reported as not run without them; nothing is downloaded.
`--lpips` takes torchvision's AlexNet or VGG-16 (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth or
vgg16-397923af.pth) or the state dict of an lpips.LPIPS, and needs `pip install 'rise-robotics[metrics]'`. `--fvd` takes
i3d_torchscript.pt, the I3D of Kinetics-400; TorchScript runs code, so name only a file that you trust.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.models import world_model_of
from benchmarks.truth_metrics import imagine, measure
from benchmarks.truth_pictures import write_pictures
from benchmarks.truth_set import TruthSet, collect_truth
from rise_agents.progress import bar, say
from rise_env.metrics.perceptual import Lpips, VideoFeatures
from rise_env.world_model import resolve_device
from rise_robot.cell.config import load_cell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--states", type=int, default=64, help="start states (default: %(default)s)")
    parser.add_argument("--truth-set", type=Path, metavar="NPZ", help="keep the ground truth here for reuse")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures and a video, true above imagined")
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="weights for LPIPS (see above)")
    parser.add_argument(
        "--fvd", type=Path, metavar="FILE", help="I3D for FVD: TorchScript, which runs code (see above)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    device = resolve_device(args.device)
    # First what can be wrong with a file: the rest takes minutes.
    lpips = Lpips.load(args.lpips, device) if args.lpips else None
    video = VideoFeatures.load(args.fvd, device) if args.fvd else None
    model = world_model_of(args)
    spec, config = load_cell(args.task, args.preset or "small")
    cameras = list(spec.cameras)
    if args.truth_set and args.truth_set.exists():
        found = TruthSet.load(args.truth_set)
        say(f"{args.truth_set}: {len(found.seeds)} states")
    else:
        with bar(args.states, "running chunks in the cell", "states") as progress:
            found = collect_truth(spec, config, args.states, args.seed, progress.update)
        if args.truth_set:
            found.save(args.truth_set)
    with bar(len(found.seeds), "imagining", "states") as progress:
        imagined = imagine(model, found, spec.prompt, on_state=progress.update)
    if args.pictures:
        for path in write_pictures(args.pictures, found, imagined, spec.fps // spec.stride):
            say(f"picture: {path}")
    with bar(len(found.seeds) if video else 0, "reading clips", "states", disable=video is None) as progress:
        result = measure(found, imagined, cameras, lpips, video, progress.update)
    for name, reason in result["not_run"].items():
        say(f"{name}: not run: {reason}")
    return {**result, "reward_source": model.reward_source}
