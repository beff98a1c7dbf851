"""Share a bundle, a world model, a policy or start states on the Hugging Face Hub.

FOLDER is a bundle, a checkpoint directory, or the folder of a run, whose model is taken. What is uploaded is listed
first: JSON, safetensors and plain arrays, nothing that would be unpickled, and a model card with what is known of it.
--results adds the success that `rise evaluate --json` measured of this very policy. A repository that holds something
of another kind is left alone.

  rise push bundles/mine lab/bricks --private
  rise evaluate --policy runs/rise --episodes 200 --json out/rise.json
  rise push runs/rise lab/bricks-rise --results out/rise.json --license apache-2.0
  rise push runs/rise lab/bricks-rise --dry-run        # what would be uploaded, and the card; the Hub is not asked

Others then use it by its id, or pinned as lab/bricks@REVISION: --bundle lab/bricks, --policy lab/bricks-rise,
gymnasium.make("RISE-Imagination-v0", bundle="lab/bricks"). Log in with `hf auth login` first. See docs/hub.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="bundle, checkpoint directory or run folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made where it is missing")
    parser.add_argument("--private", action="store_true", help="make it private; refuse one that is public")
    parser.add_argument(
        "--results", nargs="+", type=Path, default=[], metavar="FILE", help="JSON of `rise evaluate` with this policy"
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="ID", help="Hub id of a dataset it was trained on; repeatable"
    )
    parser.add_argument("--license", metavar="ID", help="its licence as the Hub names it, e.g. apache-2.0")
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded, and the card")


def run(args: argparse.Namespace) -> int:
    """Load, list, upload."""
    from rise_agents.pipelines.push import describe, folder_to_push
    from rise_env.errors import ConfigError
    from rise_env.hub import hub_id
    from rise_env.publishing import Upload, push

    hub = hub_id(args.repository)
    if hub is None or hub.revision is not None:
        raise ConfigError(f"{args.repository!r} is no repository: give owner/name")
    for dataset in args.dataset:
        if (found := hub_id(dataset)) is None or found.revision is not None:
            raise ConfigError(f"--dataset {dataset!r} is no dataset of the Hub: give owner/name")
    folder = folder_to_push(args.folder)
    card, upload = describe(folder, args.results, args.dataset, args.license), Upload.of(folder)
    print(
        f"{folder}: {card.what} ({upload.kind}), {sum(upload.files.values()) / 1e6:.1f} MB in {len(upload.files)} files"
    )
    for name, size in upload.files.items():
        print(f"  {size / 1e3:>10.1f} kB  {name}")
    if upload.left_out:
        print(f"  left out: {', '.join(upload.left_out)}")
    print(f"  README.md: {'that of the folder' if (folder / 'README.md').is_file() else 'a model card'}")
    if args.dry_run:
        print(f"\n{card.text(hub)}\nnothing was uploaded (--dry-run)")
        return 0
    done = push(upload, args.repository, card, private=args.private, tell=print)
    print(f"uploaded: {done.url}\nuse it as {hub}, or pinned as {done.pinned}")
    return 0
