r"""Convert other projects' data and weights.

`rise convert hdf5` turns episodes, one HDF5 file each, into a LeRobot v3.0 dataset: ALOHA's and Piper's
(observations/qpos, action, observations/images/<camera>, raw or as JPEG), kai0's (pictures in video/<camera>/*.mp4
beside the files) and AgileX's (arm/jointStatePosition/puppet*, master*, camera/color/<camera>).

  rise convert hdf5 recordings/ --out data/box --prompt "Fold the box." --layout piper_bimanual --fps 30
  rise convert hdf5 e0.hdf5 e1.hdf5 --out data/box --task brick_sorting --camera head=cam_high

`rise convert dynamics-checkpoint` turns the public weights of RISE (or of Genie-Envisioner, with --without-actions)
into a dynamics model; every name and shape is checked. `rise convert caption` makes the one constant that they need of
T5-XXL. Ranges of the actions are in a file of the release, or those of the dataset that the weights were tuned on.

  rise convert caption LTX-Video/ --out caption.safetensors
  rise convert dynamics-checkpoint diffusion_pytorch_model.safetensors --caption caption.safetensors \
      --ranges infer_online.yaml --vae LTX-Video/ --out models/rise

`rise convert dcp` makes one safetensors file of a torch.distributed.checkpoint directory, whatever number of processes
wrote it, or with --into a policy, value or dynamics model of ours that has these weights.

  rise convert dcp runs/fsdp/checkpoint --out weights.safetensors
  rise convert dcp runs/fsdp/checkpoint --into policies/pi05 --out policies/pi05-tuned

Weights may also be .pt or .pth files (tensors only), sharded safetensors, or in directories of these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import (
    add_dataset_keys,
    add_task,
    at_least,
    dataset_overrides,
    folder,
    new_file,
)
from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", title="what to convert")
    hdf5 = kinds.add_parser("hdf5", help="ALOHA or Piper HDF5 episodes to LeRobot v3.0", allow_abbrev=False)
    hdf5.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="HDF5 files, or directories of them")
    hdf5.add_argument("--out", type=folder, required=True, help="directory of the dataset; must not exist")
    add_task(hdf5, default=None, help="take cameras, layout, fps and prompt from this task (name, folder or YAML file)")
    hdf5.add_argument("--prompt", help="instruction of all episodes")
    hdf5.add_argument("--layout", help="joint layout, e.g. piper_bimanual (name, folder or YAML file)")
    hdf5.add_argument("--fps", type=at_least(1), help="control rate in Hz")
    hdf5.add_argument(
        "--image-size", type=int, nargs=2, metavar=("H", "W"), help="resize images (default: as they are)"
    )
    hdf5.add_argument(
        "--camera", action="append", default=[], metavar="NAME=SOURCE",
        help="camera of the dataset and its name in the files; repeatable (default: all, under their own names)",
    )  # fmt: skip
    hdf5.add_argument("--state-key", metavar="KEY", help="dataset with the joint state; several side by side: A,B")
    hdf5.add_argument("--action-key", metavar="KEY", help="dataset with the action; several side by side: A,B")
    hdf5.add_argument("--colors", choices=("rgb", "bgr"), default="rgb", help="channel order in the files")
    outcome = hdf5.add_mutually_exclusive_group()
    outcome.add_argument("--success", dest="success", action="store_true", default=None, help="all episodes succeeded")
    outcome.add_argument("--failure", dest="success", action="store_false", default=None, help="all episodes failed")
    weights = kinds.add_parser(
        "dynamics-checkpoint", help="public RISE weights to a dynamics model", allow_abbrev=False
    )
    weights.add_argument("weights", type=Path, help="weights of the transformer; see above for their forms")
    weights.add_argument("--out", type=folder, required=True, help="directory of the model; must not exist")
    add_task(weights, "official")
    weights.add_argument("--vae", help="LTX video autoencoder, directory or Hub id (default: the preset's)")
    weights.add_argument("--caption", type=Path, metavar="FILE", help="what `rise convert caption` made")
    ranges = weights.add_mutually_exclusive_group()
    ranges.add_argument("--ranges", type=Path, metavar="FILE", help="ranges of the actions: .yaml, .json or .py")
    ranges.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="datasets whose actions give the ranges")
    weights.add_argument("--range-set", metavar="NAME", help="which ranges of a file that has several")
    add_dataset_keys(weights)
    weights.add_argument("--without-actions", action="store_true", help="accept weights without an action encoder")
    _add_prefix(weights)
    caption = kinds.add_parser("caption", help="T5-XXL's embedding of the empty caption", allow_abbrev=False)
    caption.add_argument("t5", type=Path, metavar="T5", help="directory of T5, or one with text_encoder/ in it")
    caption.add_argument("--out", type=new_file, required=True, help="safetensors file; must not exist")
    caption.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="default: bf16, as released")
    dcp = kinds.add_parser("dcp", help="weights of distributed training to safetensors or a model", allow_abbrev=False)
    dcp.add_argument("weights", type=Path, help="directory of a torch.distributed.checkpoint, or other weights")
    dcp.add_argument("--out", type=Path, required=True, help="safetensors file or, with --into, model; must not exist")
    dcp.add_argument("--into", type=Path, metavar="MODEL", help="policy, value or dynamics model that gives the rest")
    _add_prefix(dcp)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="what stands before the names, of several models in one file")


def run(args: argparse.Namespace) -> int:
    """Convert."""
    kinds = {"hdf5": _hdf5, "dynamics-checkpoint": _dynamics_checkpoint, "caption": _caption, "dcp": _dcp}
    return kinds[args.kind](args)


def _caption(args: argparse.Namespace) -> int:
    from rise_env.dynamics.caption import write_caption

    embedded = write_caption(args.t5, args.out, dtype=args.dtype)
    print(f"{args.out}: {tuple(embedded.shape)}, the empty caption")
    return 0


def _dcp(args: argparse.Namespace) -> int:
    from rise_env.foreign_weights import convert_weights, refill

    if args.into is None:
        tensors = convert_weights(args.weights, args.out, args.prefix)
    else:
        tensors = refill(args.into, args.weights, args.out, args.prefix)
    print(f"{args.out}: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()):,} numbers")
    return 0


def _dynamics_checkpoint(args: argparse.Namespace) -> int:
    from rise_agents.progress import say
    from rise_env.data import open_dataset
    from rise_env.dynamics.config import load_dynamics_config
    from rise_env.dynamics.convert import convert_checkpoint
    from rise_env.dynamics.ranges import ranges_of, read_ranges
    from rise_env.tasks import load_task

    spec = load_task(args.task, args.preset, dataset_overrides(args))
    changes = [f"dynamics.video_autoencoder.weights={args.vae}"] if args.vae else []
    config = load_dynamics_config(args.task, args.preset, changes)
    ranges = None
    if args.range_set and not args.ranges:
        raise ConfigError("--range-set chooses among the ranges of a file: give it (--ranges FILE)")
    if args.ranges:
        ranges = read_ranges(args.ranges, spec.layout, args.range_set)
    elif args.data:
        ranges = ranges_of(open_dataset(args.data, spec))
    model = convert_checkpoint(
        args.weights, args.out, config, spec,
        caption=args.caption, ranges=ranges, without_actions=args.without_actions, prefix=args.prefix,
    )  # fmt: skip
    assert ranges is not None
    if narrow := ranges.narrow(spec.layout):
        say(f"these joints hardly move the actions that the model reads, as they are: {'; '.join(narrow)}")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{args.out}: {count:,} parameters, cameras {', '.join(spec.cameras)}, ranges {ranges.form} ({ranges.source})"
    )
    return 0


def _hdf5(args: argparse.Namespace) -> int:
    from rise_agents.progress import bar
    from rise_env.data.hdf5 import convert_hdf5, hdf5_spec

    keys = {key: value for key, value in (("state", args.state_key), ("action", args.action_key)) if value}
    spec, sources = hdf5_spec(
        args.inputs, args.out.name,
        task=args.task, preset=args.preset, sources=dict(map(_camera, args.camera)), keys=keys,
        prompt=args.prompt, layout=args.layout, fps=args.fps, image_size=args.image_size and tuple(args.image_size),
    )  # fmt: skip
    with bar(0, "converting", "episodes") as progress:

        def on_episode(done: int, total: int) -> None:
            progress.total = total
            progress.update(done - progress.n)

        frames = convert_hdf5(
            args.inputs, args.out, spec,
            sources=sources, keys=keys, colors=args.colors, success=args.success, on_episode=on_episode,
        )  # fmt: skip
        episodes = int(progress.n)
    print(f"{args.out}: {episodes} episodes, {frames} frames at {spec.fps} Hz, cameras {', '.join(spec.cameras)}")
    return 0


def _camera(option: str) -> tuple[str, str]:
    name, equals, source = option.partition("=")
    if not (equals and name and source):
        raise ConfigError(f"--camera {option!r} is not of the form NAME=SOURCE")
    return name, source
