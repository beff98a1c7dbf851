"""Upload to the Hugging Face Hub: only what loads without unpickling, and never over something of another kind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rise_env.errors import CheckpointError, ConfigError
from rise_env.hub import MODEL_FILES, HubId, hub_errors, hub_id, why
from rise_env.model_card import Card

__all__ = ["BUNDLE_FILES", "MARKERS", "START_FILES", "Published", "Upload", "kind_of", "push", "push_saved"]

#: Arrays of start states; they are read without unpickling.
START_FILES = ("*.json", "*.npy", "frames.npz")
BUNDLE_FILES = (*MODEL_FILES, "starts/*.npy", "starts/frames.npz")
#: File that says what a folder is, to what may be uploaded of it.
MARKERS = {"bundle.json": BUNDLE_FILES, "starts.json": START_FILES, "config.json": MODEL_FILES}
_CARD = "README.md"
#: Files of a repository that say nothing about what it is; they stay.
_NEUTRAL = (".gitattributes", _CARD, "LICENSE*")


@dataclass(frozen=True)
class Upload:
    """What of a folder goes to the Hub.

    Attributes:
        folder: Folder.
        kind: What it is, as `kind_of` says.
        files: Size of every file in bytes, by its path in the folder.
        left_out: Paths of other files in it.
    """

    folder: Path
    kind: str
    files: dict[str, int]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, folder: str | Path) -> Upload:
        """What would be uploaded of a folder.

        Raises:
            CheckpointError: If it is none of ours.
        """
        folder = Path(folder)
        marker, kind = kind_of(folder)
        inside = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in inside}
        wanted = {name for name in names if any(fnmatch(name, pattern) for pattern in MARKERS[marker])}
        sizes = {name: names[name].stat().st_size for name in names if name in wanted}
        return cls(folder, kind, sizes, tuple(name for name in names if name not in wanted and name != _CARD))


@dataclass(frozen=True)
class Published:
    """Where it is now: `url` of the commit, and the id that pins it."""

    url: str
    pinned: HubId


def kind_of(folder: Path) -> tuple[str, str]:
    """The file that says what a folder is, and what that is: "bundle", "start states" or the kind of a checkpoint.

    Raises:
        CheckpointError: If it is none of ours.
    """
    for marker, kind in (("bundle.json", "bundle"), ("starts.json", "start states")):
        if (folder / marker).is_file():
            return marker, kind
    found = None
    if (folder / "config.json").is_file():
        try:
            found = _kind_in((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder / 'config.json'} is damaged: {error}") from error
    if found is None:
        raise CheckpointError(
            f"{folder} is no bundle (bundle.json), no start states (starts.json) and no checkpoint of ours (a "
            "config.json with a kind): there is nothing to upload"
        )
    return "config.json", found


def push_saved(save: Callable[[Path], object], repo: str, card: Card, *, private: bool = False) -> Published:
    """`push` what a function writes to a directory of the name that it is given."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(folder)
        return push(Upload.of(folder), repo, card, private=private)


def push(
    upload: Upload,
    repo: str,
    card: Card,
    *,
    private: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Published:
    """Make a repository, or replace what a repository of the same kind holds, in one commit.

    Args:
        upload: What goes there.
        repo: Id, `owner/name`.
        card: Its README.md; one that lies in the folder goes in its place.
        private: Whether others may not see it; of an existing repository this is not changed.
        tell: Told what is about to be done.

    Raises:
        ConfigError: If the id is none, the repository holds something else, or is public and should be private.
        CheckpointError: If the Hub is not reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub = hub_id(repo)
    if hub is None or hub.revision is not None:
        raise ConfigError(f"{repo!r} is no repository: give owner/name")
    api = HfApi(library_name="rise-robotics")
    try:
        try:
            info = api.model_info(hub.repo)
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError):
                raise
            tell(f"{hub} is a new {'private' if private else 'public'} repository")
            api.create_repo(hub.repo, private=private, exist_ok=False)
            info = api.model_info(hub.repo)
            there: list[str] = []
        else:
            there = [one.rfilename for one in info.siblings or ()]
            if private and not info.private:
                raise ConfigError(f"{hub} is public: make it private on its page first, or give another name")
            _check_same_kind(api, hub, there, upload.kind)
            tell(f"{hub} is there already, {'private' if info.private else 'public'}; its commits stay in its history")
        own = upload.folder / _CARD
        text = own.read_bytes() if own.is_file() else card.text(hub).encode()
        stale = sorted(name for name in there if name not in upload.files and not _is_neutral(name))
        if stale:
            tell(f"removed, because {upload.folder.name} does not hold it: {', '.join(stale)}")
        commit = api.create_commit(
            hub.repo,
            [
                CommitOperationAdd(_CARD, text),
                *[CommitOperationAdd(name, upload.folder / name) for name in upload.files],
                *[CommitOperationDelete(name) for name in stale],
            ],
            commit_message=f"Upload {upload.kind}",
            parent_commit=info.sha,
        )
    except hub_errors() as error:
        if isinstance(error, ConfigError | CheckpointError):
            raise
        raise CheckpointError(f"nothing was uploaded to {hub}: {why(error, hub)}") from error
    return Published(commit.commit_url, HubId(hub.repo, commit.oid))


def _check_same_kind(api: Any, hub: HubId, there: Sequence[str], kind: str) -> None:
    """Refuse to overwrite something else."""
    found = None
    if "bundle.json" in there:
        found = "bundle"
    elif "starts.json" in there:
        found = "start states"
    elif "config.json" in there:
        content = Path(api.hf_hub_download(hub.repo, "config.json")).read_text(encoding="utf-8")
        try:
            found = _kind_in(content) or "something that is none of ours"
        except ValueError:
            found = "something that is none of ours"
    elif others := [name for name in there if not _is_neutral(name)]:
        found = f"something else ({', '.join(others[:5])})"
    if found not in (None, kind):
        raise ConfigError(f"{hub} holds {found}, this is {kind}: it is left alone. Give another name")


def _kind_in(text: str) -> str | None:
    content = json.loads(text)
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def _is_neutral(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _NEUTRAL)
