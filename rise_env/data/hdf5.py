"""ALOHA and Piper episodes in HDF5 to a LeRobot v3.0 dataset.

One file is one episode: `observations/qpos` and `action` (T, D), `observations/images/<camera>` as raw uint8
(T, H, W, 3) or as one JPEG (or PNG) per step, padded with zeros or of variable length.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.video import decode_image, resize, video_encoder
from rise_env.errors import ConfigError, DatasetError
from rise_env.tasks import TaskSpec, load_layout, load_task

__all__ = ["convert_hdf5", "hdf5_spec"]


def convert_hdf5(
    inputs: Sequence[str | Path],
    out: str | Path,
    spec: TaskSpec,
    *,
    sources: dict[str, str] | None = None,
    colors: str = "rgb",
    success: bool | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> int:
    """Convert episodes.

    Args:
        inputs: HDF5 files, one episode each, in this order; a directory stands for its `*.hdf5` and `*.h5`, sorted.
        out: Directory of the dataset; must not exist, and appears when all episodes are in it.
        spec: Cameras, image size, joint layout, frame rate and instruction of the dataset.
        sources: Camera name to its name in the files, where they differ.
        colors: "rgb" or "bgr": order of the channels in raw images, or as decoded from the files (a camera driver that
            swaps channels writes "bgr").
        success: Outcome of all episodes, written as `episode_success`. When omitted, the attribute `success` of the
            files; if they have none, the dataset has no such column.
        on_episode: Called with (episodes done, in all).

    Returns:
        Number of frames.

    Raises:
        DatasetError: If h5py is missing, or a file is not as described above; the message names file and key.
    """
    if colors not in ("rgb", "bgr"):
        raise DatasetError(f"colors is {colors!r}, expected 'rgb' or 'bgr'")
    out = Path(out)
    if out.exists():
        raise DatasetError(f"{out} exists already. Give a directory that does not.")
    files = _files(inputs)
    names = {camera: (sources or {}).get(camera, camera) for camera in spec.cameras}
    outcomes = [_inspect(path, spec, names, success) for path in files]
    if None in outcomes and set(outcomes) != {None}:
        raise DatasetError(
            f"{files[outcomes.index(None)]} has no attribute 'success', though other files have. "
            "Label all of them, or give one outcome for all (--success or --failure)."
        )
    aside = out.resolve().with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        dataset, frames = _create(aside, spec, outcomes[0] is not None), 0
        for done, (path, outcome) in enumerate(zip(files, outcomes, strict=True), 1):
            frames += _write(dataset, path, spec, names, colors, outcome)
            if on_episode is not None:
                on_episode(done, len(files))
        dataset.finalize()
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return frames


def hdf5_spec(
    inputs: Sequence[str | Path],
    name: str,
    *,
    task: str | None = None,
    preset: str = "small",
    sources: dict[str, str] | None = None,
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
    found, size = _cameras(inputs)
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


def _cameras(inputs: Sequence[str | Path]) -> tuple[list[str], tuple[int, int]]:
    """Names of the cameras in the first episode, and height and width of the first one's images."""
    path = _files(inputs)[0]
    with _open(path) as file:
        images = _get(file, "observations/images", path)
        names = sorted(images)
        if not names:
            raise DatasetError(f"{path}: observations/images is empty")
        node = images[names[0]]
        if node.ndim == 4:
            return names, (int(node.shape[1]), int(node.shape[2]))
        from PIL import Image

        try:
            with Image.open(io.BytesIO(np.asarray(node[0], np.uint8).tobytes())) as image:
                return names, (image.height, image.width)
        except (OSError, ValueError, TypeError) as error:
            raise DatasetError(f"{path}: {node.name} is neither raw images nor readable JPEG: {error}") from error


def _create(root: Path, spec: TaskSpec, labelled: bool) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

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


def _write(dataset: Any, path: Path, spec: TaskSpec, names: dict[str, str], colors: str, outcome: bool | None) -> int:
    """Append an episode; its number of frames."""
    with _open(path) as file:
        state, action = (np.asarray(file[key], np.float32) for key in ("observations/qpos", "action"))
        cameras = {spec.cameras[c]: file[f"observations/images/{name}"] for c, name in names.items()}
        for step in range(len(state)):
            frame: dict[str, Any] = {"observation.state": state[step], "action": action[step], "task": spec.prompt}
            for key, node in cameras.items():
                if node.ndim == 4:
                    image = resize(node[step], spec.image_size)
                else:
                    content = np.asarray(node[step], np.uint8).tobytes()
                    image = decode_image(content, spec.image_size, f"{path}, {node.name}, step {step}")
                frame[key] = np.ascontiguousarray(image[..., ::-1] if colors == "bgr" else image)
            if outcome is not None:
                frame["episode_success"] = np.array([outcome])
            dataset.add_frame(frame)
        dataset.save_episode(parallel_encoding=False)
        return len(state)


def _inspect(path: Path, spec: TaskSpec, names: dict[str, str], success: bool | None) -> bool | None:
    """Check an episode before anything is written; its outcome, if it has one."""
    with _open(path) as file:
        lengths = {}
        for key in ("observations/qpos", "action"):
            node = _get(file, key, path)
            if node.ndim != 2 or node.shape[1] != spec.layout.dim or node.shape[0] < 1:
                raise DatasetError(
                    f"{path}: {key} has shape {node.shape}, expected (steps, {spec.layout.dim}): layout "
                    f"{spec.layout.name!r} ({', '.join(spec.layout.names)}). Choose another with --layout."
                )
            bad = np.argwhere(~np.isfinite(node[:]))
            if len(bad):
                step, joint = bad[0].tolist()
                raise DatasetError(f"{path}: {key} of {spec.layout.names[joint]!r} is not finite at step {step}")
            lengths[key] = node.shape[0]
        images = _get(file, "observations/images", path)
        for name in names.values():
            if name not in images:
                raise DatasetError(f"{path} has no camera {name!r}. Its cameras: {', '.join(images) or '(none)'}.")
            node = images[name]
            raw = node.ndim == 4 and node.shape[3] == 3 and node.dtype == np.uint8
            if not raw and node.ndim not in (1, 2):
                raise DatasetError(
                    f"{path}: {node.name} is {node.dtype} {node.shape}, expected uint8 (steps, H, W, 3) or one "
                    "compressed image per step"
                )
            lengths[node.name] = node.shape[0]
        if len(set(lengths.values())) > 1:
            facts = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise DatasetError(f"{path}: the streams have different numbers of steps: {facts}")
        if success is not None:
            return success
        return bool(file.attrs["success"]) if "success" in file.attrs else None


def _files(inputs: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for given in map(Path, inputs):
        if not given.exists():
            raise DatasetError(f"{given} does not exist")
        suffixes = (".hdf5", ".h5")
        found = sorted(path for path in given.iterdir() if path.suffix in suffixes) if given.is_dir() else [given]
        if not found:
            raise DatasetError(f"{given} holds no *.hdf5 or *.h5 file")
        files += found
    if not files:
        raise DatasetError("no HDF5 file is given")
    return files


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise DatasetError("HDF5 needs h5py, which is not installed: pip install 'rise-robotics[hdf5]'") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read as HDF5: {error}") from error
    with file:
        yield file


def _get(file: Any, key: str, path: Path) -> Any:
    if key not in file:
        names: list[str] = []
        file.visit(names.append)
        raise DatasetError(f"{path} has no {key!r}. It has: {', '.join(names) or 'nothing'}.")
    return file[key]
