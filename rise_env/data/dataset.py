"""Dataset: recorded episodes as arrays in one global frame order, and decoded frames from a cache."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.cache import Progress, Step, cache_root, cached_array, fingerprint
from rise_env.data.errors import DatasetError
from rise_env.data.source import Source, locate, read_parquet, read_source
from rise_env.data.video import Piece, decode_image, decode_video
from rise_env.errors import LayoutError
from rise_env.tasks import JointLayout, TaskSpec, flatten_names

__all__ = ["Dataset", "EpisodeInfo", "JoinedDataset", "open_dataset"]

_CACHE_VERSION = 1
_INDEX_COLUMNS = ("episode_index", "frame_index", "task_index")


@dataclass(frozen=True)
class EpisodeInfo:
    """An episode.

    Attributes:
        episode_index: Its index in the dataset.
        length: Number of frames.
        task: Its instruction (of the first frame, should it change on the way).
        success: Its explicit outcome (`episode_success`), None where the dataset says nothing.
    """

    episode_index: int
    length: int
    task: str
    success: bool | None


def open_dataset(
    path_or_repo: str | Path | Sequence[str | Path],
    spec: TaskSpec | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    revision: str | None = None,
    state_key: str = "observation.state",
    action_key: str = "action",
    trust_layout: bool = False,
) -> Dataset:
    """Open a LeRobot dataset, v3.0 or v2.1, for reading.

    Nothing but metadata is read until something is asked for. Frames are decoded on the first call of
    `Dataset.frames`, all of them, once per dataset and image size (see `rise_env.data.cache`).

    Args:
        path_or_repo: Directory, hub id, or several of them, which are joined in this order.
        spec: Task that the dataset must fit. Without it one is derived from the dataset: all cameras (at most 64
            pixels along the longer side), its joint names, limits from its minimum and maximum with a margin, "rad"
            for every joint because LeRobot knows no units, chunk 16, stride 2, history 4, execute 8.
        cache_dir: Where decoded frames are kept; `$XDG_CACHE_HOME/rise` or `~/.cache/rise` when omitted.
        progress: Called with (camera frames done, in all) while videos are decoded.
        revision: Branch, tag or commit on the hub.
        state_key: Feature that holds the joint state.
        action_key: Feature that holds the action.
        trust_layout: Accept the layout of `spec` for a dataset that does not name its joints.

    Returns:
        The dataset.

    Raises:
        DatasetError: If there is no dataset, it is damaged, or its frame rate or cameras are not those of `spec`.
        LayoutError: If its joints are not those of `spec`; the message prints both.

    Example:
        >>> dataset = open_dataset("data/bricks", load_task("brick_sorting"))  # doctest: +SKIP
        >>> dataset.frames([0, 1]).shape  # doctest: +SKIP
        (2, 3, 48, 64, 3)
    """
    options: dict[str, Any] = {
        "cache_dir": cache_dir, "progress": progress,
        "state_key": state_key, "action_key": action_key, "trust_layout": trust_layout,
    }  # fmt: skip
    if isinstance(path_or_repo, str | Path):
        return Dataset(read_source(locate(path_or_repo, revision)), spec, **options)
    parts: list[Dataset] = []
    for path in path_or_repo:
        parts.append(
            Dataset(read_source(locate(path, revision)), spec or (parts[0].spec if parts else None), **options)
        )
    if not parts:
        raise DatasetError("open_dataset got an empty list of datasets")
    return parts[0] if len(parts) == 1 else JoinedDataset(parts)


class Dataset:
    """Recorded episodes in one global frame order: episode after episode, frame after frame.

    Made by `open_dataset`. Arrays that are returned are shared and read-only.

    Attributes:
        spec: Task the dataset was opened for.
        root: Directory.
        source: Its metadata.
        num_episodes: Number of episodes E.
        num_frames: Number of frames N of all episodes.
        lengths: int64 (E,), frames per episode.
        starts: int64 (E,), global index of each episode's first frame.
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
        self.root = source.root
        self._progress = progress
        self._cache = cache_root(cache_dir) / "frames"
        self._keys = {"state": state_key, "action": action_key}
        self._columns: dict[str, np.ndarray] = {}
        self._order: np.ndarray | None = None
        self._frames: np.ndarray | None = None
        self._index(source.lengths)
        for key in self._keys.values():
            if key not in source.features:
                raise DatasetError(
                    f"{self.root} has no feature {key!r}. Its features: {', '.join(source.features)}. "
                    "Name the right ones with state_key=... and action_key=...."
                )
        self.spec = self._derive_spec() if spec is None else spec
        self._check_spec(unnamed=spec is None or trust_layout)

    def _index(self, lengths: np.ndarray) -> None:
        self.lengths = _frozen(lengths.astype(np.int64))
        self.num_episodes = len(lengths)
        self.num_frames = int(lengths.sum())
        self.starts = _frozen(np.cumsum(self.lengths) - self.lengths)

    @property
    def name(self) -> str:
        """Name of the directory, for people."""
        return self.root.name

    @property
    def roots(self) -> tuple[Path, ...]:
        """Directories of all joined datasets."""
        return (self.root,)

    @property
    def columns(self) -> list[str]:
        """Names that `column` takes."""
        return [key for key, feature in self.source.features.items() if feature["dtype"] not in ("video", "image")]

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Facts about every episode."""
        outcomes: Sequence[Any] = [None] * self.num_episodes if self._outcomes is None else self._outcomes.tolist()
        facts = zip(self.lengths.tolist(), self.starts.tolist(), outcomes, strict=True)
        return [
            EpisodeInfo(i, length, self.tasks[self.task_index[start]], success)
            for i, (length, start, success) in enumerate(facts)
        ]

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Instruction by `task_index`."""
        return dict(self.source.tasks)

    @cached_property
    def task_index(self) -> np.ndarray:
        """int64 (N,), index of every frame's instruction in `tasks`."""
        index = self.column("task_index")
        unknown = np.setdiff1d(index, list(self.tasks))
        if len(unknown):
            raise DatasetError(f"{self.root}: task_index {unknown[0]} has no text; known: {sorted(self.tasks)}")
        return index

    def prompts(self, index: Any) -> list[str]:
        """Instruction of each of the frames `index` (n,), as recorded: two tasks stay two texts."""
        return [self.tasks[i] for i in self.task_index[self._checked_index(index)].tolist()]

    @property
    def success(self) -> np.ndarray:
        """Bool (E,), explicit outcome of every episode.

        Raises:
            DatasetError: If the dataset does not say; it is never guessed.
        """
        if self._outcomes is None:
            self.column("episode_success")  # says what is missing
            raise AssertionError("unreachable")
        return self._outcomes

    @cached_property
    def _outcomes(self) -> np.ndarray | None:
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
            return _frozen(first)
        if self.source.episode_success is not None:
            return _frozen(_as_outcomes(np.asarray(self.source.episode_success, object), self.root))
        return None

    def locate(self, index: int) -> tuple[int, int]:
        """Episode and frame within it of the global frame `index`."""
        index = int(self._checked_index(index))
        episode = int(np.searchsorted(self.starts, index, side="right")) - 1
        return episode, index - int(self.starts[episode])

    def episode_of(self, index: Any) -> np.ndarray:
        """int64, episode of each of the global frames `index`, same shape."""
        return np.searchsorted(self.starts, self._checked_index(index), side="right") - 1

    @property
    def state(self) -> np.ndarray:
        """float32 (N, D), joint state in the units of the layout."""
        return self._vector("state")

    @property
    def action(self) -> np.ndarray:
        """float32 (N, D), joint targets in the units of the layout."""
        return self._vector("action")

    def column(self, name: str) -> np.ndarray:
        """A column of the dataset, whatever its type.

        Args:
            name: Feature key, e.g. "progress", "is_intervention" or "observation.state".

        Returns:
            (N, ...) in global frame order; (N,) for scalars, object for texts.

        Raises:
            DatasetError: If the dataset has no such column or its files are damaged.
        """
        if name not in self._columns:
            if name not in self.columns and name not in _INDEX_COLUMNS:
                hint = ""
                if name == "episode_success":
                    hint = (
                        " Success and failure must be labelled explicitly and are never guessed: record with "
                        "EpisodeRecorder or `rise record`, or add the column."
                    )
                raise DatasetError(f"{self.root} has no column {name!r}.{hint} Its columns: {', '.join(self.columns)}.")
            self._load(name)
        return self._columns[name]

    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames at `spec.image_size`; the first call decodes the dataset unless its cache exists.

        Args:
            index: Global frame indices, any shape, e.g. (n,) or (n, T).

        Returns:
            uint8 (*index.shape, V, H, W, 3), RGB, views in the order of `spec.cameras`; a copy.

        Raises:
            DatasetError: If an index is outside [0, N), or a video is missing, damaged or of the wrong length.
        """
        index = self._checked_index(index)
        return np.asarray(self._frame_array()[index.reshape(-1)]).reshape(*index.shape, *self._frame_shape)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames now, unless their cache exists.

        Args:
            progress: Called with (camera frames done, in all), instead of the one given to `open_dataset`.
        """
        self._frame_array(progress)

    def cached(
        self,
        tag: str,
        shape: tuple[int, ...],
        dtype: Any,
        make: Any,
        *,
        batch: int = 256,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """An array with one entry per frame that is made from the frames once, e.g. latents.

        Args:
            tag: What it is and what made it (include a fingerprint of the weights): another tag, another array.
            shape: Shape of one entry.
            dtype: Type, e.g. `np.float16`.
            make: Called with global indices (n,), n at most `batch`; returns (n, *shape).
            batch: Frames per call.
            progress: Called with (frames done, in all).

        Returns:
            Read-only (N, *shape), mapped from disk.
        """
        key = fingerprint([self._cache_key, tag, list(shape), str(np.dtype(dtype))])

        def step(first: int) -> Step:
            stop = min(first + 16 * batch, self.num_frames)

            def run(array: np.ndarray, advance: Any) -> None:
                for start in range(first, stop, batch):
                    index = np.arange(start, min(start + batch, stop))
                    array[index] = make(index)
                    advance(len(index))

            return Step(str(first), stop - first, run)

        steps = [step(first) for first in range(0, self.num_frames, 16 * batch)]
        return cached_array(self._cache / f"{key}.npy", (self.num_frames, *shape), dtype, steps, progress)

    @property
    def _frame_shape(self) -> tuple[int, ...]:
        return (len(self.spec.cameras), *self.spec.image_size, 3)

    def _frame_array(self, progress: Progress | None = None) -> np.ndarray:
        if self._frames is None:
            self._frames = cached_array(
                self._cache / f"{self._cache_key}.npy",
                (self.num_frames, *self._frame_shape),
                np.uint8,
                self._decoding_steps(),
                progress or self._progress,
            )
        return self._frames

    @property
    def _cache_key(self) -> str:
        """Fingerprint of the frames; free of the directory's name, so that a renamed dataset keeps its cache."""
        keys = list(self.spec.cameras.values())
        files = {s.path for key in keys for s in self.source.videos.get(key, ())}
        if any(key not in self.source.videos for key in keys):
            files |= {file.path for file in self.source.data_files}
        stamps = {str(path.relative_to(self.root)): _stamp(path) for path in sorted(files)}
        segments = {
            key: [[str(s.path.relative_to(self.root)), s.start] for s in self.source.videos.get(key, ())]
            for key in keys
        }
        return fingerprint(
            [_CACHE_VERSION, keys, self.spec.image_size, self.source.fps, self.lengths.tolist(), segments, stamps]
        )

    def _decoding_steps(self) -> list[Step]:
        steps = []
        for view, key in enumerate(self.spec.cameras.values()):
            if key not in self.source.videos:
                steps += self._image_steps(view, key)
                continue
            members: dict[Path, list[Piece]] = {}
            for episode, segment in enumerate(self.source.videos[key]):
                length, start = int(self.lengths[episode]), int(self.starts[episode])
                piece = Piece(episode, segment.start, length, segment.whole, start)
                members.setdefault(segment.path, []).append(piece)
            steps += [self._video_step(view, path, pieces) for path, pieces in members.items()]
        return steps

    def _video_step(self, view: int, path: Path, pieces: list[Piece]) -> Step:
        def run(array: np.ndarray, advance: Any) -> None:
            for row, image in decode_video(path, pieces, self.source.fps, self.spec.image_size):
                array[row, view] = image
                advance(1)

        return Step(f"{view}:{path.relative_to(self.root)}", sum(piece.length for piece in pieces), run)

    def _image_steps(self, view: int, key: str) -> list[Step]:
        """Cameras whose images lie in the parquet files, as PNG or JPEG."""

        def step(file: Any) -> Step:
            def run(array: np.ndarray, advance: Any) -> None:
                table = read_parquet(file.path, ["episode_index", "frame_index", key])
                episodes, numbers = table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
                for row, (episode, number) in enumerate(zip(episodes, numbers, strict=True)):
                    where = f"{file.path}, episode {episode}, frame {number}, {key}"
                    content = (table[key][row].as_py() or {}).get("bytes")
                    if content is None:
                        raise DatasetError(f"{where}: the file holds no image")
                    array[self.starts[episode] + number, view] = decode_image(content, self.spec.image_size, where)
                    advance(1)

            return Step(f"{view}:{file.path.relative_to(self.root)}", file.rows, run)

        return [step(file) for file in self.source.data_files]

    def _vector(self, which: str) -> np.ndarray:
        name = f"{which}:float32"
        if name not in self._columns:
            key = self._keys[which]
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
            self._columns[name] = _frozen(values)
        return self._columns[name]

    def _file_of(self, episode: int) -> Path:
        return next((file.path for file in self.source.data_files if episode in file.episodes), self.root)

    def _load(self, name: str) -> None:
        """Read a column into `_columns`; the first time with all that everyone needs, as opening files costs most."""
        wanted = [name]
        if not self._columns:
            usual = (*_INDEX_COLUMNS, *self._keys.values())
            wanted += [key for key in dict.fromkeys(usual) if key != name]
        parts: dict[str, list[np.ndarray]] = {key: [] for key in wanted}
        for file in self.source.data_files:
            table = read_parquet(file.path, wanted)
            if table.num_rows != file.rows:
                members = ", ".join(map(str, file.episodes[:8])) + (", ..." if len(file.episodes) > 8 else "")
                raise DatasetError(
                    f"{file.path} (episodes {members}) has {table.num_rows} rows, the episode table says {file.rows}. "
                    "The dataset is damaged or incomplete: copy or download it again."
                )
            for key in wanted:
                parts[key].append(_to_numpy(table[key], f"{file.path}, column {key!r}"))
        loaded = {key: _join(parts[key], key, self.root) for key in wanted}
        if not self._columns:
            self._order = self._frame_order(loaded["episode_index"], loaded["frame_index"])
        for key, values in loaded.items():
            self._columns[key] = _frozen(values if self._order is None else values[self._order])

    def _frame_order(self, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray | None:
        """Permutation that brings rows into global frame order; None where they are."""
        expected = np.repeat(np.arange(self.num_episodes), self.lengths)
        numbers = np.arange(self.num_frames) - np.repeat(self.starts, self.lengths)
        order = None
        if not (np.array_equal(episodes, expected) and np.array_equal(frames, numbers)):
            order = np.lexsort((frames, episodes))
            wrong = np.flatnonzero((episodes[order] != expected) | (frames[order] != numbers))
            if len(wrong):
                row = int(wrong[0])
                raise DatasetError(
                    f"{self.root}: the data files have episode {episodes[order][row]}, frame {frames[order][row]}, "
                    f"expected episode {expected[row]}, frame {numbers[row]}; frames are missing or repeated"
                )
        return order

    def _checked_index(self, index: Any) -> np.ndarray:
        array = np.asarray(index)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise DatasetError(f"frame indices must be integers, got {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= self.num_frames):
            wrong = int(array.min()) if array.min() < 0 else int(array.max())
            raise DatasetError(f"frame index {wrong} is outside [0, {self.num_frames}) of {self.name}")
        return array

    def _derive_spec(self) -> TaskSpec:
        source = self.source
        names = {which: self._joint_names(which) for which in ("state", "action")}
        if names["state"] != names["action"]:
            raise LayoutError(
                f"{self.root}: {self._keys['state']} has the joints {', '.join(names['state'])};\n"
                f"{self._keys['action']} has {', '.join(names['action'])}.\n"
                "They must be the same, in the same order. Pick other features with state_key and action_key."
            )
        if not source.cameras:
            raise DatasetError(f"{self.root} has no camera: no feature is a video or an image")
        both = np.concatenate([self.column(key).reshape(self.num_frames, -1) for key in self._keys.values()])
        low, high = np.nanmin(both, axis=0).astype(float), np.nanmax(both, axis=0).astype(float)
        margin = np.maximum(0.1 * (high - low), 0.01)
        count = len(names["state"])
        layout = JointLayout(
            name=source.robot_type or self.name,
            names=names["state"],
            units=("rad",) * count,
            lower=tuple(np.round(low - margin, 4).tolist()),
            upper=tuple(np.round(high + margin, 4).tolist()),
        )
        prompts = [text for text in source.tasks.values() if text.strip()]
        return TaskSpec(
            name=re.sub(r"\W+", "_", self.name).strip("_").lower() or "dataset",
            prompt=prompts[0] if prompts else "(the dataset has no instruction)",
            cameras=_camera_names(source.cameras),
            image_size=_small_size(source.features[source.cameras[0]]),
            layout=layout,
            fps=source.fps,
            chunk=16,
            stride=2,
            history=4,
            execute=8,
            max_seconds=float(math.ceil(self.lengths.max() / source.fps)),
        )

    def _joint_names(self, which: str) -> tuple[str, ...]:
        feature = self.source.features[self._keys[which]]
        count = math.prod(feature["shape"])
        names = flatten_names(feature.get("names"))
        return names if len(names) == count else tuple(f"joint_{i}" for i in range(count))

    def _check_spec(self, unnamed: bool) -> None:
        source, spec = self.source, self.spec
        for key in self._keys.values():
            feature = source.features[key]
            names = flatten_names(feature.get("names"))
            count = math.prod(feature["shape"])
            where = f"feature {key!r} of {self.root}"
            if len(names) == count:
                spec.layout.check_names(names, where)
            elif not unnamed or count != spec.layout.dim:
                hint = "" if count != spec.layout.dim else " If this is the right one, pass trust_layout=True."
                raise LayoutError(
                    f"{where} has {count} dimensions without names;\n"
                    f"layout {spec.layout.name!r} has {spec.layout.dim}: {', '.join(spec.layout.names)}.{hint}"
                )
        absent = [key for key in spec.cameras.values() if key not in source.cameras]
        if absent:
            raise DatasetError(
                f"{self.root} has no camera {absent[0]!r}, which task {spec.name!r} asks for. "
                f"Its cameras: {', '.join(source.cameras) or '(none)'}. Change 'cameras' of the task."
            )
        if spec.fps != source.fps:
            raise DatasetError(
                f"{self.root} was recorded at {source.fps} Hz, task {spec.name!r} runs at {spec.fps} Hz. "
                f"Set task.fps={source.fps}, or record again."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped frames, which pickle would copy; a worker process maps them again."""
        return {**self.__dict__, "_frames": None, "_progress": None}

    def __len__(self) -> int:
        return self.num_frames

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.source.version}, {self.num_episodes} episodes, "
            f"{self.num_frames} frames, cameras {list(self.spec.cameras)}, {self.spec.layout.dim} joints)"
        )


class JoinedDataset(Dataset):
    """Several datasets of one task behind one another, episodes numbered through; frames stay in each one's cache.

    Attributes:
        parts: The datasets.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = list(parts)
        first = self.parts[0]
        for part in self.parts[1:]:
            if part.spec != first.spec:
                raise DatasetError(f"{part.root} was opened for another task than {first.root}; give both one spec")
        self.source, self.root, self.spec = first.source, first.root, first.spec
        self._cache, self._progress = first._cache, first._progress
        self._columns = {}
        self._index(np.concatenate([part.lengths for part in self.parts]))
        self._offsets = np.cumsum([0, *(part.num_frames for part in self.parts)])

    @property
    def name(self) -> str:
        """Names of the directories, for people."""
        return " + ".join(part.name for part in self.parts)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Directories of all joined datasets."""
        return tuple(part.root for part in self.parts)

    @property
    def columns(self) -> list[str]:
        """Names that `column` takes: what all parts have."""
        return [name for name in self.parts[0].columns if all(name in part.columns for part in self.parts)]

    @cached_property
    def episodes(self) -> list[EpisodeInfo]:
        """Facts about every episode."""
        facts = [info for part in self.parts for info in part.episodes]
        return [dataclasses.replace(info, episode_index=i) for i, info in enumerate(facts)]

    @cached_property
    def tasks(self) -> dict[int, str]:
        """Instruction by `task_index` of the joined dataset."""
        texts = dict.fromkeys(text for part in self.parts for text in part.tasks.values())
        return dict(enumerate(texts))

    def column(self, name: str) -> np.ndarray:
        """A column that all parts have."""
        if name not in self._columns:
            if name == "task_index":
                numbers = {text: i for i, text in self.tasks.items()}
                columns = [
                    _renumbered(part.task_index, {i: numbers[t] for i, t in part.tasks.items()}) for part in self.parts
                ]
            elif name == "episode_index":
                columns = [np.repeat(np.arange(self.num_episodes), self.lengths)]
            else:
                columns = [part.column(name) for part in self.parts]
            self._columns[name] = _frozen(_join(columns, name, self.name))
        return self._columns[name]

    def _vector(self, which: str) -> np.ndarray:
        name = f"{which}:float32"
        if name not in self._columns:
            self._columns[name] = _frozen(np.concatenate([part._vector(which) for part in self.parts]))
        return self._columns[name]

    @cached_property
    def _outcomes(self) -> np.ndarray | None:
        outcomes = [part._outcomes for part in self.parts]
        if any(known is None for known in outcomes):
            return None
        return _frozen(np.concatenate([known for known in outcomes if known is not None]))

    @property
    def success(self) -> np.ndarray:
        """Bool (E,), explicit outcome of every episode."""
        return _frozen(np.concatenate([part.success for part in self.parts]))

    def frames(self, index: Any) -> np.ndarray:
        """Decoded frames; see `Dataset.frames`."""
        index = self._checked_index(index)
        flat = index.reshape(-1)
        result = np.empty((len(flat), *self._frame_shape), np.uint8)
        owner = np.searchsorted(self._offsets, flat, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            result[mine] = self.parts[number].frames(flat[mine] - self._offsets[number])
        return result.reshape(*index.shape, *self._frame_shape)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode all frames of all parts now, unless their caches exist."""
        report = progress or self._progress
        total = self.num_frames * len(self.spec.cameras)
        for part, offset in zip(self.parts, self._offsets, strict=False):
            before = int(offset) * len(self.spec.cameras)
            part.prepare(None if report is None else partial(_report, report, before, total))

    @property
    def _cache_key(self) -> str:
        return fingerprint([part._cache_key for part in self.parts])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_progress": None}


def _report(report: Progress, before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _stamp(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except OSError:
        return []  # decoding says that it is missing
    return [facts.st_size, facts.st_mtime_ns]


def _renumbered(index: np.ndarray, numbers: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(max(numbers) + 1, np.int64)
    for old, new in numbers.items():
        table[old] = new
    return table[index]


def _to_numpy(column: Any, where: str) -> np.ndarray:
    """Rows of a parquet column, lists as further axes."""
    import pyarrow as pa

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if array.null_count:
        raise DatasetError(f"{where}: {array.null_count} of {len(array)} values are null")
    shape = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        rows = len(array)
        if not pa.types.is_fixed_size_list(array.type) and rows:
            sizes = np.diff(array.offsets.to_numpy())
            if sizes.min() != sizes.max():
                raise DatasetError(f"{where}: rows have between {sizes.min()} and {sizes.max()} values")
        array = array.flatten()
        shape.append(len(array) // rows if rows else 0)
    values = array.to_numpy(zero_copy_only=False)
    if values.dtype == object and pa.types.is_boolean(array.type):
        values = values.astype(bool)
    values = values.reshape(shape)
    return values[:, 0] if shape[1:] == [1] else values


def _join(parts: Iterable[np.ndarray], name: str, where: Any) -> np.ndarray:
    arrays = list(parts)
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise DatasetError(f"{where}: column {name!r} has different shapes in its files: {sorted(shapes)}")
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0].copy()


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


def _camera_names(keys: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        name = re.sub(r"\W+", "_", key.removeprefix("observation.images.").removeprefix("observation."))
        name = name if name.isidentifier() else f"camera_{name}"
        if name in names:
            raise DatasetError(
                f"the cameras {names[name]!r} and {key!r} would both be called {name!r}: give a TaskSpec"
            )
        names[name] = key
    return names


def _small_size(feature: Mapping[str, Any], longest: int = 64) -> tuple[int, int]:
    """Height and width of a camera, scaled down to at most `longest` pixels, then in multiples of 4."""
    shape = list(feature["shape"])
    names = [str(name) for name in feature.get("names") or ()]
    height, width = (shape[1], shape[2]) if names[:1] in (["channels"], ["channel"]) else (shape[0], shape[1])
    scale = longest / max(height, width)
    if scale >= 1:
        return int(height), int(width)
    return max(8, 4 * round(height * scale / 4)), max(8, 4 * round(width * scale / 4))
