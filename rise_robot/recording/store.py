"""The directory of a recorded dataset, changed only in steps that a killed process can repeat.

`root` always holds a complete LeRobot dataset (or none yet). Everything unfinished lies in `root/.recording`:

* `scratch-*`: being written; deleted at the next opening.
* `episode-000012`: one finished episode, a small dataset of its own, put there by one rename. It is safe from then on.
* `commit`: files that turn the dataset into the dataset plus the pending episodes. Once this directory has its name,
  the next opening moves its files into place, `info.json` last, however often it is interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rise_robot.closing import Closing
from rise_robot.recording.append import INFO_PATH, quiet_libav, stage_append
from rise_robot.recording.checks import check_dataset
from rise_robot.recording.records import RecordingError

__all__ = ["EpisodeStore", "merge_datasets"]

_WORK = ".recording"


class EpisodeStore(Closing):
    """Exclusive, recovered access to the directory of a dataset.

    Args:
        root: Directory of the dataset; created if it does not exist.

    Raises:
        RecordingError: If another process records there, if the directory cannot be written to or holds something else,
            or if the streams of the dataset disagree.
    """

    def __init__(self, root: str | Path) -> None:
        quiet_libav()
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise RecordingError(f"{self.root} is not a directory")
        self._work = self.root / _WORK
        strangers = self.root.is_dir() and not self._work.exists() and any(self.root.iterdir())
        if strangers and not (self.root / INFO_PATH).is_file():
            raise RecordingError(
                f"{self.root} is not empty and holds no LeRobot v3.0 dataset ({INFO_PATH} is missing). "
                "Choose another directory or empty this one."
            )
        self._created = not self.root.exists()
        self._lock = self._acquire()
        try:
            self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def _acquire(self) -> int:
        path = self._work / "lock"
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise RecordingError(
                f"nothing can be recorded into {self.root}: {error.strerror} ({error.filename}). Choose a directory "
                "that you may write to (--out), or change its permissions."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RecordingError(
                f"another recorder has {self.root} open. Close it, or record into a directory of your own and join "
                "them with merge_datasets."
            ) from None
        # The previous owner may have removed the file between our opening and locking it.
        if not path.exists() or path.stat().st_ino != os.fstat(handle).st_ino:
            os.close(handle)
            raise RecordingError(f"another recorder was just closing {self.root}. Try again.")
        return handle

    def _recover(self) -> None:
        for path in self._work.glob("scratch-*"):
            shutil.rmtree(path)
        self._scratch_names = (self._work / f"scratch-{number}" for number in itertools.count())
        self._roll_forward()
        first = self.committed_episodes
        if first:
            check_dataset(self.root)
        self.pending = sorted(self._work.glob("episode-*"))
        expected = [f"episode-{index:06d}" for index in range(first, first + len(self.pending))]
        if [path.name for path in self.pending] != expected:
            raise RecordingError(
                f"{self._work} holds {[path.name for path in self.pending]}, expected {expected}: "
                "someone moved episodes. Put them back, or move this folder away to go on without them."
            )

    def _roll_forward(self) -> None:
        """Put a decided commit into place and remove the episodes that it contains; safe to repeat."""
        commit = self._work / "commit"
        if commit.is_dir():
            files = [path for path in commit.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path == commit / INFO_PATH):
                target = self.root / path.relative_to(commit)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
        committed = self.committed_episodes
        for path in sorted(self._work.glob("episode-*")):
            if int(path.name.removeprefix("episode-")) < committed:
                # A half-deleted episode must not look like a whole one.
                shutil.rmtree(path.rename(next(self._scratch_names)))
        if commit.is_dir():
            shutil.rmtree(commit)

    @property
    def committed_episodes(self) -> int:
        """Episodes in the dataset itself, pending ones not counted."""
        from lerobot.datasets.io_utils import load_info

        return load_info(self.root).total_episodes if (self.root / INFO_PATH).is_file() else 0

    @property
    def datasets(self) -> list[Path]:
        """The dataset (if there is one yet) and the pending episodes, each a complete LeRobot dataset, in order."""
        return [self.root, *self.pending] if (self.root / INFO_PATH).is_file() else list(self.pending)

    def scratch(self) -> Path:
        """A path that does not exist yet, for something unfinished."""
        return next(self._scratch_names)

    def add(self, episode: Path) -> int:
        """Make the one-episode dataset at the scratch path `episode` a safe, pending episode; returns its index."""
        index = self.committed_episodes + len(self.pending)
        self.pending.append(episode.rename(self._work / f"episode-{index:06d}"))
        return index

    def commit(self) -> None:
        """Move all pending episodes into the dataset."""
        if self.pending:
            self.append(self.pending)
            self.pending = []

    def append(self, sources: Sequence[Path]) -> None:
        """Append whole datasets to the dataset, in this order, in one step that either happens or does not."""
        staging = self.scratch()
        staging.mkdir()
        stage_append(self.root, sources, staging)
        staging.rename(self._work / "commit")
        self._roll_forward()

    def close(self) -> None:
        """Remove the working folder if nothing is pending, and let others open the directory."""
        if self._lock < 0:
            return
        if not self.pending:
            for path in self._work.glob("scratch-*"):
                shutil.rmtree(path)
            (self._work / "lock").unlink()
            with contextlib.suppress(OSError):  # not empty: something was recorded, or another recorder moves in
                self._work.rmdir()
                if self._created:
                    self.root.rmdir()
        os.close(self._lock)
        self._lock = -1


def merge_datasets(shard_roots: Sequence[str | Path], root: str | Path, *, append: bool = False) -> int:
    """Join datasets that parallel workers recorded, sidecars included; RecordingError if there is nothing to join,
    shards do not match, or `root` has episodes and `append` is False.

    Episodes keep their order: all of the first shard, then all of the second, and so on. Give worker w a contiguous
    block of the seeds and the merged dataset is in seed order. What a killed worker left pending in its shard is
    committed there first; shards without an episode are skipped. The shards are not deleted. Returns the new number of
    episodes.

    Args:
        shard_roots: Directories of the datasets to join.
        root: Directory of the joined dataset.
        append: Append to the dataset that is there already, instead of refusing.
    """
    roots = [Path(shard) for shard in shard_roots]
    if len({path.resolve() for path in (*roots, Path(root))}) != len(roots) + 1:
        raise RecordingError(f"the shards {list(map(str, roots))} and the target {root} must be different directories")
    sources = []
    for path in roots:
        if not path.is_dir():
            raise RecordingError(f"shard {path} does not exist")
        with EpisodeStore(path) as shard:
            shard.commit()
            if shard.committed_episodes:
                sources.append(path)
    if not sources:
        raise RecordingError(f"none of the shards {list(map(str, roots))} holds a complete episode")
    with EpisodeStore(root) as store:
        if store.datasets and not append:
            raise RecordingError(f"{root} already holds episodes. Pass append=True to add to them, or another folder.")
        store.commit()
        store.append(sources)
        return store.committed_episodes
