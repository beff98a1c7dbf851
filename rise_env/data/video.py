"""Decoding the videos of a dataset: every file once, from front to back, frames matched by their timestamps."""

from __future__ import annotations

import bisect
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_env.data.errors import DatasetError

__all__ = ["Piece", "decode_image", "decode_video", "resize"]


class Piece(NamedTuple):
    """An episode in a video file.

    Attributes:
        episode: Index of the episode, for messages.
        start: Time of its first frame in seconds.
        length: Number of frames.
        whole: Whether the file holds this episode and nothing else.
        target: Row of its first frame where the frames go.
    """

    episode: int
    start: float
    length: int
    whole: bool
    target: int


def decode_video(
    path: Path, pieces: Sequence[Piece], fps: int, size: tuple[int, int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames of some episodes.

    Args:
        path: Video file, any codec that FFmpeg reads.
        pieces: Episodes in this file.
        fps: Frame rate of the dataset.
        size: Height and width to resize to; area average where that is smaller than the video.

    Yields:
        Row of the frame (`target` + number in the episode) and uint8 RGB (H, W, 3), in the order of the video.

    Raises:
        DatasetError: If the file is missing or damaged, or an episode has fewer or more frames in it than it should.
    """
    import av

    episodes = ", ".join(str(piece.episode) for piece in pieces[:4]) + (", ..." if len(pieces) > 4 else "")
    where = f"{path} (episode{'s' if len(pieces) > 1 else ''} {episodes})"
    if not path.is_file():
        raise DatasetError(f"video {where} is missing")
    try:
        rows = _match(path, pieces, fps)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                row = rows.pop(frame.pts, None)
                if row is not None:
                    yield row, resize(frame, size)
                    if not rows:
                        return
    except av.FFmpegError as error:
        raise DatasetError(
            f"video {where} is damaged or cut short: {error.strerror or error}. Copy or record it again."
        ) from error
    missing = sorted(rows.values())
    piece = next(p for p in pieces if p.target <= missing[0] < p.target + p.length)
    lost = sum(piece.target <= row < piece.target + piece.length for row in missing)
    raise DatasetError(
        f"video {path}: episode {piece.episode} has {piece.length} frames in the metadata, "
        f"{piece.length - lost} could be decoded. The file is damaged or cut short."
    )


def _match(path: Path, pieces: Sequence[Piece], fps: int) -> dict[int, int]:
    """Row of every wanted frame by its presentation timestamp, from the packets alone."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DatasetError(
                f"video {path} (episode {pieces[0].episode}) holds no video stream: it is damaged or cut short"
            )
        stream = container.streams.video[0]
        base = stream.time_base
        assert base is not None
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    times = [float(stamp * base) for stamp in stamps]
    rows: dict[int, int] = {}
    half = 0.5 / fps
    for piece in pieces:
        first, last = 0, len(times)
        if not piece.whole:
            first = bisect.bisect_left(times, piece.start - half)
            last = bisect.bisect_left(times, piece.start + piece.length / fps - half)
        if last - first != piece.length:
            raise DatasetError(
                f"video {path}: episode {piece.episode} should have {piece.length} frames from {piece.start:.3f} s on, "
                f"found {last - first}. The video is cut short or does not belong to this dataset."
            )
        rows.update({stamps[first + i]: piece.target + i for i in range(piece.length)})
    return rows


def resize(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an `av.VideoFrame`: area average downwards, bilinear upwards, in one conversion."""
    from av.video.reformatter import Interpolation

    height, width = size
    if (frame.height, frame.width) == size:
        return frame.to_ndarray(format="rgb24")
    method = Interpolation.AREA if height < frame.height or width < frame.width else Interpolation.BILINEAR
    # Planar: FFmpeg scales into interleaved RGB with half the colour resolution, which costs up to 30 grey levels.
    return np.ascontiguousarray(frame.to_ndarray(format="gbrp", width=width, height=height, interpolation=method))


def decode_image(content: bytes, size: tuple[int, int], where: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an image in a file format such as PNG or JPEG.

    Raises:
        DatasetError: If it is damaged; `where` goes into the message.
    """
    import av
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{where}: not a readable image: {error}") from error
    if pixels.shape[:2] == size:
        return pixels
    return resize(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24"), size)
