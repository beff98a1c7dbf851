"""Proof that the streams of a recorded dataset agree with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rise_robot.recording.append import INFO_PATH, read_episodes, read_tasks, video_frames
from rise_robot.recording.records import SIDECAR_PATH, RecordingError, read_episode_records

__all__ = ["check_dataset"]


def check_dataset(root: str | Path) -> None:
    """Check that frames, videos, episode table, statistics, sidecar and totals of a dataset describe the same episodes;
    RecordingError if something disagrees; the message lists everything that does.

    Reads the index columns of every data file and the header of every video; nothing is decoded.

    Args:
        root: Directory of a LeRobot v3.0 dataset recorded by `EpisodeRecorder`.
    """
    from lerobot.datasets.io_utils import load_info, load_stats

    root = Path(root)
    if not (root / INFO_PATH).is_file():
        raise RecordingError(f"{root} holds no LeRobot dataset: {INFO_PATH} is missing")
    info = load_info(root)
    if info.codebase_version != "v3.0":
        raise RecordingError(f"{root} has LeRobot format {info.codebase_version}, expected v3.0. Convert it (lerobot).")
    stats, episodes, records = load_stats(root), read_episodes(root), read_episode_records(root)
    lengths = episodes["length"].to_numpy()
    ends = np.cumsum(lengths)
    problems: list[str] = []

    def expect(what: str, found: object, expected: object) -> None:
        if not np.array_equal(np.asarray(found), np.asarray(expected)):
            problems.append(f"{what}: found {found}, expected {expected}")

    count, frames = episodes.num_rows, int(lengths.sum())
    expect("info.json total_episodes", info.total_episodes, count)
    expect("info.json total_frames", info.total_frames, frames)
    expect("info.json total_tasks", info.total_tasks, len(read_tasks(root)))
    expect("info.json splits", info.splits.get("train"), f"0:{count}")
    expect("meta/episodes episode_index", episodes["episode_index"].to_numpy(), np.arange(count))
    expect("meta/episodes dataset_to_index", episodes["dataset_to_index"].to_numpy(), ends)
    expect("meta/episodes dataset_from_index", episodes["dataset_from_index"].to_numpy(), ends - lengths)
    expect("stats.json frame count", None if stats is None else stats["index"]["count"].item(), frames)
    before = len(problems)
    expect(f"{SIDECAR_PATH} episode_index", [record.episode_index for record in records], np.arange(count))
    expect(f"{SIDECAR_PATH} num_frames", [record.num_frames for record in records], lengths)

    names = ["episode_index", "frame_index", "index", "is_intervention", "episode_success"]
    data = pa.concat_tables(pq.read_table(path, columns=names) for path in sorted((root / "data").glob("*/*.parquet")))
    if data.num_rows == frames:
        interventions = np.add.reduceat(data["is_intervention"].to_numpy().astype(int), ends - lengths)
        expect(f"{SIDECAR_PATH} num_intervention_frames", [r.num_intervention_frames for r in records], interventions)
        expect(f"{SIDECAR_PATH} success", [r.success for r in records], data["episode_success"].to_numpy()[ends - 1])
    if len(problems) > before:
        problems.append(
            f"If the dataset is right ({SIDECAR_PATH} was copied beside an edited one, or another program added "
            "episodes): delete this file. It is made again from the dataset, which knows no seeds and operators."
        )
    expect("data episode_index", data["episode_index"].to_numpy(), np.repeat(np.arange(count), lengths))
    expect("data index", data["index"].to_numpy(), np.arange(frames))
    frame_index = np.concatenate([np.arange(length) for length in lengths])
    expect("data frame_index", data["frame_index"].to_numpy(), frame_index)

    for key in (key for key, feature in info.features.items() if feature["dtype"] == "video"):
        in_file: dict[str, int] = {}
        columns = (episodes[f"videos/{key}/{name}"].to_pylist() for name in ("chunk_index", "file_index"))
        starts = episodes[f"videos/{key}/from_timestamp"].to_numpy()
        for row, (chunk, file) in enumerate(zip(*columns, strict=True)):
            name = f"chunk-{chunk:03d}/file-{file:03d}.mp4"
            expected_start = in_file.get(name, 0) / info.fps
            if abs(starts[row] - expected_start) > 1e-4:
                problems.append(f"{key} episode {row} starts at {starts[row]} s, expected {expected_start} s")
            in_file[name] = in_file.get(name, 0) + int(lengths[row])
        folder = root / "videos" / key
        found = {str(path.relative_to(folder)): video_frames(path) for path in folder.rglob("*.mp4")}
        if found != in_file:
            problems.append(f"frames per video of {key}: found {found}, expected {in_file}")
    if problems:
        raise RecordingError(f"the streams of {root} disagree:\n  " + "\n  ".join(problems))
