"""open_dataset: from a path or hub id to a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from rise_env.data.bad_episodes import find_bad_episodes
from rise_env.data.cache import Progress, cache_root
from rise_env.data.dataset import Dataset
from rise_env.data.joined import JoinedDataset
from rise_env.data.recorded import RecordedDataset
from rise_env.data.source import Source, locate, read_source
from rise_env.data.specs import check_keys, shared_spec, warn_of_sizes
from rise_env.errors import DatasetError, requirement
from rise_env.tasks import TaskSpec

__all__ = ["open_dataset"]


def open_dataset(
    path_or_repo: str | Path | Sequence[str | Path],
    spec: TaskSpec | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    revision: str | None = None,
    state_key: str | None = None,
    action_key: str | None = None,
    trust_layout: bool = False,
    skip_bad_episodes: bool = False,
) -> Dataset:
    """Open a LeRobot dataset, v3.0 or v2.1, for reading.

    Metadata, joint states and actions are read and checked. Frames are decoded on the first call of `Dataset.frames`,
    all of them, once per dataset and image size (see `rise_env.data.cache`).

    Args:
        path_or_repo: Directory, hub id, or several of them, which are joined in this order.
        spec: Task that the dataset must fit. Without it one is derived from the dataset: all cameras (at most 64
            pixels along the longer side), its joint names, limits from its minimum and maximum with a margin, "rad"
            for every joint because LeRobot knows no units, chunk 16, stride 2, history 4, execute 8.
        cache_dir: Where decoded frames are kept; `$XDG_CACHE_HOME/rise` or `~/.cache/rise` when omitted.
        progress: Called with (camera frames done, in all) while videos are decoded.
        revision: Branch, tag or commit on the hub.
        state_key: Feature that holds the joint state; that of `spec`, or "observation.state", when omitted.
        action_key: Feature that holds the action; that of `spec`, or "action", when omitted.
        trust_layout: Accept the layout of `spec` for a dataset that does not name its joints, as `spec.trust_layout`.
        skip_bad_episodes: Leave out episodes whose files are missing or damaged, or whose joint values are impossible,
            with a warning that lists them. All videos are decoded at once.

    Raises:
        ConfigError: If a truth value is none.
        DatasetError: If there is no dataset, it is damaged, its frame rate or cameras are not those of `spec`, or a
            joint value lies outside its limits by more than `spec.layout.tolerance` of their range (a warning, if by
            less).
        LayoutError: If its joints are not those of `spec`; the message prints both.

    Example:
        >>> dataset = open_dataset("data/bricks", load_task("brick_sorting"))  # doctest: +SKIP
        >>> dataset.frames([0, 1]).shape  # doctest: +SKIP
        (2, 3, 48, 64, 3)
    """
    requirement("open_dataset").boolean(trust_layout=trust_layout, skip_bad_episodes=skip_bad_episodes)
    keys = {
        "state": state_key or (spec.state_key if spec else "observation.state"),
        "action": action_key or (spec.action_key if spec else "action"),
    }
    cache, trust_layout = cache_root(cache_dir) / "frames", trust_layout or (spec is not None and spec.trust_layout)
    parts: list[RecordedDataset] = []
    for path in [path_or_repo] if isinstance(path_or_repo, str | Path) else path_or_repo:
        source = read_source(locate(path, revision))
        check_keys(source, keys)

        def opened(source: Source) -> RecordedDataset:
            return RecordedDataset(source, spec, keys, cache, progress, trust_layout)

        if skip_bad_episodes:
            bad = find_bad_episodes(source, keys, spec.layout if spec else None, opened)
            if bad:
                listed = "\n".join(f"  episode {episode}: {bad[episode]}" for episode in sorted(bad))
                told = f"{source.root}: {len(bad)} of {len(source.lengths)} episodes are left out"
                warnings.warn(f"{told}:\n{listed}", stacklevel=2)
            source = source.without(bad)
        parts.append(opened(source))
    if not parts:
        raise DatasetError("open_dataset got an empty list of datasets")
    if spec is None and len(parts) > 1:
        shared = shared_spec([part.spec for part in parts])
        trust_layout = trust_layout or all(part.spec.layout.names == shared.layout.names for part in parts)
        parts = [RecordedDataset(part.source, shared, keys, cache, progress, trust_layout) for part in parts]
    if spec is None:
        warn_of_sizes([part.source for part in parts], parts[0].spec)
    return parts[0] if len(parts) == 1 else JoinedDataset(parts, progress)
