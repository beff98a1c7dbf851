"""Convert other projects' data and weights.

`rise convert hdf5` turns episodes, one HDF5 file each, into a LeRobot v3.0 dataset: ALOHA's and Piper's
(observations/qpos, action, observations/images/<camera>, raw or as JPEG), kai0's (pictures in video/<camera>/*.mp4
beside the files) and AgileX's (arm/jointStatePosition/puppet*, master*, camera/color/<camera>).

  rise convert hdf5 recordings/ --out data/box --prompt "Fold the box." --layout piper_bimanual --fps 30
  rise convert hdf5 e0.hdf5 e1.hdf5 --out data/box --task brick_sorting --camera head=cam_high

`rise convert dynamics-checkpoint` turns the public weights of RISE (or of Genie-Envisioner, with --without-actions)
into a dynamics model; every name and shape is checked.

  rise convert dynamics-checkpoint diffusion_pytorch_model.safetensors --caption caption.safetensors --out models/rise
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import add_dataset_keys, add_task, at_least, dataset_overrides, folder
from rise_env.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND", title="what to convert")
    hdf5 = kinds.add_parser("hdf5", help="ALOHA or Piper HDF5 episodes to LeRobot v3.0", allow_abbrev=False)
    hdf5.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="HDF5 files, or directories of them")
    hdf5.add_argument("--out", type=folder, required=True, help="directory of the dataset; must not exist")
    add_task(hdf5, default=None, help="take cameras, layout, fps and prompt from this task (name or YAML path)")
    hdf5.add_argument("--prompt", help="instruction of all episodes")
    hdf5.add_argument("--layout", help="joint layout, e.g. piper_bimanual (name or YAML path)")
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
    weights.add_argument("weights", type=Path, help="diffusion_pytorch_model.safetensors")
    weights.add_argument("--out", type=folder, required=True, help="directory of the model")
    add_task(weights, "official")
    weights.add_argument("--vae", help="LTX video autoencoder, directory or Hub id (default: the preset's)")
    weights.add_argument("--caption", type=Path, help="safetensors with T5-XXL's embedding of the empty caption")
    weights.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="datasets that give the joints' range")
    add_dataset_keys(weights)
    weights.add_argument("--without-actions", action="store_true", help="accept weights without an action encoder")


def run(args: argparse.Namespace) -> int:
    """Convert."""
    return _dynamics_checkpoint(args) if args.kind == "dynamics-checkpoint" else _hdf5(args)


def _dynamics_checkpoint(args: argparse.Namespace) -> int:
    from rise_agents.progress import say
    from rise_env.data import open_dataset
    from rise_env.dynamics.config import load_dynamics_config
    from rise_env.dynamics.convert import convert_checkpoint
    from rise_env.tasks import load_task

    changes = [f"dynamics.video_autoencoder.weights={args.vae}"] if args.vae else []
    spec = load_task(args.task, args.preset, dataset_overrides(args))
    config = load_dynamics_config(args.task, args.preset, changes)
    if args.caption is None:
        say("no --caption: zeros take the place of T5-XXL's embedding, which the weights were not trained with")
    dataset = open_dataset(args.data, spec) if args.data else None
    model = convert_checkpoint(
        args.weights, args.out, config, spec,
        caption=args.caption, dataset=dataset, without_actions=args.without_actions,
    )  # fmt: skip
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.out}: {count:,} parameters, cameras {', '.join(spec.cameras)}")
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
