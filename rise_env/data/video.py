"""Pictures: decoding of videos and images, resizing, and how recordings are encoded."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rise_env.data.source import VideoSegment
from rise_env.errors import DatasetError

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig


__all__ = ["DamagedError", "Piece", "decode_image", "decode_video", "resize", "video_encoder", "video_facts"]

_LOSSLESS_BELOW = 128  # pixels


class Piece(NamedTuple):
    """An episode in a video file: index, segment, number of frames, and the row that its first frame goes to."""

    episode: int
    segment: VideoSegment
    length: int
    target: int


class DamagedError(DatasetError):
    """A file is damaged or does not fit; `episodes` are those that lose frames by it."""

    def __init__(self, message: str, episodes: Iterable[int]) -> None:
        super().__init__(message)
        self.episodes = frozenset(episodes)


def decode_video(
    path: Path, pieces: list[Piece], fps: float, size: tuple[int, int], recorded: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames of some episodes in a video file, resized to a height and width (see `resize`).

    Frames that the decoder reports as damaged are left out, with all that build on them; so are episodes whose place in
    the file is not certain. What can be had is yielded before the error is raised.

    Args:
        path: File.
        pieces: The episodes in it.
        fps: Frames per second.
        size: Height and width to give.
        recorded: Height and width that the pictures must have.

    Yields:
        Row of the frame (`target` + number in the episode) and uint8 RGB (H, W, 3), in the order of the video.

    Raises:
        DamagedError: If the file is missing or damaged, has pictures of another size, or an episode has fewer or more
            frames in it than it should, or shares a frame with another.
    """
    import av

    everyone = [piece.episode for piece in pieces]
    listed = ", ".join(map(str, everyone[:4])) + (", ..." if len(pieces) > 4 else "")
    where = f"{path} (episode{'s' if len(pieces) > 1 else ''} {listed})"
    rows: dict[int, int] = {}
    problems: dict[int, str] = {}
    broken = ""
    try:
        if not path.is_file():
            raise DamagedError(f"video {where} is missing", everyone)
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DamagedError(f"video {where} has no video: damaged or cut short", everyone)
            rows, problems = _match(container, pieces, fps)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            sound = True
            for packet in container.demux(stream) if rows else ():
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    broken, sound = broken or f"{error.strerror or error}", False
                    continue
                for frame in frames:
                    assert isinstance(frame, av.VideoFrame)
                    if frame.is_corrupt:
                        broken, sound = broken or f"the frame at {frame.time or 0.0:.3f} s is corrupt", False
                    elif frame.key_frame:
                        sound = True
                    if recorded is not None and recorded != (frame.height, frame.width):
                        expected = "{}x{}".format(*recorded)
                        raise DamagedError(
                            f"video {where} has pictures of {frame.height}x{frame.width}, info.json says {expected} "
                            "(height x width). Put the right file there, or correct `shape` of the feature.", everyone,
                        )  # fmt: skip
                    row = rows.pop(frame.pts, None) if sound and frame.pts is not None else None
                    if row is not None:
                        yield row, resize(frame, size)
                if not rows:
                    break
    except (av.FFmpegError, OSError) as error:
        if not rows:
            problem = f"damaged or cut short: {error.strerror or error}. Copy or record it again."
            raise DamagedError(f"video {where} is {problem}", everyone) from error
        broken = broken or f"{error.strerror or error}"
    missing = np.array(sorted(rows.values()), np.int64)
    for piece in pieces:
        lost = int(((missing >= piece.target) & (missing < piece.target + piece.length)).sum())
        if lost:
            problems[piece.episode] = (
                f"video {where}: episode {piece.episode} has {piece.length} frames in the metadata, "
                f"{piece.length - lost} could be decoded ({broken or 'they end before'}). The file is damaged or cut "
                "short. Copy or record it again."
            )
    if problems:
        raise DamagedError("\n".join(dict.fromkeys(problems.values())), problems)


def _match(container: Any, pieces: list[Piece], fps: float) -> tuple[dict[int, int], dict[int, str]]:
    """Row of every wanted frame by its presentation timestamp, from the packets alone; what is wrong, by episode."""
    path, stream = Path(container.name), container.streams.video[0]
    stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    times = [float(stamp * stream.time_base) for stamp in stamps]
    if twice := sum(a == b for a, b in itertools.pairwise(stamps)):
        text = f"video {path}: {twice} frames have the time stamp of another. The file is damaged: record it again."
        return {}, {piece.episode: text for piece in pieces}
    pieces = sorted(pieces, key=lambda piece: piece.segment.start)
    tiles = sum(piece.length for piece in pieces) == len(times)
    firsts = np.cumsum([0, *(piece.length for piece in pieces)]).tolist()
    if tiles and all(abs(times[n] - p.segment.start) * fps < 1.5 for p, n in zip(pieces, firsts, strict=False)):
        # One after another without a gap: their numbers say where they are, whatever the rounding of the time stamps.
        places = {piece.episode: (first, first + piece.length) for piece, first in zip(pieces, firsts, strict=False)}
    else:
        places = {piece.episode: _span(piece, times, fps) for piece in pieces}
    problems: dict[int, str] = {}
    for piece in pieces:
        first, last = places[piece.episode]
        if last - first != piece.length:
            problems[piece.episode] = (
                f"video {path}: episode {piece.episode} should have {piece.length} frames from "
                f"{piece.segment.start:.3f} s on, found {last - first}. The video is cut short or does not belong to "
                "this dataset."
            )
        elif not piece.segment.whole and abs(times[first] - piece.segment.start) * fps > (1.5 if tiles else 0.4):
            problems[piece.episode] = (
                f"video {path}: episode {piece.episode} should begin at {piece.segment.start:.3f} s, between two "
                f"frames; the nearest is at {times[first]:.3f} s. Correct from_timestamp in meta/episodes."
            )
    for before, after in itertools.pairwise(pieces):
        if places[after.episode][0] < places[before.episode][1]:
            text = (
                f"video {path}: episodes {before.episode} and {after.episode} both claim the frame at "
                f"{times[places[after.episode][0]]:.3f} s: episode {before.episode} has {before.length} frames from "
                f"{before.segment.start:.3f} s on, episode {after.episode} begins at {after.segment.start:.3f} s. "
                "Correct from_timestamp in meta/episodes."
            )
            problems |= dict.fromkeys((before.episode, after.episode), text)
    rows = {
        stamps[places[piece.episode][0] + i]: piece.target + i
        for piece in pieces if piece.episode not in problems for i in range(piece.length)
    }  # fmt: skip
    return rows, problems


def _span(piece: Piece, times: list[float], fps: float) -> tuple[int, int]:
    """First frame of an episode and the one after its last, by time stamps."""
    if piece.segment.whole:
        return 0, len(times)
    start, half = piece.segment.start, 0.5 / fps
    first = bisect.bisect_left(times, start - half)
    return first, max(first, bisect.bisect_left(times, start + piece.length / fps - half))


def video_facts(path: Path) -> tuple[int, tuple[int, int]]:
    """Number of frames of a video, and their height and width; DatasetError if it is missing or damaged."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = sum(1 for packet in container.demux(stream) if packet.size)
            return frames, (stream.codec_context.height, stream.codec_context.width)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"video {path} is missing, damaged or cut short: {error}") from error


def resize(image: Any, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 (H, W, 3) of pixels or an `av.VideoFrame`: area average downwards, bilinear upwards, in one step."""
    import av
    from av.video.reformatter import Interpolation

    if isinstance(image, np.ndarray):
        if image.shape[:2] == size:
            return image
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame, (height, width) = image, size
    if (frame.height, frame.width) == size:
        return frame.to_ndarray(format="rgb24")
    method = Interpolation.AREA if height < frame.height or width < frame.width else Interpolation.BILINEAR
    # Planar: FFmpeg scales into interleaved RGB with half the colour resolution, which costs up to 30 grey levels.
    return np.ascontiguousarray(frame.to_ndarray(format="gbrp", width=width, height=height, interpolation=method))


def decode_image(
    content: bytes,
    size: tuple[int, int],
    where: str,
    recorded: tuple[int, int] | None = None,
    said_by: str = "`shape` in info.json",
) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a PNG, JPEG or alike.

    Raises:
        DatasetError: If it is damaged, or not of the height and width `recorded`, which is `said_by` something; the
            message says `where`.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            found = (image.height, image.width)
            if recorded is not None and recorded != found:
                raise DatasetError(
                    "{}: the picture has {}x{} pixels, {} has {}x{} (height x width). Put the right one there, or "
                    "correct the other.".format(where, *found, said_by, *recorded)
                )
            return resize(np.asarray(image.convert("RGB")), size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{where}: not a readable image: {error}") from error


def video_encoder(image_size: tuple[int, int]) -> RGBEncoderConfig:
    """Encoder settings for pictures of a height and width: h264, a key frame every 10 frames.

    What a policy is trained on should be what a camera will show it. Where a pixel is centimetres, an encoder's losses
    move the tool by half a centimetre (lab notebook), so that pictures below 128 pixels, which cost little, are stored
    without loss and in full colour resolution. Larger ones get crf 18, and yuv420p if their sides are even.
    """
    from lerobot.configs import RGBEncoderConfig  # takes seconds to import

    small, odd = min(image_size) < _LOSSLESS_BELOW, any(size % 2 for size in image_size)
    return RGBEncoderConfig(
        "h264", "yuv444p" if small or odd else "yuv420p", crf=0 if small else 18, preset="veryfast",
        # Without B-frames decoding order is display order, and joined files keep exact timestamps.
        g=10, extra_options={"bf": 0},
    )  # fmt: skip
