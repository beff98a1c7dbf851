"""Repositories on the Hugging Face Hub, by id: fetched once, then read from its cache (`HF_HOME`), offline as well.

Only files of the kinds that are asked for are fetched: JSON, safetensors and plain arrays, never a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rise_env.errors import CheckpointError

__all__ = ["MODEL_FILES", "HubId", "display_name", "download", "hub_errors", "hub_id", "why"]

#: What a checkpoint consists of.
MODEL_FILES = ("*.json", "*.safetensors")
_ID = re.compile(r"(?P<repo>(?!\.{1,2}/)[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
#: Weights that are unpickled when they are loaded.
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


class HubId(NamedTuple):
    """A repository, `owner/name`, and the branch, tag or commit to take; that of its main branch when None."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_id(name: object) -> HubId | None:
    """What a text such as "owner/name" or "owner/name@revision" stands for; None if it cannot be a repository.

    Example:
        >>> hub_id("lab/bricks@v1"), hub_id("./bricks"), hub_id("bundles/of/mine")
        (HubId(repo='lab/bricks', revision='v1'), None, None)
    """
    found = _ID.fullmatch(str(name))
    return HubId(found["repo"], found["revision"]) if found else None


def display_name(folder: Path) -> str:
    """What to call a folder: its name; for a snapshot in the Hub's cache the repository and its commit.

    Example:
        >>> display_name(Path("hub/models--lab--bricks/snapshots/0123456789abcdef"))
        'lab/bricks@0123456789ab'
    """
    if folder.parent.name == "snapshots" and (repo := folder.parent.parent.name).startswith("models--"):
        return f"{repo.removeprefix('models--').replace('--', '/', 1)}@{folder.name[:12]}"
    return folder.name


def download(
    hub: HubId, what: str, patterns: Sequence[str] = MODEL_FILES, markers: Sequence[str] = ("config.json",)
) -> Path:
    """Directory in the Hub's cache that holds a repository.

    Args:
        hub: Repository and revision.
        what: What messages call it.
        patterns: Which files to fetch; the markers alone when empty.
        markers: Files of which it must hold one; they are looked at before anything large is fetched.

    Raises:
        CheckpointError: If there is no such repository or revision, it holds something else, or the Hub is not reached
            and the cache does not hold it.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import tqdm

    class Quiet(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    try:
        folder = Path(
            snapshot_download(hub.repo, revision=hub.revision, allow_patterns=list(markers), tqdm_class=Quiet)
        )
        if not any((folder / marker).is_file() for marker in markers):
            raise CheckpointError(f"{hub} on the Hub is no {what}: it holds no {' or '.join(markers)}")
        if not patterns:
            return folder
        # By its commit, so that both steps are of the same one.
        folder = Path(snapshot_download(hub.repo, revision=folder.name, allow_patterns=[*markers, *patterns]))
        weights = "*.safetensors" in patterns and not any(folder.rglob("*.safetensors"))
        if weights and (pickles := _pickles(hub.repo, folder.name)):
            raise CheckpointError(
                f"{hub} on the Hub keeps its weights as {', '.join(pickles[:5])}: those are pickles, which may run any "
                "code and are neither fetched nor loaded. Ask for safetensors"
            )
    except hub_errors() as error:
        copy = "" if isinstance(error, HfHubHTTPError) else f"; {constants.HF_HUB_CACHE} holds no copy of it"
        raise CheckpointError(f"no {what} at {hub}: there is no such directory, and {why(error, hub)}{copy}") from error
    return folder


def hub_errors() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` raises where a repository cannot be had."""
    import httpx

    return OSError, ValueError, httpx.HTTPError


def why(error: Exception, hub: HubId) -> str:
    """What is wrong, and what to do, in a half-sentence for messages."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, GatedRepoError):
        return f"the repository is gated: ask for access at {constants.ENDPOINT}/{hub.repo}, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{constants.ENDPOINT} has no repository {hub.repo!r}, or it is private and you are not logged in "
            "(`hf auth login`, or HF_TOKEN)"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the repository {hub.repo!r} has no branch, tag or commit {hub.revision!r}"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{constants.ENDPOINT} refuses ({first}): log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return f"it is no name of a repository ({first})"
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} answers: {first}"
    if constants.HF_HUB_OFFLINE:
        return "the Hub is not asked (HF_HUB_OFFLINE is set)"
    if isinstance(error, LocalEntryNotFoundError | ConnectionError) or not isinstance(error, OSError | ValueError):
        return f"{constants.ENDPOINT} is not reached"
    return f"the Hub gave no such repository ({first})"


def _pickles(repo: str, commit: str) -> list[str]:
    """Names of weights in a repository that are pickles; none where the Hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return [
            name for name in HfApi().list_repo_files(repo, revision=commit) if PurePosixPath(name).suffix in _PICKLES
        ]
    except hub_errors():
        return []
