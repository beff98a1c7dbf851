"""A video to look at: recorded episodes with their labels drawn under the camera images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from rise_env.files import atomic_path
from rise_robot.recording.append import quiet_libav, read_episodes
from rise_robot.recording.records import EpisodeRecord, RecordingError, read_episode_records

__all__ = ["write_preview"]

_STRIP = 44
#: Smallest height in pixels that a camera image is enlarged to.
_HEIGHT = 192
_GREEN, _RED, _ORANGE, _GREY, _WHITE = (80, 200, 90), (230, 80, 70), (255, 150, 0), (70, 70, 70), (240, 240, 240)


def write_preview(
    root: str | Path, path: str | Path, episodes: int | Sequence[int] = 4, *, hold_seconds: float = 0.5
) -> Path:
    """Write an mp4 (h264, yuv420p) of episodes, read back from the dataset, to `path`; RecordingError if it has no such
    episode, or a video has fewer frames than the episode.

    Cameras lie side by side, enlarged by a whole factor without smoothing; the strip below names episode, operator,
    success or failure mode, intervention (orange, also as a frame around the images), progress and sub-goal score.

    Args:
        root: Directory of a dataset recorded by `EpisodeRecorder`.
        path: File to write; replaced in one step.
        episodes: Number of episodes, spread evenly over the dataset, or the indices of those to show.
        hold_seconds: How long the last image of an episode stays.
    """
    from lerobot.datasets.io_utils import load_info

    quiet_libav()
    root, path = Path(root), Path(path)
    records = read_episode_records(root)
    if isinstance(episodes, int):
        count = min(episodes, len(records))
        chosen = [round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)]
    else:
        chosen = list(episodes)
    if not chosen or not all(0 <= index < len(records) for index in chosen):
        raise RecordingError(f"episodes is {episodes}, {root} holds the episodes 0 to {len(records) - 1}")
    info = load_info(root)
    table = read_episodes(root)
    cameras = [key for key, feature in info.features.items() if feature["dtype"] == "video"]
    with atomic_path(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        stream: Any = None
        for index in chosen:
            episode = table.slice(index, 1).to_pylist()[0]
            for picture in _pictures(root, info, episode, cameras, records[index], hold_seconds):
                if stream is None:
                    stream = container.add_stream("h264", rate=info.fps, options={"crf": "20", "preset": "veryfast"})
                    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


def _pictures(
    root: Path, info: Any, episode: dict, cameras: list[str], record: EpisodeRecord, hold_seconds: float
) -> Iterator[Image.Image]:
    data_path = root / "data/chunk-{data/chunk_index:03d}/file-{data/file_index:03d}.parquet".format(**episode)
    columns, rows = ["is_intervention", "progress", "subgoal"], [("episode_index", "=", record.episode_index)]
    labels = pq.read_table(data_path, columns=columns, filters=rows).to_pylist()
    videos = [_decode(root, key, episode, info.fps) for key in cameras]
    picture = None
    for label, images in zip(labels, zip(*videos, strict=True), strict=True):
        picture = _draw(images, label, record)
        yield picture
    if picture is not None:
        yield from [picture] * round(hold_seconds * info.fps)


def _decode(root: Path, key: str, episode: dict, fps: int) -> Iterator[np.ndarray]:
    place = "chunk-{:03d}/file-{:03d}.mp4".format(*(episode[f"videos/{key}/{n}_index"] for n in ("chunk", "file")))
    start, length = episode[f"videos/{key}/from_timestamp"], episode["length"]
    with av.open(str(root / "videos" / key / place)) as container:
        stream = container.streams.video[0]
        container.seek(int(start / stream.time_base), stream=stream)
        count = 0
        for frame in container.decode(stream):
            if frame.time < start - 0.5 / fps:
                continue
            if count == length:
                return
            count += 1
            yield frame.to_ndarray(format="rgb24")
    if count < length:
        number = episode["episode_index"]
        raise RecordingError(f"{place} of {key} ends after {count} of {length} frames of episode {number}")


def _draw(images: Sequence[np.ndarray], label: dict, record: EpisodeRecord) -> Image.Image:
    factor = -(-_HEIGHT // images[0].shape[0])
    views = np.concatenate(images, axis=1).repeat(factor, axis=0).repeat(factor, axis=1)
    width, tall = views.shape[1] + views.shape[1] % 2, views.shape[0] + views.shape[0] % 2
    picture = Image.new("RGB", (width, tall + _STRIP))
    picture.paste(Image.fromarray(views), (0, 0))
    draw = ImageDraw.Draw(picture)
    outcome, colour = ("success", _GREEN) if record.success else (record.failure_mode or "failure", _RED)
    x = 6.0
    for text, fill in (
        (f"episode {record.episode_index}", _WHITE),
        (record.operator, _WHITE),
        (outcome, colour),
        (f"score {label['subgoal']:.1f}/10", _WHITE),
    ):
        draw.text((x, tall + 5), text, fill=fill, font_size=15)
        x += draw.textlength(text, font_size=15) + 18
    if label["is_intervention"]:
        draw.rectangle((0, 0, width - 1, tall - 1), outline=_ORANGE, width=4)
        draw.text((x, tall + 5), "INTERVENTION", fill=_ORANGE, font_size=15)
    draw.rectangle((6, tall + 29, width - 7, tall + 38), fill=_GREY)
    bar = _ORANGE if label["is_intervention"] else colour
    draw.rectangle((6, tall + 29, 6 + (width - 13) * label["progress"], tall + 38), fill=bar)
    return picture
