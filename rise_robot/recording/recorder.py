"""EpisodeRecorder: robot episodes, simulated or real, into a LeRobot v3.0 dataset."""

from __future__ import annotations

import logging
import numbers
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rise_env.data.video import video_encoder
from rise_env.tasks import TaskSpec
from rise_robot.closing import Closing
from rise_robot.recording.append import describe_features, read_tasks, video_frames
from rise_robot.recording.records import EpisodeRecord, RecordingError, write_episode_records
from rise_robot.recording.store import EpisodeStore

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig

__all__ = ["EpisodeRecorder"]

logger = logging.getLogger(__name__)

_QUEUE_FRAMES = 64
_LABELS = {"episode_success": "bool", "is_intervention": "bool", "progress": "float32", "subgoal": "float32"}


class EpisodeRecorder(Closing):
    """Records episodes into a new or existing LeRobot v3.0 dataset; a killed process loses no finished episode.

    Each frame goes to one video encoder per camera as it comes (lerobot's streaming encoder), so memory does not grow
    with the images of an episode. Each finished episode is a small complete dataset below `root/.recording`, put there
    by one rename before `end_episode` returns; every `commit_every` episodes and on `close` they move into the dataset
    proper, which plain `LeRobotDataset(repo_id, root=root)` reads at any time in between. After a kill, open the
    directory once more with a recorder (or pass it to `merge_datasets`): it finishes or undoes what was interrupted.
    This holds for a killed process; after a power failure the file system decides.

    Per frame the dataset holds one video feature per camera, `observation.state` and `action` (float32 (D,), physical
    units, named by the joint layout), `episode_success` (bool, the same over an episode), `is_intervention` (bool),
    `progress` (float32 in [0, 1]) and `subgoal` (float32 in [0, 10]). Facts per episode lie in the sidecar, see
    `read_episode_records`.

    Args:
        root: Directory of the dataset. Created if missing; appended to if it holds a dataset of the same task.
        spec: The task: prompt, cameras, image size, joint layout and fps are recorded.
        encoder: Video encoder settings. Default: `rise_env.data.video.video_encoder`.
        commit_every: Episodes between two moves of finished episodes into the dataset proper.

    Attributes:
        num_episodes: Finished episodes, those of earlier sessions included.
        num_frames: Frames of these episodes.

    Raises:
        RecordingError: If the directory holds something else, is open elsewhere, or was recorded for another task; the
            message prints both sides.

    Example:
        >>> with EpisodeRecorder("data/bricks", load_task("brick_sorting")) as recorder:  # doctest: +SKIP
        ...     for images, state, action in rollout():
        ...         recorder.add_frame(images=images, state=state, action=action, progress=0.0, subgoal=0.0)
        ...     recorder.end_episode(success=True, failure_mode="", seed=0, operator="expert")
    """

    def __init__(
        self, root: str | Path, spec: TaskSpec, *, encoder: RGBEncoderConfig | None = None, commit_every: int = 50
    ) -> None:
        from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
        from lerobot.datasets.io_utils import load_info
        from lerobot.datasets.utils import DatasetInfo
        from lerobot.utils.constants import DEFAULT_FEATURES

        if commit_every < 1:
            raise RecordingError(f"commit_every is {commit_every}, expected at least 1")
        encoder = encoder or video_encoder(spec.image_size)
        if encoder.pix_fmt == "yuv420p" and any(size % 2 for size in spec.image_size):
            raise RecordingError(
                f"pixel format yuv420p needs an even image height and width, task {spec.name!r} has {spec.image_size}. "
                "Change image_size, or pass an encoder with pix_fmt yuv444p."
            )
        self.root = Path(root)
        self.spec = spec
        self._encoder = encoder
        self._commit_every = commit_every
        self._features = _features(spec)
        self._dataset: Any = None
        self._length = 0
        self._interventions = 0

        self._store = EpisodeStore(self.root)
        self._closed = False
        try:
            features = {**self._features, **DEFAULT_FEATURES}
            expected = describe_features(DatasetInfo(CODEBASE_VERSION, spec.fps, features, robot_type=spec.layout.name))
            expected["prompt"] = spec.prompt
            self.num_episodes = self.num_frames = 0
            for path in self._store.datasets:
                info = load_info(path)
                tasks = read_tasks(path)
                found = describe_features(info)
                found["prompt"] = spec.prompt if spec.prompt in tasks else " | ".join(tasks)
                if found != expected:
                    raise _mismatch(self.root, spec, found, expected)
                self.num_episodes += info.total_episodes
                self.num_frames += info.total_frames
        except BaseException:
            self._store.close()
            raise

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
        """Append one control step to the current episode; the first call starts an episode.

        Waits when a video encoder is more than 64 frames behind: no frame is dropped.

        Args:
            images: Camera name to uint8 (H, W, 3), RGB, exactly the cameras and image size of the task. Copied.
            state: Measured joint positions before the action, float32 (D,), rad and m. Copied.
            action: Absolute joint targets of this step, float32 (D,), rad and m. Copied.
            is_intervention: Whether a human or expert had taken over.
            progress: Task progress in [0, 1].
            subgoal: Ten-point sub-goal score in [0, 10].

        Raises:
            RecordingError: If an argument is not as described (the frame is not recorded, the episode can go on), or a
                video encoder failed (the current episode is lost, earlier ones are safe).
        """
        self._require_open()
        frame = {
            **self._checked_images(images),
            "observation.state": self._checked_vector("state", state),
            "action": self._checked_vector("action", action),
            "episode_success": np.array([False]),  # known only at the end of the episode
            "is_intervention": np.array([_checked_flag("is_intervention", is_intervention)]),
            "progress": np.array([_checked_score("progress", progress, 1.0)], np.float32),
            "subgoal": np.array([_checked_score("subgoal", subgoal, 10.0)], np.float32),
            "task": self.spec.prompt,
        }
        if self._dataset is None:
            self._dataset = self._new_dataset()
        try:
            self._wait_for_encoders()
            self._dataset.add_frame(frame)
        except (RuntimeError, OSError) as error:
            raise self._lost(f"a video encoder failed: {error}") from error
        self._length += 1
        self._interventions += bool(is_intervention)

    def end_episode(self, *, success: bool, failure_mode: str, seed: int, operator: str) -> int:
        """Finish and save the current episode; once this returns its index, a killed process does not lose it.

        The arguments are those of `EpisodeRecord`; `success` is written to `episode_success` of every frame.

        Raises:
            RecordingError: If an argument has the wrong type or the episode has fewer than two frames (the episode
                stays open), or encoding failed (the episode is lost, earlier ones are safe).
        """
        self._require_open()
        success = _checked_flag("success", success)
        _expect("failure_mode", failure_mode, isinstance(failure_mode, str), "a string")
        _expect("operator", operator, isinstance(operator, str), "a string")
        number: Any = seed
        whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
        _expect("seed", seed, whole and -(2**63) <= int(seed) < 2**63, "a 64-bit integer")
        if self._length < 2:
            raise RecordingError(
                f"the current episode has {self._length} frames, expected at least 2 (an image and what followed). "
                "Call add_frame first, or discard_episode."
            )
        from lerobot.utils.utils import SuppressProgressBars

        dataset, length = self._dataset, self._length
        dataset.writer.episode_buffer["episode_success"] = [np.array([success])] * length
        try:
            with SuppressProgressBars():
                dataset.save_episode()
            dataset.finalize()
        except (RuntimeError, OSError) as error:
            raise self._lost(f"a video could not be encoded: {error}") from error
        for path in (dataset.root / "videos").rglob("*.mp4"):
            if (found := video_frames(path)) != length:
                raise self._lost(f"the encoder wrote {found} of {length} frames to {path.name}")
        record = EpisodeRecord(0, length, success, failure_mode, int(seed), operator, self._interventions)
        write_episode_records(dataset.root, [record])
        index = self._store.add(dataset.root)
        self._dataset, self._length, self._interventions = None, 0, 0
        self.num_episodes += 1
        self.num_frames += length
        if len(self._store.pending) >= self._commit_every:
            self._store.commit()
        return index

    def discard_episode(self) -> None:
        """Forget the frames since the last finished episode; does nothing if there are none."""
        dataset = self._dataset
        if dataset is None:
            return
        self._dataset, self._length, self._interventions = None, 0, 0
        encoders = dataset.writer._streaming_encoder
        if encoders._episode_active and all(thread.is_alive() for thread in encoders._threads.values()):
            encoders.finish_episode()  # cancelling waits a second for each thread to notice
        dataset.clear_episode_buffer()
        dataset.finalize()
        shutil.rmtree(dataset.root)

    def commit(self) -> None:
        """Move the finished episodes into the dataset proper now, e.g. before another process reads it."""
        self._require_open()
        self._store.commit()

    def close(self) -> None:
        """Move the finished episodes into the dataset proper and release the directory; discard an open episode."""
        if self._closed:
            return
        self._closed = True
        if self._length:
            logger.warning("discarding an unfinished episode of %d frames: end_episode was not called", self._length)
        self.discard_episode()
        try:
            self._store.commit()
        finally:
            self._store.close()

    def _require_open(self) -> None:
        if self._closed:
            raise RecordingError(f"the recorder of {self.root} is closed. Open a new EpisodeRecorder to append.")

    def _lost(self, reason: str) -> RecordingError:
        """Discard the current episode; returns the error to raise."""
        self.discard_episode()
        return RecordingError(
            f"{reason}. This episode is lost, the {self.num_episodes} before it are safe. Check disk space and the "
            f"encoder settings ({self._encoder})."
        )

    def _new_dataset(self) -> Any:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        return LeRobotDataset.create(
            repo_id=f"rise/{self.root.name}",
            fps=self.spec.fps,
            features=self._features,
            root=self._store.scratch(),
            robot_type=self.spec.layout.name,
            video_backend="pyav",
            rgb_encoder=self._encoder,
            streaming_encoding=True,
            encoder_queue_maxsize=_QUEUE_FRAMES,
            encoder_threads=1,
        )

    def _wait_for_encoders(self) -> None:
        # lerobot drops a frame, with no more than a warning, when a queue stays full for 0.1 s: do not let it.
        encoders = self._dataset.writer._streaming_encoder
        for key, queue in encoders._frame_queues.items():
            while queue.full() and encoders._threads[key].is_alive():
                time.sleep(0.001)

    def _checked_images(self, images: Any) -> dict[str, np.ndarray]:
        cameras = self.spec.cameras
        if not isinstance(images, Mapping) or set(images) != set(cameras):
            given = sorted(images) if isinstance(images, Mapping) else type(images).__name__
            raise RecordingError(
                f"images has {given}, task {self.spec.name!r} has the cameras {sorted(cameras)}. "
                "Give exactly one image per camera, or change 'cameras' of the task."
            )
        shape = (*self.spec.image_size, 3)
        for camera, image in images.items():
            found = (image.dtype.name, image.shape) if isinstance(image, np.ndarray) else type(image).__name__
            if found != ("uint8", shape):
                raise RecordingError(
                    f"image of camera {camera!r} is {found}, expected a numpy array ('uint8', {shape}), height x "
                    "width x RGB. Convert or resize it, or change 'image_size' of the task."
                )
        return {key: images[camera] for camera, key in cameras.items()}

    def _checked_vector(self, name: str, value: Any) -> np.ndarray:
        layout = self.spec.layout
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


def _mismatch(root: Path, spec: TaskSpec, found: dict[str, str], expected: dict[str, str]) -> RecordingError:
    lines = [f"{root} was recorded with other settings than task {spec.name!r} has now:"]
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            lines.append(f"  {key}: dataset {found.get(key, '(none)')!r}; recorder {expected.get(key, '(none)')!r}")
    lines.append("Record into another directory, or use the task configuration of the dataset.")
    return RecordingError("\n".join(lines))


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
