"""Start states: where imagined episodes begin, taken from recorded ones and memory-mapped from disk."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZIP_LZMA, ZipFile

import numpy as np

from rise_env.data.limits import check_limits
from rise_env.envs.arguments import option_of
from rise_env.errors import CheckpointError, ConfigError, LayoutError, check_known, requirement
from rise_env.files import atomic_directory, write_json
from rise_env.model_card import Card
from rise_env.pretrained import local_directory, read_config
from rise_env.publishing import START_FILES, Published, push_saved
from rise_env.tasks import TaskSpec

__all__ = ["FILTERS", "SPLITS", "StartBatch", "StartStates", "check_splits"]

SPLITS = ("train", "heldout")
#: What start states can be chosen by, environment by environment; `start_index` is the number of a row.
FILTERS = ("episode_index", "frame_index", "group", "start_index")
_VERSION = 1
_MANIFEST = "starts.json"
#: Kinds of numbers, as NumPy's `dtype.kind`.
_KINDS = {**dict.fromkeys(("states", "actions"), "f"), "split": "U",
          **dict.fromkeys(("episode_index", "frame_index", "prompt_index", "success", "group"), "iu")}  # fmt: skip
_COLUMNS = ("states", "episode_index", "frame_index", "prompt_index", "split", "success", "group")


@dataclass(frozen=True)
class StartBatch:
    """Some start states, copied into memory.

    Attributes:
        frames: uint8 (n, T, V, H, W, 3), oldest first.
        states: float32 (n, T, D).
        prompts: One instruction each.
        episode_index: int64 (n,).
        frame_index: int64 (n,), of the current frame.
    """

    frames: np.ndarray
    states: np.ndarray
    prompts: tuple[str, ...]
    episode_index: np.ndarray
    frame_index: np.ndarray


@dataclass(eq=False)
class StartStates:
    """M recorded states, each with the history that a dynamics model needs.

    Attributes:
        frames: uint8 (M, T, V, H, W, 3): T history frames, `stride` control steps apart, the current one last; views in
            the order of `TaskSpec.cameras`.
        states: float32 (M, T, D), rad and m.
        episode_index: int64 (M,).
        frame_index: int64 (M,), of the current frame in its episode.
        prompts: Distinct instructions.
        prompt_index: int64 (M,), into `prompts`.
        split: str (M,), "train" or "heldout".
        success: int8 (M,): 1 where the episode succeeded, 0 where it failed, -1 where that is unknown.
        group: int64 (M,): states with the same number are of the same scene.
        actions: float32 (M, chunk, D), what was commanded from here on, or None.
        about: Metadata: cameras, joint names, chunk, stride and further JSON values.

    Raises:
        ConfigError: If the arrays do not fit together.
    """

    frames: np.ndarray
    states: np.ndarray
    episode_index: np.ndarray
    frame_index: np.ndarray
    prompts: tuple[str, ...]
    prompt_index: np.ndarray
    split: np.ndarray
    success: np.ndarray
    group: np.ndarray
    actions: np.ndarray | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require, frames = requirement("start states"), self.frames
        require(
            frames.ndim == 6 and frames.shape[-1] == 3 and frames.dtype == np.uint8,
            f"frames are {frames.dtype} {frames.shape}, expected uint8 (M, T, V, H, W, 3)",
        )
        count = len(frames)
        require(count, "there are none")
        require(all(isinstance(prompt, str) for prompt in self.prompts), f"prompts are {self.prompts!r:.80}")
        fits = self.states.ndim == 3 and self.states.shape[:2] == frames.shape[:2]
        require(fits, f"states have shape {self.states.shape}, expected {(*frames.shape[:2], 'D')}")
        for name in _COLUMNS[1:]:
            shape = getattr(self, name).shape
            require(shape == (count,), f"{name} has shape {shape}, expected {(count,)}")
        for name, kinds in _KINDS.items():
            array = getattr(self, name)
            if array is not None:
                require(array.dtype.kind in kinds, f"{name} holds {array.dtype}")
                require(kinds != "f" or np.isfinite(array).all(), f"{name} holds NaN or infinity")
        if self.actions is not None:
            shape = self.actions.shape
            fits = len(shape) == 3 and (shape[0], shape[-1]) == (count, self.states.shape[-1])
            require(fits, f"actions have shape {self.actions.shape}, expected {(count, 'chunk', 'D')}")
        check_splits(self.split.tolist())
        low, high, known = self.prompt_index.min(), self.prompt_index.max(), len(self.prompts)
        require(low >= 0 and high < known, f"prompt_index runs from {low} to {high}, but there are {known} prompts")
        self._rows: dict[tuple[Any, ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def rows(
        self,
        split: str | None = None,
        episode_index: int | None = None,
        frame_index: int | None = None,
        group: int | None = None,
        start_index: int | None = None,
    ) -> np.ndarray:
        """Rows that match, rising, int64 (n,); None matches everything.

        Raises:
            ConfigError: If nothing matches; the message lists what there is.
        """
        key = (split, episode_index, frame_index, group, start_index)
        if key not in self._rows:
            wanted = {name: one for name, one in zip(("split", *FILTERS), key, strict=True) if one is not None}
            chosen = np.ones(len(self), bool)
            for name, value in wanted.items():
                column = np.arange(len(self)) if name == "start_index" else getattr(self, name)
                found = chosen & (column == value)
                if not found.any():
                    there = ", ".join(str(item) for item in np.unique(column[chosen])[:20])
                    others = [f"{other} {kept!r}" for other, kept in wanted.items() if other != name]
                    among = f" and {', '.join(others)}" if others else ""
                    raise ConfigError(f"no start state has {name} {value!r}{among}; with the rest there are {there}")
                chosen = found
            if len(self._rows) > 4096:
                self._rows.clear()
            self._rows[key] = np.flatnonzero(chosen)
        return self._rows[key]

    def sample(
        self,
        generators: Sequence[np.random.Generator],
        *,
        positions: Sequence[int] | np.ndarray | None = None,
        split: str | Sequence[str | None] | None = None,
        group_size: int = 1,
        **filters: Any,
    ) -> np.ndarray:
        """Draw one row per environment; environment i draws once, from generator i alone.

        Args:
            generators: One generator per environment.
            positions: Numbers of these environments, rising, where they are only some of a batch; they decide on
                groups.
            split: "train", "heldout" or None for both; one for all, or one per environment.
            group_size: Environments k * group_size .. (k + 1) * group_size - 1 share the start of the first of them.
            **filters: By a name of `FILTERS`, what to choose: one number, or one (or None) per environment.

        Returns:
            int64 (n,).

        Raises:
            ConfigError: If nothing matches, or an argument does not fit.
        """
        count = len(generators)
        places = np.arange(count) if positions is None else np.asarray(positions)
        requirement("start states").whole(1, group_size=group_size)
        splits = [split] * count if split is None or isinstance(split, str) else split
        given = {name: option_of(name, value, range(count), count) for name, value in filters.items()}
        columns = {"split": splits, **given}
        wanted = [dict(zip(columns, one, strict=True)) for one in zip(*columns.values(), strict=True)]
        candidates = [self.rows(**one) for one in wanted]
        first: dict[int, int] = {}
        firsts = [first.setdefault(int(place) // group_size, i) for i, place in enumerate(places)]
        for i, one in enumerate(firsts):
            if wanted[one] != wanted[i]:
                raise ConfigError(f"environments {places[one]} and {places[i]} share a start (group_size "
                                  f"{group_size}) but ask for different ones")  # fmt: skip
        # All checks are done: an error must not advance the generators.
        pairs = zip(candidates, generators, strict=True)
        drawn = np.array([rows[generator.integers(len(rows))] for rows, generator in pairs], np.int64)
        return drawn[firsts]

    def batch(self, index: np.ndarray | Sequence[int]) -> StartBatch:
        """Copy rows into memory."""
        index = np.asarray(index, np.int64)
        return StartBatch(
            np.ascontiguousarray(self.frames[index]),
            np.ascontiguousarray(self.states[index]),
            tuple(self.prompts[self.prompt_index[i]] for i in index),
            self.episode_index[index],
            self.frame_index[index],
        )

    def check(self, spec: TaskSpec) -> None:
        """Compare with a task.

        Raises:
            LayoutError: If the joints differ.
            ConfigError: If history, cameras, image size, chunk or stride differ.
            DatasetError: If no joint can be where it is said to be, as in other units.
        """
        names = tuple(self.about.get("joints", spec.layout.names))
        if names != spec.layout.names or self.states.shape[-1] != spec.layout.dim:
            raise LayoutError(
                f"start states have {self.states.shape[-1]} joints: {', '.join(names)};\n"
                f"the task has {spec.layout.dim}: {', '.join(spec.layout.names)}"
            )
        ours = {**_about(spec), "shape": (spec.history, len(spec.cameras), *spec.image_size, 3)}
        theirs = {**ours, **self.about, "shape": self.frames.shape[1:]}
        if self.actions is not None:
            theirs["chunk"] = self.actions.shape[1]
        for key, value in ours.items():
            if theirs[key] != value:
                raise ConfigError(f"start states have {key} {theirs[key]}, the task {spec.name!r} has {value}. "
                                  "Build the start states for this task.")  # fmt: skip
        for name, values in {"states": self.states, "actions": self.actions}.items():
            if values is not None:
                length = values.shape[1]
                rows, where = values.reshape(-1, spec.layout.dim), f"start states, {name}, row"
                check_limits(rows, spec.layout, lambda row, at=where, by=length: f"{at} {row // by}")  # type: ignore[misc]

    def save(self, path: str | Path, *, compress: bool = False) -> None:
        """Write a directory of .npy files and `starts.json`.

        Args:
            path: Directory to make or replace.
            compress: Store the frames compressed (a tenth of the size for rendered pictures); they are then read
                into memory on loading instead of being mapped.
        """
        manifest = {"format_version": _VERSION, "compressed": compress, "about": self.about}
        manifest |= {"count": len(self), "shape": list(self.frames.shape), "prompts": list(self.prompts)}
        with atomic_directory(path, _MANIFEST) as aside:
            if compress:
                # LZMA, which NumPy reads and does not write: half of the size of `savez_compressed`.
                with (
                    ZipFile(aside / "frames.npz", "w", ZIP_LZMA) as archive,
                    archive.open("frames.npy", "w", force_zip64=True) as file,
                ):
                    np.lib.format.write_array(file, self.frames, allow_pickle=False)
            else:
                np.save(aside / "frames.npy", self.frames, allow_pickle=False)
            for name in _COLUMNS:
                np.save(aside / f"{name}.npy", getattr(self, name), allow_pickle=False)
            if self.actions is not None:
                np.save(aside / "actions.npy", self.actions, allow_pickle=False)
            write_json(aside / _MANIFEST, manifest)

    def push_to_hub(self, repo: str, *, private: bool = False) -> Published:
        """Upload to the Hugging Face Hub; arguments and errors as of `PretrainedMixin.push_to_hub`."""
        return push_saved(lambda folder: self.save(folder, compress=True), repo, Card("start states"), private=private)

    @classmethod
    def load(cls, path: str | Path) -> StartStates:
        """Read what `save` wrote; arrays are memory-mapped.

        Args:
            path: Directory, or repository on the Hugging Face Hub (`owner/name`, `owner/name@revision`).

        Raises:
            CheckpointError: If the directory is no such thing, or a file in it is missing, cut short or damaged.
        """
        path = local_directory(path, "start states", START_FILES, (_MANIFEST,))
        manifest = read_config(path, "start states", _VERSION, name=_MANIFEST)
        try:
            compressed, prompts, about = manifest["compressed"], tuple(manifest["prompts"]), dict(manifest["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path / _MANIFEST} is damaged: {error!r}. Build the start states again.") from error
        columns = {name: _read(path / f"{name}.npy") for name in _COLUMNS}
        frames = _read(path / ("frames.npz" if compressed else "frames.npy"))
        actions = _read(path / "actions.npy") if (path / "actions.npy").is_file() else None
        try:
            return cls(frames=frames, actions=actions, prompts=prompts, about=about, **columns)
        except ConfigError as error:
            raise CheckpointError(f"{path} is damaged: {error}. Build the start states again.") from error

    @classmethod
    def build(
        cls,
        spec: TaskSpec,
        frames: np.ndarray,
        states: np.ndarray,
        *,
        episode_index: Sequence[int] | np.ndarray | None = None,
        frame_index: Sequence[int] | np.ndarray | None = None,
        prompts: Sequence[str] | None = None,
        split: Sequence[str] | np.ndarray | str = "train",
        success: Sequence[int] | np.ndarray | int = -1,
        group: Sequence[int] | np.ndarray | None = None,
        actions: np.ndarray | None = None,
        **about: Any,
    ) -> StartStates:
        """Start states from arrays, with one prompt per state; what is not given is filled in.

        Args:
            spec: Task.
            frames: uint8 (M, T, V, H, W, 3).
            states: float32 (M, T, D).
            episode_index: (M,); 0, 1, ... by default.
            frame_index: (M,); 0 by default.
            prompts: One per state; the task's by default.
            split: One per state, or one for all.
            success: One per state, or one for all.
            group: (M,); the episode by default.
            actions: float32 (M, chunk, D), optional.
            **about: Further entries of `about`, JSON values.
        """
        count = len(frames)
        episodes = np.arange(count) if episode_index is None else np.asarray(episode_index)
        texts = [spec.prompt] * count if prompts is None else list(prompts)
        distinct = tuple(dict.fromkeys(texts))
        starts = cls(
            frames=np.asarray(frames),
            states=np.asarray(states, np.float32),
            episode_index=episodes.astype(np.int64),
            frame_index=np.zeros(count, np.int64) if frame_index is None else np.asarray(frame_index, np.int64),
            prompts=distinct,
            prompt_index=np.array([distinct.index(text) for text in texts], np.int64),
            split=np.full(count, split) if isinstance(split, str) else np.asarray(split, str),
            success=np.full(count, success, np.int8) if isinstance(success, int) else np.asarray(success, np.int8),
            group=episodes.astype(np.int64) if group is None else np.asarray(group, np.int64),
            actions=None if actions is None else np.asarray(actions, np.float32),
            about={**_about(spec), **about},
        )
        starts.check(spec)
        return starts


def check_splits(names: Iterable[str]) -> None:
    """Raise a ConfigError unless all names are among `SPLITS`."""
    for name in sorted(set(names)):
        check_known("split", name, SPLITS)


def _about(spec: TaskSpec) -> dict[str, Any]:
    names = {"cameras": list(spec.cameras), "joints": list(spec.layout.names)}
    return {**names, "chunk": spec.chunk, "stride": spec.stride}


def _read(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return archive["frames"]
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind == "U" and (array.ravel().view(f"{array.dtype.byteorder}u4") > sys.maxunicode).any():
            raise ValueError("it holds what is no text")
        return array
    except FileNotFoundError:
        raise CheckpointError(f"start states lack {path}. Build them again.") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise CheckpointError(f"{path} is cut short or damaged: {error}. Build the start states again.") from error
