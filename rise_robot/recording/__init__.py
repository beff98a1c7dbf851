"""Recording of robot episodes as LeRobot v3.0 datasets that survive a killed process.

`EpisodeRecorder` writes, `read_episode_records` reads the facts about each episode, `merge_datasets` joins what
parallel workers recorded, `check_dataset` proves that all streams agree, `write_preview` draws a video to look at.
"""

from rise_robot.recording.checks import check_dataset
from rise_robot.recording.episode import OpenEpisode
from rise_robot.recording.preview import write_preview
from rise_robot.recording.recorder import EpisodeRecorder
from rise_robot.recording.records import EpisodeRecord, RecordingError, check_continues, read_episode_records
from rise_robot.recording.store import merge_datasets

__all__ = [
    "EpisodeRecord",
    "EpisodeRecorder",
    "OpenEpisode",
    "RecordingError",
    "check_continues",
    "check_dataset",
    "merge_datasets",
    "read_episode_records",
    "write_preview",
]
