"""One recorded episode in HDF5, as ALOHA, kai0's and AgileX's collectors write it.

* ALOHA and Piper: `observations/qpos`, `action`, `observations/images/<camera>`.
* kai0: the same without pictures, which are videos beside the file: `video/<camera>/<name of the file>.mp4`.
* AgileX: `arm/jointStatePosition/{puppet,master}{Left,Right}`, `camera/color/<camera>`: pictures, or paths of them.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.outcomes import parse_steps
from rise_env.data.placing import Piece
from rise_env.data.source import VideoSegment
from rise_env.data.video import decode_image, decode_video, resize, video_facts
from rise_env.errors import DatasetError, RiseError

__all__ = ["Episode", "Pictures", "open_episode"]

_STATES = ("observations/qpos", "observations/state", "observation/state", "observation/qpos", "qpos", "state")
_ACTIONS = ("action", "actions")
_ARMS, _STATE_ARMS, _ACTION_ARMS = "arm/jointStatePosition", "puppet", "master"
_IMAGES = ("observations/images", "camera/color", "observation/images", "images")
_OUTCOMES = ("success", "episode_success", "is_success")
_COLOURS = ("color", "rgb", "image", "images", "data", "frames")
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM")
#: Bounds of what can be meant, so that nothing is asked of the memory before something has been seen.
_MOST_STEPS, _MOST_PIXELS, _MOST_BYTES = 10**7, 1 << 14, 1 << 28


class Pictures:
    """The pictures of one camera.

    Args:
        node: HDF5 dataset, or None.
        video: Video file in place of it.
        where: What messages name.
        folder: Directory that paths in the dataset are relative to.
    """

    def __init__(self, node: Any, video: Path | None, where: str, folder: Path) -> None:
        self.node, self.video, self.where, self._folder = node, video, where, folder
        if video is not None:
            self.length, self.size = video_facts(video)
            return
        self.length = int(node.shape[0]) if node.shape else 0
        self._axes = self._raw_axes()
        if self._axes is not None:
            self.size = (int(node.shape[self._axes[1]]), int(node.shape[self._axes[2]]))
        elif node.ndim == 1 or (node.ndim == 2 and node.dtype == np.uint8 and node.shape[1] <= _MOST_BYTES):
            self.size = self._first_size()
        else:
            self._refuse()
        if max(self.size) > _MOST_PIXELS:
            self._refuse()

    def _refuse(self) -> None:
        raise DatasetError(
            f"{self.where} is {self.node.dtype} {self.node.shape}, expected uint8 (steps, height, width, 3) or "
            "(steps, 3, height, width), one compressed image, or one path of an image, per step. If it is no colour "
            "camera, name those that are: --camera NAME=KEY"
        )

    def _raw_axes(self) -> tuple[int, ...] | None:
        """Axes of a raw array in the order step, height, width, channel; None where it is none."""
        if self.node.ndim != 4 or self.node.dtype != np.uint8:
            return None
        return (0, 1, 2, 3) if self.node.shape[3] == 3 else (0, 2, 3, 1) if self.node.shape[1] == 3 else None

    def _first_size(self) -> tuple[int, int]:
        from PIL import Image

        if not self.length:
            raise DatasetError(f"{self.where} is empty")
        try:
            with Image.open(io.BytesIO(self._content(0))) as image:
                return image.height, image.width
        except (OSError, ValueError, TypeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{self.where} is neither raw images nor readable JPEG: {error}") from error

    def _content(self, step: int) -> bytes:
        """The compressed image of a step."""
        value = self.node[step]
        if isinstance(value, str):
            content = value.encode()
        elif isinstance(value, bytes | np.void):
            content = bytes(value)
        else:
            content = np.asarray(value, np.uint8).tobytes()
        if content.startswith(_MAGIC) or not isinstance(value, str | bytes):
            return content
        try:
            path = self._folder / content.decode()
            return path.read_bytes()
        except (OSError, ValueError) as error:
            problem = f"{content!r:.80} is neither an image nor the path of one"
            raise DatasetError(f"{self.where}, step {step}: {problem}: {error}") from None

    def frames(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """The pictures in order, uint8 (H, W, 3), resized; DatasetError where one is damaged or of another size."""
        if self.video is not None:
            piece = Piece(0, VideoSegment(self.video, 0.0, True), self.length, 0, 0)
            for _, image in decode_video(self.video, [piece], None, size, self.size):
                yield image
            return
        for step in range(self.length):
            if self._axes is not None:
                yield resize(self.node[step].transpose(*(axis - 1 for axis in self._axes[1:])), size)
            else:
                where = f"{self.where}, step {step}"
                yield decode_image(self._content(step), size, where, self.size, said_by="the first one")


class Episode:
    """One episode; made by `open_episode`.

    Attributes:
        state: float32 (T, D), as recorded.
        action: float32 (T, D).
        cameras: Names of the cameras it has.
    """

    def __init__(self, file: Any, path: Path, keys: Mapping[str, str]) -> None:
        self._file, self.path = file, path
        folders = [file[name] for name in _IMAGES if name in file]
        self._folders = [folder for folder in folders if hasattr(folder, "keys") and len(folder)]
        self.state_key, states = self._vectors(keys.get("state"), _STATES, _STATE_ARMS, "state")
        self.action_key, actions = self._vectors(keys.get("action"), _ACTIONS, _ACTION_ARMS, "action")
        lengths = {node.name: node.shape[0] for node in (*states, *actions)}
        self._agree(lengths)
        self.state, self.action = (self._joined(nodes) for nodes in (states, actions))

    def _vectors(self, given: str | None, known: Sequence[str], arms: str, option: str) -> tuple[str, list[Any]]:
        """Key, and the datasets that it stands for, side by side."""
        names = given.split(",") if given else [name for name in known if name in self._file][:1]
        if not names and _ARMS in self._file and hasattr(self._file[_ARMS], "keys"):
            # Left before right, as the layouts name them.
            names = [f"{_ARMS}/{name}" for name in sorted(self._file[_ARMS]) if name.startswith(arms)]
        if not names:
            expected = " or ".join(map(repr, (known[0], f"{_ARMS}/{arms}...")))
            raise DatasetError(
                f"{self.path} has no {expected}. It has: {self._contents()}. Name it with --{option}-key."
            )
        nodes = [self._dataset(name) for name in names]
        for node in nodes:
            if node.ndim not in (1, 2) or node.dtype.kind not in "fiu" or not 1 <= node.shape[0] <= _MOST_STEPS:
                expected = f"numbers (steps, joints), 1 to {_MOST_STEPS} steps"
                raise DatasetError(f"{self.path}: {node.name} is {node.dtype} {node.shape}, expected {expected}")
        return ",".join(names), nodes

    def _joined(self, nodes: list[Any]) -> np.ndarray:
        if sum(node.shape[1] if node.ndim == 2 else 1 for node in nodes) > 4096:
            raise DatasetError(f"{self.path}: {nodes[0].name} has {nodes[0].shape[1]} values per step, at most 4096")
        with np.errstate(over="ignore"):
            return np.concatenate([node[:].reshape(len(node), -1).astype(np.float32) for node in nodes], 1)

    def _agree(self, lengths: Mapping[str, int]) -> None:
        if len(set(lengths.values())) > 1:
            facts = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise DatasetError(f"{self.path}: the streams have different numbers of steps: {facts}")

    def _contents(self) -> str:
        names: list[str] = []
        self._file.visit(names.append)
        return ", ".join(names[:40]) + (", ..." if len(names) > 40 else "") if names else "nothing"

    def _dataset(self, name: str) -> Any:
        if name not in self._file:
            raise DatasetError(f"{self.path} has no {name!r}. It has: {self._contents()}.")
        node = self._file[name]
        if not hasattr(node, "shape") or node.shape is None:
            raise DatasetError(f"{self.path}: {name!r} is a group or empty, expected a dataset")
        return node

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, those in the file or else those of videos beside it."""
        if self._folders:
            return sorted(self._folders[0])
        return sorted(path.parent.name for path in self.path.parent.glob(f"video*/*/{self.path.stem}.mp4"))

    def pictures(self, camera: str) -> Pictures:
        """The pictures of a camera, which may also be given as a path in the file."""
        for name in (camera, *(f"{folder.name}/{camera}" for folder in self._folders)):
            if name in self._file:
                node = self._colour(self._file[name], name)
                pictures = Pictures(node, None, f"{self.path}, {node.name}", self.path.parent)
                break
        else:
            places = [self.path.parent / folder / camera / f"{self.path.stem}.mp4" for folder in ("video", "videos")]
            video = next((path for path in places if path.is_file()), None)
            if video is None:
                known = ", ".join(self.cameras) or "(none)"
                beside = f"There is no video {places[0]} either."
                raise DatasetError(f"{self.path} has no camera {camera!r}. Its cameras: {known}. {beside}")
            pictures = Pictures(None, video, f"{video}", self.path.parent)
        self._agree({self.state_key: len(self.state), pictures.where: pictures.length})
        return pictures

    def _colour(self, node: Any, name: str) -> Any:
        """The dataset of pictures; in a group, the one that holds colours."""
        if not hasattr(node, "keys"):
            return self._dataset(name)
        datasets = [key for key in node if hasattr(node.get(key), "shape")]
        named = [key for key in datasets if key.lower() in _COLOURS]
        chosen = named if len(named) == 1 else datasets
        if len(chosen) != 1:
            raise DatasetError(
                f"{self.path}: camera {name!r} is a group with {', '.join(node) or 'nothing in it'}. Name the one with "
                f"colour pictures: --camera NAME={name}/..."
            )
        return node[chosen[0]]

    @property
    def outcome(self) -> bool | None:
        """Its outcome, from the attribute or dataset `success`, one value or one a step (see
        `rise_env.data.outcomes.parse_steps`); None where there is none.
        """
        for name in _OUTCOMES:
            if name in self._file.attrs:
                return parse_steps(self._file.attrs[name], f"{self.path}, attribute {name!r}")
            if name in self._file:
                return parse_steps(self._dataset(name)[()], f"{self.path}, {name!r}")
        return None


@contextlib.contextmanager
def open_episode(path: Path, keys: Mapping[str, str]) -> Iterator[Episode]:
    """Open an HDF5 file; `keys` may name the datasets of "state" and "action", several with commas between.

    Raises:
        DatasetError: If h5py is missing, or the file is damaged or not as described above; the message names both.
    """
    try:
        import h5py
    except ImportError:
        raise DatasetError("HDF5 needs h5py, which is not installed: pip install 'rise-robotics[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            yield Episode(file, path, keys)
    except RiseError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        # h5py's ways of saying that bytes are not what they should be; what the system refuses has a number.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise DatasetError(f"{path} cannot be read as HDF5: {error}") from error
