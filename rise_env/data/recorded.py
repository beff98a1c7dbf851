"""RecordedDataset: one LeRobot dataset on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import IncompleteError, Progress, cached_array
from rise_env.data.dataset import Dataset, read_only
from rise_env.data.frames import decoding_steps, frames_fingerprint
from rise_env.data.limits import check_limits
from rise_env.data.outcomes import SUCCESS_COLUMNS, as_outcomes, parse_steps, read_outcomes
from rise_env.data.parquet import join_rows, to_numpy
from rise_env.data.rows import INDEX_COLUMNS, frame_order, read_rows
from rise_env.data.source import Source
from rise_env.data.specs import check_spec, derive_spec
from rise_env.errors import DatasetError, LayoutError
from rise_env.tasks import TaskSpec

__all__ = ["RecordedDataset"]

_NO_OUTCOME = (
    " Success and failure must be labelled explicitly and are never guessed: say them with `rise label DATASET "
    "--outcome success` (or failure, or 0-9=success 10,12=failure), or add the column."
)


class RecordedDataset(Dataset):
    """A LeRobot dataset, described by `source`; made by `rise_env.data.open_dataset`.

    Args:
        source: Its metadata.
        spec: Task that it must fit; derived from it when None.
        keys: Feature of "state" and of "action".
        cache: Directory of decoded frames.
        progress: Called with (camera frames done, in all) while videos are decoded.
        trust_layout: Accept the layout of `spec` for a dataset that does not name its joints.
    """

    def __init__(
        self, source: Source, spec: TaskSpec | None, keys: Mapping[str, str], cache: Path,
        progress: Progress | None, trust_layout: bool,
    ) -> None:  # fmt: skip
        self.source, self.root, self.tasks, self._keys = source, source.root, source.tasks, keys
        self.columns = [key for key, feature in source.features.items() if feature.dtype not in ("video", "image")]
        self._frames: np.ndarray | None = None
        self._order: np.ndarray | None = None
        self._columns: dict[str, np.ndarray] = {}
        found = derive_spec(source, keys, self.column) if spec is None else spec
        check_spec(source, found, keys, unnamed=spec is None or trust_layout)
        super().__init__(found, source.lengths, cache, progress)
        _ = self.state, self.action  # checked now: a wrong unit must not be met after hours of training

    @property
    def parts(self) -> tuple[RecordedDataset]:
        """This dataset alone."""
        return (self,)

    @cached_property
    def outcomes(self) -> np.ndarray | None:
        """Bool (E,), explicit outcome of every episode; None where it is not recorded."""
        if "episode_success" in self.columns:
            per_frame = as_outcomes(self.column("episode_success"), self.root)
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
            return read_only(as_outcomes(self.source.episode_success, f"{self.root}, meta/episodes"))
        beside = read_outcomes(self.root, len((self.source.whole or self.source).lengths))
        if beside is not None:
            return read_only(beside[self.source.numbers])
        name = SUCCESS_COLUMNS[1]
        if name not in self.columns:
            return None
        each = zip(self.source.numbers.tolist(), np.split(self.column(name), self.starts[1:]), strict=True)
        return read_only(np.array([parse_steps(steps, f"{self.root}, {name} of episode {i}") for i, steps in each]))

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
                hint = _NO_OUTCOME if name == "episode_success" else ""
                raise DatasetError(f"{self.root} has no column {name!r}.{hint} Its columns: {', '.join(self.columns)}.")
            self._read(name)
        return self._columns[name]

    def _read(self, name: str) -> None:
        """Read a column in global frame order, and with the first one the usual ones: opening files costs most."""
        fresh = not self._columns
        wanted = list(dict.fromkeys([name, *INDEX_COLUMNS, *self._keys.values()])) if fresh else [name]
        parts: dict[str, list[np.ndarray]] = {key: [] for key in wanted}
        times: list[np.ndarray] = []
        problems: list[DatasetError] = []
        for file in self.source.data_files:
            try:
                table, index = read_rows(self.source, file, wanted)
                if fresh and "timestamp" in table.schema.names:
                    times.append(to_numpy(table["timestamp"], f"{file.path}, column 'timestamp'"))
                for key in wanted:
                    found = index[key] if key in index else to_numpy(table[key], f"{file.path}, column {key!r}")
                    parts[key].append(found)
            except DatasetError as error:
                problems.append(error)
        if problems:
            raise IncompleteError(problems)
        loaded = {key: join_rows(parts[key], key, self.root) for key in wanted}
        if fresh:
            self._order = frame_order(self.source, loaded["episode_index"], loaded["frame_index"])
            if len(times) == len(self.source.data_files):
                values = join_rows(times, "timestamp", self.root)
                self._check_times(values if self._order is None else values[self._order])
        for key, values in loaded.items():
            self._columns[key] = read_only(values if self._order is None else values[self._order])

    def _check_times(self, times: np.ndarray) -> None:
        """Warn of time stamps that do not fit the frame rate: a policy would act at the wrong speed, or with jumps."""
        if times.ndim != 1 or times.dtype.kind not in "fiu":
            return
        ends, fps = np.cumsum(self.source.lengths), self.source.fps
        steps, inside = np.diff(times.astype(np.float64)) * fps, np.ones(len(times) - 1, bool)
        inside[ends[:-1] - 1] = False
        if not inside.any():
            return
        said, pace = f"{self.root}/meta/info.json says {fps:g} frames per second", float(np.median(steps[inside]))
        uneven = np.flatnonzero(inside & ~(np.abs(steps - 1) <= 0.5))
        if not 0.9 < pace < 1.1:
            found = f"{fps / pace:.3g}" if pace > 0 else "that time stands still"
            text = f"{said}, its column 'timestamp' {found}. One is wrong: a policy would act at the wrong speed."
            warnings.warn(text, stacklevel=4)
        elif len(uneven):
            episode = int(np.searchsorted(ends, uneven[0], side="right"))
            frame = int(uneven[0]) - int(ends[episode] - self.source.lengths[episode])
            warnings.warn(
                f"{said}; by its column 'timestamp' {len(uneven)} frames come earlier or later than that by more than "
                f"half a frame, the first after frame {frame} of episode {episode}. Frames are missing, or were "
                "recorded unevenly.", stacklevel=4,
            )  # fmt: skip

    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames; see `Dataset.frames`."""
        index = self.check_index(index)
        return np.asarray(self._frame_array()[index.reshape(-1)]).reshape(*index.shape, *self.frame_shape)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames now, unless their cache exists; see `Dataset.prepare`."""
        self._frame_array(progress)

    def _frame_array(self, progress: Progress | None = None) -> np.ndarray:
        if self._frames is None:
            try:
                self._frames = cached_array(
                    self.cache / f"{self.frames_key}.npy",
                    (self.num_frames, *self.frame_shape),
                    np.uint8,
                    decoding_steps(self.source, list(self.spec.cameras.values()), self.spec.image_size),
                    progress or self._progress,
                    partial=self.cache / f"{frames_fingerprint(self.source, self.spec, contents=False)}.partial",
                )
            except IncompleteError as error:
                raise IncompleteError([*error.problems, DatasetError(
                    f"{len(error.problems)} files of {self.root} cannot be used. What could be decoded is kept. Repair "
                    "or replace them, or leave their episodes out: --skip-bad-episodes."
                )]) from None  # fmt: skip
        return self._frames

    def _vector(self, key: str) -> np.ndarray:
        values = self.column(key)
        values, layout = values[:, None] if values.ndim == 1 else values, self.spec.layout
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
        way_out = "; or leave such episodes out: --skip-bad-episodes"
        check_limits(values, layout, lambda row: self._frame_name(row, key), way_out)
        return read_only(values)

    def _frame_name(self, row: int, key: str) -> str:
        episode, frame = self.locate(row)
        return f"{self._file_of(episode)}, episode {episode}, frame {frame}: {key}"

    def _file_of(self, episode: int) -> Path:
        return next((file.path for file in self.source.data_files if episode in file.episodes), self.root)

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped frames, which pickle would copy; a worker process maps them again."""
        return {**self.__dict__, "_frames": None, "_progress": None}
