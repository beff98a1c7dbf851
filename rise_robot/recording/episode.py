"""One episode while it is being recorded: in the end a small, complete LeRobot v3.0 dataset of its own."""

from __future__ import annotations

import numbers
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rise_env.tasks import TaskSpec
from rise_robot.recording.append import video_frames
from rise_robot.recording.records import EpisodeRecord, RecordingError, write_episode_records
from rise_robot.recording.video_writer import BackgroundVideoWriter, VideoWriter

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig

__all__ = ["EncodingError", "EpisodeFormat", "OpenEpisode"]

#: What a video encoder, or a full disk, fails with.
_FAILURES = (RuntimeError, OSError, ValueError, av.FFmpegError)

_LABELS = {"episode_success": "bool", "is_intervention": "bool", "progress": "float32", "subgoal": "float32"}


class EncodingError(RecordingError):
    """An episode is lost because it could not be written."""


class EpisodeFormat:
    """What all episodes of a dataset have in common.

    Args:
        spec: The task.
        encoder: Video encoder settings.
        background: Whether videos are encoded in threads beside, one per camera.
    """

    def __init__(self, spec: TaskSpec, encoder: RGBEncoderConfig, background: bool) -> None:
        self.spec, self.encoder, self.background = spec, encoder, background
        #: What LeRobot calls the user's features.
        self.features = _features(spec)
        #: What LeRobot notes about the videos in `info.json`, by feature; filled by the first episode.
        self.video_info: dict[str, dict[str, Any]] = {}

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of the frame table, with the note that lets the library `datasets` read it."""
        from lerobot.datasets.feature_utils import get_hf_features_from_features
        from lerobot.utils.constants import DEFAULT_FEATURES

        return get_hf_features_from_features({**self.features, **DEFAULT_FEATURES}).arrow_schema


class OpenEpisode:
    """Records one episode; pictures go to the video encoders as they come.

    Args:
        root: Directory of the episode's dataset; must not exist yet.
        form: What it has in common with the others.

    Attributes:
        length: Frames so far.
    """

    def __init__(self, root: Path, form: EpisodeFormat) -> None:
        from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

        spec = form.spec
        self.root, self._form, self.length, self._interventions = root, form, 0, 0
        self._meta = LeRobotDatasetMetadata.create(
            f"rise/{root.name}", spec.fps, form.features, robot_type=spec.layout.name, root=root
        )
        make = BackgroundVideoWriter if form.background else VideoWriter
        self._videos = {
            camera: make(root / self._meta.video_path.format(video_key=key, chunk_index=0, file_index=0),
                         spec.fps, form.encoder)
            for camera, key in spec.cameras.items()
        }  # fmt: skip
        self._columns: dict[str, list[Any]] = {"observation.state": [], "action": []}
        self._columns |= {key: [] for key in _LABELS if key != "episode_success"}  # known only at the end

    def add_frame(
        self,
        *,
        images: Mapping[str, np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        is_intervention: bool = False,
        progress: float,
        subgoal: float,
    ) -> None:
        """Append one control step; see `EpisodeRecorder.add_frame`.

        Raises:
            EncodingError: If a video encoder failed; the episode is of no use then.
            RecordingError: If an argument is not as described there; the frame is not recorded.
        """
        self._check_images(images)
        row: dict[str, Any] = {
            "observation.state": self._checked_vector("state", state),
            "action": self._checked_vector("action", action),
            "is_intervention": _checked_flag("is_intervention", is_intervention),
            "progress": np.float32(_checked_score("progress", progress, 1.0)),
            "subgoal": np.float32(_checked_score("subgoal", subgoal, 10.0)),
        }
        try:
            for camera, video in self._videos.items():
                video.add(images[camera])
        except _FAILURES as error:
            raise self._lost("a video encoder failed", error) from error
        for key, value in row.items():
            self._columns[key].append(value)
        self.length += 1
        self._interventions += row["is_intervention"]

    def finish(self, *, success: bool, failure_mode: str, seed: int, operator: str) -> None:
        """Complete the dataset; the arguments are those of `EpisodeRecord`.

        Raises:
            EncodingError: If it could not be written; the episode is of no use then.
            RecordingError: If an argument has the wrong type or the episode has fewer than two frames; it stays open.
        """
        success = _checked_flag("success", success)
        _expect("failure_mode", failure_mode, isinstance(failure_mode, str), "a string")
        _expect("operator", operator, isinstance(operator, str), "a string")
        number: Any = seed
        whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
        _expect("seed", seed, whole and -(2**63) <= int(seed) < 2**63, "a 64-bit integer")
        if self.length < 2:
            raise RecordingError(
                f"the current episode has {self.length} frames, expected at least 2 (an image and what followed). "
                "Call add_frame first, or discard_episode."
            )
        try:
            self._save(success)
            record = EpisodeRecord(0, self.length, success, failure_mode, int(seed), operator, self._interventions)
            write_episode_records(self.root, [record])
        except _FAILURES as error:
            raise self._lost("a video could not be encoded", error) from error

    def _lost(self, what: str, error: Exception) -> EncodingError:
        return EncodingError(
            f"{what}: {error}. This episode is lost, those before it are safe. Check disk space and the encoder "
            f"settings ({self._form.encoder})."
        )

    def _save(self, success: bool) -> None:
        stats = self._save_frames(success)
        places: dict[str, float] = {}
        for camera, key in self._form.spec.cameras.items():
            video = self._videos[camera]
            stats[key] = video.finish()
            if (found := video_frames(video.path)) != self.length:
                raise RuntimeError(f"the encoder wrote {found} of {self.length} frames to {video.path.name}")
            places |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            places |= {f"videos/{key}/from_timestamp": 0.0}
            places |= {f"videos/{key}/to_timestamp": self.length / self._form.spec.fps}
            if key not in self._form.video_info:
                self._meta.update_video_info(key, self._form.encoder)
                self._form.video_info[key] = self._meta.info.features[key]["info"]
            self._meta.info.features[key]["info"] = self._form.video_info[key]
        where = {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": 0, "dataset_to_index": self.length}
        self._meta.save_episode(0, self.length, [self._form.spec.prompt], stats, {**where, **places})
        self._meta.finalize()

    def _save_frames(self, success: bool) -> dict[str, dict[str, np.ndarray]]:
        """Write the frame table; gives the statistics of its columns."""
        from lerobot.datasets.compute_stats import compute_episode_stats

        length, schema = self.length, self._form.schema
        whole = np.zeros(length, np.int64)
        # Of shape (n, 1), LeRobot keeps numbers in place of vectors: a robot of one joint.
        columns = {key: np.stack(values).squeeze() for key, values in self._columns.items()}
        columns |= {"episode_success": np.full(length, success), "episode_index": whole, "task_index": whole}
        columns |= {"frame_index": np.arange(length), "index": np.arange(length)}
        columns["timestamp"] = np.arange(length) / self._form.spec.fps
        arrays = [pa.array(columns[field.name].tolist(), field.type) for field in schema]
        self._meta.save_episode_tasks([self._form.spec.prompt])
        path = self.root / self._meta.data_path.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
        return compute_episode_stats({field.name: columns[field.name] for field in schema}, self._meta.features)

    def discard(self) -> None:
        """Forget the episode."""
        for video in self._videos.values():
            video.discard()
        self._meta.finalize()
        shutil.rmtree(self.root)

    def _check_images(self, images: Any) -> None:
        spec = self._form.spec
        if not isinstance(images, Mapping) or set(images) != set(spec.cameras):
            given = sorted(images) if isinstance(images, Mapping) else type(images).__name__
            raise RecordingError(
                f"images has {given}, task {spec.name!r} has the cameras {sorted(spec.cameras)}. "
                "Give exactly one image per camera, or change 'cameras' of the task."
            )
        shape = (*spec.image_size, 3)
        for camera, image in images.items():
            found = (image.dtype.name, image.shape) if isinstance(image, np.ndarray) else type(image).__name__
            if found != ("uint8", shape):
                raise RecordingError(
                    f"image of camera {camera!r} is {found}, expected a numpy array ('uint8', {shape}), height x "
                    "width x RGB. Convert or resize it, or change 'image_size' of the task."
                )

    def _checked_vector(self, name: str, value: Any) -> np.ndarray:
        layout = self._form.spec.layout
        found = (value.dtype.name, value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        if found != ("float32", (layout.dim,)):
            raise RecordingError(
                f"{name} is {found}, expected a numpy array ('float32', ({layout.dim},)): layout {layout.name!r} "
                f"({', '.join(layout.names)}) in rad and m. Convert it, or choose the layout of your robot."
            )
        if not np.isfinite(value).all():
            bad = {layout.names[i]: float(value[i]) for i in np.flatnonzero(~np.isfinite(value))}
            raise RecordingError(
                f"{name} is not finite: {bad}. Skip this frame or discard_episode; check where it comes from."
            )
        return value.copy()


def _features(spec: TaskSpec) -> dict[str, dict[str, Any]]:
    names = list(spec.layout.names)
    features: dict[str, dict[str, Any]] = {
        key: {"dtype": "video", "shape": (*spec.image_size, 3), "names": ["height", "width", "channels"]}
        for key in spec.cameras.values()
    }
    for key in ("observation.state", "action"):
        features[key] = {"dtype": "float32", "shape": (len(names),), "names": names}
    for key, dtype in _LABELS.items():
        features[key] = {"dtype": dtype, "shape": (1,), "names": None}
    return features


def _expect(name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise RecordingError(f"{name} is {value!r} ({type(value).__name__}), expected {expected}")


def _checked_flag(name: str, value: Any) -> bool:
    _expect(name, value, isinstance(value, bool | np.bool_), "True or False")
    return bool(value)


def _checked_score(name: str, value: Any, upper: float) -> float:
    number = isinstance(value, numbers.Real | np.number) and not isinstance(value, bool | np.bool_)
    _expect(name, value, number and 0.0 <= float(value) <= upper, f"a finite number in [0, {upper:g}]")
    return float(value)
