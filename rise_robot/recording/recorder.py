"""EpisodeRecorder: robot episodes, simulated or real, into a LeRobot v3.0 dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rise_env.data.video import video_encoder
from rise_env.tasks import TaskSpec
from rise_robot.closing import Closing
from rise_robot.recording.append import describe_features, read_tasks
from rise_robot.recording.episode import EncodingError, EpisodeFormat, OpenEpisode
from rise_robot.recording.records import RecordingError
from rise_robot.recording.store import EpisodeStore

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig

__all__ = ["EpisodeRecorder"]

logger = logging.getLogger(__name__)


class EpisodeRecorder(Closing):
    """Records episodes into a new or existing LeRobot v3.0 dataset; a killed process loses no finished episode.

    Each frame goes to one video encoder per camera as it comes, so memory does not grow with the images of an episode.
    Each finished episode is a small complete dataset below `root/.recording`, put there by one rename before
    `end_episode` returns; every `commit_every` episodes and on `close` they move into the dataset proper, which plain
    `LeRobotDataset(repo_id, root=root)` reads at any time in between. After a kill, open the directory once more with a
    recorder (or pass it to `merge_datasets`): it finishes or undoes what was interrupted. This holds for a killed
    process; after a power failure the file system decides.

    Per frame the dataset holds one video feature per camera, `observation.state` and `action` (float32 (D,), physical
    units, named by the joint layout), `episode_success` (bool, the same over an episode), `is_intervention` (bool),
    `progress` (float32 in [0, 1]) and `subgoal` (float32 in [0, 10]). Facts per episode lie in the sidecar, see
    `read_episode_records`.

    Args:
        root: Directory of the dataset. Created if missing; appended to if it holds a dataset of the same task.
        spec: The task: prompt, cameras, image size, joint layout and fps are recorded.
        encoder: Video encoder settings. Default: `rise_env.data.video.video_encoder`.
        commit_every: Episodes between two moves of finished episodes into the dataset proper.
        background: Whether videos are encoded in threads beside, one per camera. A robot must not wait for them; a
            simulation may, and takes less work altogether.

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
        self,
        root: str | Path,
        spec: TaskSpec,
        *,
        encoder: RGBEncoderConfig | None = None,
        commit_every: int = 50,
        background: bool = True,
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
        self._form = EpisodeFormat(spec, encoder, background)
        self._commit_every = commit_every
        self._episode: OpenEpisode | None = None

        self._store = EpisodeStore(self.root)
        self._closed = False
        try:
            features = {**self._form.features, **DEFAULT_FEATURES}
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
        episode = self._episode or self.begin_episode()
        self._episode = episode
        try:
            episode.add_frame(
                images=images, state=state, action=action,
                is_intervention=is_intervention, progress=progress, subgoal=subgoal,
            )  # fmt: skip
        except EncodingError:
            self.discard_episode()
            raise
        finally:
            if not episode.length:  # nothing has begun
                self.discard_episode()

    def end_episode(self, *, success: bool, failure_mode: str, seed: int, operator: str) -> int:
        """Finish and save the current episode; once this returns its index, a killed process does not lose it.

        The arguments are those of `EpisodeRecord`; `success` is written to `episode_success` of every frame.

        Raises:
            RecordingError: If an argument has the wrong type or the episode has fewer than two frames (the episode
                stays open), or encoding failed (the episode is lost, earlier ones are safe).
        """
        self._require_open()
        if self._episode is None:
            raise RecordingError("the current episode has 0 frames, expected at least 2. Call add_frame first.")
        try:
            self._episode.finish(success=success, failure_mode=failure_mode, seed=seed, operator=operator)
        except EncodingError:
            self.discard_episode()
            raise
        episode, self._episode = self._episode, None
        return self.keep(episode)

    def begin_episode(self) -> OpenEpisode:
        """An episode of its own beside the current one, for those who record several at a time.

        It is lost unless it is finished and given to `keep`; what is not to be kept should be discarded.
        """
        self._require_open()
        return OpenEpisode(self._store.scratch(), self._form)

    def keep(self, episode: OpenEpisode) -> int:
        """Make a finished episode of `begin_episode` the next of the dataset; returns its index, as `end_episode`."""
        self._require_open()
        index = self._store.add(episode.root)
        self.num_episodes += 1
        self.num_frames += episode.length
        if len(self._store.pending) >= self._commit_every:
            self._commit()
        return index

    def discard_episode(self) -> None:
        """Forget the frames since the last finished episode; does nothing if there are none."""
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.discard()

    def commit(self) -> None:
        """Move the finished episodes into the dataset proper now, e.g. before another process reads it.

        Raises:
            RecordingError: If they cannot be moved, as on a full disk; they are safe, and moved by the next recorder.
        """
        self._require_open()
        self._commit()

    def close(self) -> None:
        """Move the finished episodes into the dataset proper and release the directory; discard an open episode."""
        if self._closed:
            return
        self._closed = True
        if self._episode is not None:
            length = self._episode.length
            logger.warning("discarding an unfinished episode of %d frames: end_episode was not called", length)
        self.discard_episode()
        try:
            self._commit()
        finally:
            self._store.close()

    def _commit(self) -> None:
        try:
            self._store.commit()
        except OSError as error:
            raise RecordingError(
                f"{self.root}: {len(self._store.pending)} finished episodes cannot be moved into the dataset: {error}. "
                "They are safe in its folder .recording. Free disk space and record again: then they are moved as well."
            ) from error

    def _require_open(self) -> None:
        if self._closed:
            raise RecordingError(f"the recorder of {self.root} is closed. Open a new EpisodeRecorder to append.")


def _mismatch(root: Path, spec: TaskSpec, found: dict[str, str], expected: dict[str, str]) -> RecordingError:
    lines = [f"{root} was recorded with other settings than task {spec.name!r} has now:"]
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            lines.append(f"  {key}: dataset {found.get(key, '(none)')!r}; recorder {expected.get(key, '(none)')!r}")
    lines.append("Record into another directory, or use the task configuration of the dataset.")
    return RecordingError("\n".join(lines))
