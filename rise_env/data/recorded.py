"""RecordedDataset: one LeRobot dataset on disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import Progress, cache_root, cached_array
from rise_env.data.dataset import Dataset, read_only
from rise_env.data.decoding import decoding_steps, frames_fingerprint
from rise_env.data.errors import DatasetError
from rise_env.data.source import Source
from rise_env.data.specs import check_spec, derive_spec
from rise_env.data.table import INDEX_COLUMNS, FrameTable
from rise_env.errors import LayoutError
from rise_env.tasks import TaskSpec

__all__ = ["RecordedDataset"]


class RecordedDataset(Dataset):
    """A LeRobot dataset; arguments as for `rise_env.data.open_dataset`.

    Attributes:
        source: Its metadata.
    """

    def __init__(
        self,
        source: Source,
        spec: TaskSpec | None = None,
        *,
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
        state_key: str = "observation.state",
        action_key: str = "action",
        trust_layout: bool = False,
    ) -> None:
        self.source = source
        self._keys = {"state": state_key, "action": action_key}
        self._table = FrameTable(source, tuple(self._keys.values()))
        self._frames: np.ndarray | None = None
        for key in self._keys.values():
            if key not in source.features:
                raise DatasetError(
                    f"{source.root} has no feature {key!r}. Its features: {', '.join(source.features)}. "
                    "Name the right ones with state_key=... and action_key=...."
                )
        read: dict[str, np.ndarray] = {}

        def column(name: str) -> np.ndarray:
            if name not in read:
                read.update(self._table.read(name))
            return read[name]

        found = derive_spec(source, self._keys, column) if spec is None else spec
        check_spec(source, found, self._keys, unnamed=spec is None or trust_layout)
        super().__init__(found, source.lengths, cache_root(cache_dir) / "frames", progress)
        self._columns = {name: read_only(values) for name, values in read.items()}

    @property
    def parts(self) -> tuple[RecordedDataset]:
        """This dataset alone."""
        return (self,)

    @property
    def root(self) -> Path:
        """Directory."""
        return self.source.root

    @property
    def columns(self) -> list[str]:
        """Names that `column` takes."""
        return [key for key, feature in self.source.features.items() if feature["dtype"] not in ("video", "image")]

    @property
    def tasks(self) -> dict[int, str]:
        """Instruction by `task_index`."""
        return self.source.tasks

    @cached_property
    def outcomes(self) -> np.ndarray | None:
        """Bool (E,), explicit outcome of every episode; None where it is not recorded."""
        if "episode_success" in self.columns:
            per_frame = _as_outcomes(self.column("episode_success"), self.root)
            first = per_frame[self.starts]
            changes = np.flatnonzero(np.repeat(first, self.lengths) != per_frame)
            if len(changes):
                episode, frame = self.locate(int(changes[0]))
                raise DatasetError(
                    f"{self.root}: episode_success changes within episode {episode}, at frame {frame}; "
                    "expected one outcome per episode"
                )
            return read_only(first)
        if self.source.episode_success is not None:
            return read_only(_as_outcomes(np.asarray(self.source.episode_success, object), self.root))
        return None

    @cached_property
    def state(self) -> np.ndarray:
        """float32 (N, D), joint state in the units of the layout."""
        return self._vector(self._keys["state"])

    @cached_property
    def action(self) -> np.ndarray:
        """float32 (N, D), joint targets in the units of the layout."""
        return self._vector(self._keys["action"])

    @property
    def frames_key(self) -> str:
        """Fingerprint of the decoded frames."""
        return frames_fingerprint(self.source, self.spec)

    def column(self, name: str) -> np.ndarray:
        """A column of the dataset; see `Dataset.column`."""
        if name not in self._columns:
            if name not in self.columns and name not in INDEX_COLUMNS:
                hint = ""
                if name == "episode_success":
                    hint = (
                        " Success and failure must be labelled explicitly and are never guessed: record with "
                        "EpisodeRecorder or `rise record`, or add the column."
                    )
                raise DatasetError(f"{self.root} has no column {name!r}.{hint} Its columns: {', '.join(self.columns)}.")
            self._columns |= {key: read_only(values) for key, values in self._table.read(name).items()}
        return self._columns[name]

    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames; see `Dataset.frames`."""
        index = self.check_index(index)
        return np.asarray(self._frame_array()[index.reshape(-1)]).reshape(*index.shape, *self.frame_shape)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames now, unless their cache exists; see `Dataset.prepare`."""
        self._frame_array(progress)

    def _frame_array(self, progress: Progress | None = None) -> np.ndarray:
        if self._frames is None:
            self._frames = cached_array(
                self.cache / f"{self.frames_key}.npy",
                (self.num_frames, *self.frame_shape),
                np.uint8,
                decoding_steps(self.source, self.spec),
                progress or self._progress,
            )
        return self._frames

    def _vector(self, key: str) -> np.ndarray:
        values = self.column(key)
        if values.ndim == 1:
            values = values[:, None]
        layout = self.spec.layout
        if values.shape[1:] != (layout.dim,) or values.dtype.kind not in "fiu":
            raise LayoutError(
                f"{self.root}, column {key!r}: {values.dtype} of shape {values.shape[1:]} per frame, "
                f"layout {layout.name!r} has {layout.dim} dimensions: {', '.join(layout.names)}"
            )
        values = values.astype(np.float32)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, joint = bad[0].tolist()
            episode, frame = self.locate(row)
            raise DatasetError(
                f"{self._file_of(episode)}, episode {episode}, frame {frame}: {key} of {layout.names[joint]!r} is "
                f"{values[row, joint]}, expected a finite number ({len(bad)} such values in all). "
                "Drop or repair these episodes."
            )
        return read_only(values)

    def _file_of(self, episode: int) -> Path:
        return next((file.path for file in self.source.data_files if episode in file.episodes), self.root)

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped frames, which pickle would copy; a worker process maps them again."""
        return {**self.__dict__, "_frames": None, "_progress": None}


def _as_outcomes(values: np.ndarray, where: Any) -> np.ndarray:
    """Explicit outcomes as bool: booleans, 0 and 1, or the words "success" and "failure"."""
    known = {True: True, False: False, "success": True, "failure": False}
    if values.dtype == bool:
        return values
    try:
        return np.array([known[value] for value in values.tolist()], bool)
    except (KeyError, TypeError):
        odd = next(
            value for value in values.tolist() if not (isinstance(value, bool | int | float | str) and value in known)
        )
        raise DatasetError(
            f"{where}: episode_success is {odd!r}, expected True or False (or 'success' or 'failure') for every episode"
        ) from None
