"""ALOHA, kai0's and AgileX's episodes in HDF5 to a LeRobot v3.0 dataset; `hdf5_episode` describes the files."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.hdf5_episode import Episode, open_episode
from rise_env.data.limits import check_limits
from rise_env.data.video import video_encoder
from rise_env.errors import ConfigError, DatasetError, requirement
from rise_env.files import atomic_path
from rise_env.tasks import TaskSpec, load_layout, load_task

__all__ = ["convert_hdf5", "hdf5_spec", "inspect_episodes"]


def convert_hdf5(
    inputs: Sequence[str | Path],
    out: str | Path,
    spec: TaskSpec,
    *,
    sources: dict[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    colors: str = "rgb",
    success: bool | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> int:
    """Convert episodes.

    Args:
        inputs: HDF5 files, one episode each, in this order; a directory stands for its `*.hdf5` and `*.h5`, sorted,
            or for those of its folders.
        out: Directory of the dataset; must not exist, and appears when all episodes are in it.
        spec: Cameras, image size, joint layout, frame rate and instruction of the dataset.
        sources: Camera name to its name in the files, where they differ.
        keys: Datasets of "state" and of "action" in the files, where they have other names than those that are known;
            several side by side with commas between.
        colors: "rgb" or "bgr": order of the channels in raw images, or as decoded from the files (a camera driver that
            swaps channels writes "bgr").
        success: Outcome of all episodes, written as `episode_success`. When omitted, the attribute `success` of the
            files; if they have none, the dataset has no such column.
        on_episode: Called with (episodes done, in all).

    Returns:
        Number of frames.

    Raises:
        ConfigError: If `success` is no truth value.
        DatasetError: If h5py is missing, a file is not as `rise_env.data.hdf5_episode` describes it, or a joint value
            lies outside its limits; the message names file and key.
    """
    requirement("convert_hdf5").boolean(success=success)
    if colors not in ("rgb", "bgr"):
        raise DatasetError(f"colors is {colors!r}, expected 'rgb' or 'bgr'")
    out = Path(out)
    if out.exists():
        raise DatasetError(f"{out} exists already. Give a directory that does not.")
    files = _files(inputs)
    names = {camera: (sources or {}).get(camera, camera) for camera in spec.cameras}
    keys = keys or {}
    outcomes = inspect_episodes(files, spec, names, keys, success)
    if None in outcomes and set(outcomes) != {None}:
        raise DatasetError(
            f"{files[outcomes.index(None)]} has no attribute 'success', though other files have. "
            "Label all of them, or give one outcome for all (--success or --failure)."
        )
    with atomic_path(out) as aside:
        dataset, frames = _create(aside, spec, outcomes[0] is not None), 0
        for done, (path, outcome) in enumerate(zip(files, outcomes, strict=True), 1):
            try:
                with open_episode(path, keys) as episode:
                    frames += _write(dataset, episode, spec, names, colors, outcome)
            except _UnwrittenError as error:
                raise error.reason from None
            if on_episode is not None:
                on_episode(done, len(files))
        dataset.finalize()
    return frames


def hdf5_spec(
    inputs: Sequence[str | Path],
    name: str,
    *,
    task: str | None = None,
    preset: str = "small",
    sources: dict[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
    prompt: str | None = None,
    layout: str | None = None,
    fps: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> tuple[TaskSpec, dict[str, str]]:
    """Task of a dataset that is converted from HDF5 episodes, and the names of its cameras in the files.

    A task (name or YAML path) and its preset give everything not given here; without one, prompt, layout (name or YAML
    path) and fps (Hz) are required, and all cameras are taken under their own names where `sources` is omitted. The
    image size, when omitted, is that of the first camera in the first file.

    Raises:
        ConfigError: If something is missing, or a camera is not one of the task's.
        DatasetError: If the first file cannot be read.
    """
    path = _files(inputs)[0]
    with open_episode(path, keys or {}) as episode:
        names = list((sources or {}).values()) or episode.cameras
        if task and not sources:
            names = list(load_task(task, preset).cameras)
        if not names:
            raise DatasetError(f"{path} has no cameras: neither pictures in it nor videos beside it")
        sizes = {name: episode.pictures(name).size for name in names}
        found, size = episode.cameras, sizes[names[0]]
    if image_size is None and len(set(sizes.values())) > 1:
        told = ", ".join("{} {}x{}".format(name, *one) for name, one in sizes.items())
        warnings.warn(f"{path}: cameras differ in size ({told}): all are resized to {size[0]}x{size[1]}", stacklevel=2)
    given = {"prompt": prompt, "layout": load_layout(layout) if layout else None, "fps": fps}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    changes["image_size"] = image_size or size
    sources = sources or {}
    if task:
        spec = load_task(task, preset)
        if unknown := sorted(set(sources) - set(spec.cameras)):
            raise ConfigError(f"camera {unknown[0]!r}: task {spec.name!r} has the cameras {', '.join(spec.cameras)}")
        return dataclasses.replace(spec, **changes), sources
    if missing := [key for key, value in given.items() if value is None]:
        raise ConfigError(f"{', '.join(missing)} must be given, or a task that has them")
    sources = sources or {_identifier(camera): camera for camera in found}
    cameras = {camera: f"observation.images.{camera}" for camera in sources}
    changes |= {"chunk": 1, "stride": 1, "history": 1, "execute": 1, "max_seconds": 1.0}
    return TaskSpec(name=_identifier(name), cameras=cameras, **changes), sources


def _identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text).strip("_") or "dataset"
    return name if name.isidentifier() else f"_{name}"


def _create(root: Path, spec: TaskSpec, labelled: bool) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # It logs every picture that it can not write, and goes on; that they are missing is an error soon enough.
    logging.getLogger("lerobot.datasets.image_writer").setLevel(logging.CRITICAL)
    features: dict[str, dict[str, Any]] = {
        key: {"dtype": "video", "shape": (*spec.image_size, 3), "names": ["height", "width", "channels"]}
        for key in spec.cameras.values()
    }
    for key in ("observation.state", "action"):
        features[key] = {"dtype": "float32", "shape": (spec.layout.dim,), "names": list(spec.layout.names)}
    if labelled:
        features["episode_success"] = {"dtype": "bool", "shape": (1,), "names": None}
    return LeRobotDataset.create(
        repo_id=f"rise/{root.name.strip('.')}", fps=spec.fps, features=features, root=root,
        robot_type=spec.layout.name, video_backend="pyav", rgb_encoder=video_encoder(spec.image_size),
    )  # fmt: skip


def _write(dataset: Any, episode: Episode, spec: TaskSpec, names: dict[str, str], colors: str, outcome: Any) -> int:
    """Append an episode; its number of frames."""
    cameras = {spec.cameras[c]: episode.pictures(name).frames(spec.image_size) for c, name in names.items()}
    for state, action in zip(episode.state, episode.action, strict=True):
        frame: dict[str, Any] = {"observation.state": state, "action": action, "task": spec.prompt}
        for key, images in cameras.items():
            image = next(images)
            frame[key] = np.ascontiguousarray(image[..., ::-1] if colors == "bgr" else image)
        if outcome is not None:
            frame["episode_success"] = np.array([outcome])
        with _writing():
            dataset.add_frame(frame)
    with _writing():
        dataset.save_episode(parallel_encoding=False)
    return len(episode.state)


class _UnwrittenError(Exception):
    """The dataset could not be written, for some `reason`, while an episode was read that is not to blame."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _UnwrittenError(error) from error


def inspect_episodes(
    inputs: Sequence[str | Path],
    spec: TaskSpec,
    names: Mapping[str, str],
    keys: Mapping[str, str],
    success: bool | None,
) -> list[bool | None]:
    """Check episodes before anything is written; their outcomes. Arguments and errors are those of `convert_hdf5`."""
    outcomes = []
    for path in _files(inputs):
        with open_episode(path, keys) as episode:
            outcomes.append(_inspect(episode, spec, names, success))
    return outcomes


def _inspect(episode: Episode, spec: TaskSpec, names: Mapping[str, str], success: bool | None) -> bool | None:
    """Check an episode before anything is written; its outcome, if it has one."""
    path = episode.path
    for key, values in ((episode.state_key, episode.state), (episode.action_key, episode.action)):
        if values.shape[1] != spec.layout.dim:
            raise DatasetError(
                f"{path}: {key} has shape {values.shape}, expected (steps, {spec.layout.dim}): layout "
                f"{spec.layout.name!r} ({', '.join(spec.layout.names)}). Choose another with --layout."
            )
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            step, joint = bad[0].tolist()
            raise DatasetError(f"{path}: {key} of {spec.layout.names[joint]!r} is not finite at step {step}")
        check_limits(values, spec.layout, lambda step, key=key: f"{path}, step {step}: {key}")  # type: ignore[misc]
    for name in names.values():
        episode.pictures(name)
    return episode.outcome if success is None else success


def _files(inputs: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for given in map(Path, inputs):
        if not given.exists():
            raise DatasetError(f"{given} does not exist")
        suffixes = (".hdf5", ".h5")
        found = [given]
        if given.is_dir():  # AgileX's have a folder each
            found = sorted(path for path in given.iterdir() if path.suffix in suffixes)
            found = found or sorted(path for path in given.glob("*/*") if path.suffix in suffixes)
        if not found:
            raise DatasetError(f"{given} holds no *.hdf5 or *.h5 file")
        files += found
    if not files:
        raise DatasetError("no HDF5 file is given")
    return files
