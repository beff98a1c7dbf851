"""Pictures: decoding of videos and images, resizing, and how recordings are encoded."""

from __future__ import annotations

import bisect
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping
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
    """An episode in a video file.

    Attributes:
        number: Its number in the files of the dataset.
        segment: Where it lies.
        length: Its frames.
        episode: Its index in what is read of the dataset; None if it is left out, and only takes its place in the file.
        target: Row that its first frame goes to.
    """

    number: int
    segment: VideoSegment
    length: int
    episode: int | None
    target: int


class DamagedError(DatasetError):
    """A file is damaged or does not fit; `episodes` says what is wrong with each of those that lose frames by it."""

    def __init__(self, episodes: Mapping[int, str]) -> None:
        super().__init__("\n".join(dict.fromkeys(episodes.values())))
        self.episodes = episodes


def decode_video(
    path: Path, pieces: list[Piece], fps: float | None, size: tuple[int, int], recorded: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames of the episodes in a video file that are read, resized to a height and width (see `resize`).

    Frames that the decoder reports as damaged are left out, with all that build on them; so are episodes whose place in
    the file is not certain. What can be had is yielded before the error is raised.

    Args:
        path: File.
        pieces: All episodes in it, also those that are left out.
        fps: Frames per second; None if nobody knows, and the file holds one episode.
        size: Height and width to give.
        recorded: Height and width that the pictures must have.

    Yields:
        Row of the frame (`target` + number in the episode) and uint8 RGB (H, W, 3), in the order of the video.

    Raises:
        DamagedError: If the file is missing or damaged, has pictures of another size, or an episode has fewer or more
            frames in it than it should, or shares a frame with another.
    """
    import av

    def damage(text: str) -> DamagedError:
        return DamagedError({piece.episode: text for piece in pieces if piece.episode is not None})

    listed = ", ".join(str(piece.number) for piece in pieces[:4]) + (", ..." if len(pieces) > 4 else "")
    where = f"{path} (episode{'s' if len(pieces) > 1 else ''} {listed})"
    rows: dict[int, int] = {}
    problems: dict[int, str] = {}
    broken = ""
    try:
        if not path.is_file():
            raise damage(f"video {where} is missing")
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise damage(f"video {where} has no video: damaged or cut short")
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
                        raise damage(
                            f"video {where} has pictures of {frame.height}x{frame.width}, info.json says {expected} "
                            "(height x width). Put the right file there, or correct `shape` of the feature."
                        )
                    row = rows.pop(frame.pts, None) if sound and frame.pts is not None else None
                    if row is not None:
                        yield row, resize(frame, size)
                if not rows:
                    break
    except (av.FFmpegError, OSError) as error:
        if not rows:
            problem = f"damaged or cut short: {error.strerror or error}. Copy or record it again."
            raise damage(f"video {where} is {problem}") from error
        broken = broken or f"{error.strerror or error}"
    missing = np.array(sorted(rows.values()), np.int64)
    for piece in pieces:
        lost = int(((missing >= piece.target) & (missing < piece.target + piece.length)).sum())
        if lost and piece.episode is not None:
            problems[piece.episode] = (
                f"video {where}: episode {piece.number} has {piece.length} frames in the metadata, "
                f"{piece.length - lost} could be decoded ({broken or 'they end before'}). The file is damaged or cut "
                "short. Copy or record it again."
            )
    if problems:
        raise DamagedError(problems)


def _match(container: Any, pieces: list[Piece], rate: float | None) -> tuple[dict[int, int], dict[int, str]]:
    """Row of every wanted frame by its presentation timestamp, from the packets alone; what is wrong, by episode."""
    path, stream, fps = Path(container.name), container.streams.video[0], rate or 1.0
    stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    times = [float(stamp * stream.time_base) for stamp in stamps]
    if twice := sum(a == b for a, b in itertools.pairwise(stamps)):
        text = f"video {path}: {twice} frames have the time stamp of another. The file is damaged: record it again."
        return {}, {piece.episode: text for piece in pieces if piece.episode is not None}
    pieces = sorted(pieces, key=lambda piece: piece.segment.start)
    tiles = sum(piece.length for piece in pieces) == len(times)
    firsts = np.cumsum([0, *(piece.length for piece in pieces)]).tolist()
    if tiles and all(abs(times[n] - p.segment.start) * fps < 1.5 for p, n in zip(pieces, firsts, strict=False)):
        # One after another without a gap: their numbers say where they are, whatever the rounding of the time stamps.
        places = {piece.number: (first, first + piece.length) for piece, first in zip(pieces, firsts, strict=False)}
    else:
        places = {piece.number: _span(piece, times, fps) for piece in pieces}
    found: dict[int, str] = {}
    for piece in pieces:
        first, last = places[piece.number]
        if last - first != piece.length:
            found[piece.number] = (
                f"video {path}: episode {piece.number} should have {piece.length} frames from "
                f"{piece.segment.start:.3f} s on, found {last - first}. The video is cut short or does not belong to "
                "this dataset."
            )
        elif not piece.segment.whole and abs(times[first] - piece.segment.start) * fps > (1.5 if tiles else 0.4):
            found[piece.number] = (
                f"video {path}: episode {piece.number} should begin at {piece.segment.start:.3f} s, between two "
                f"frames; the nearest is at {times[first]:.3f} s. Correct from_timestamp in meta/episodes."
            )
    for before, after in itertools.pairwise(pieces):
        if places[after.number][0] < places[before.number][1]:
            text = (
                f"video {path}: episodes {before.number} and {after.number} both claim the frame at "
                f"{times[places[after.number][0]]:.3f} s: episode {before.number} has {before.length} frames from "
                f"{before.segment.start:.3f} s on, episode {after.number} begins at {after.segment.start:.3f} s. "
                "Correct from_timestamp in meta/episodes."
            )
            found |= dict.fromkeys((before.number, after.number), text)
    if not found:
        _warn_of_pace(path, pieces, times, rate)
    problems = {p.episode: found[p.number] for p in pieces if p.number in found and p.episode is not None}
    rows = {
        stamps[places[piece.number][0] + i]: piece.target + i
        for piece in pieces if piece.episode is not None and piece.number not in found for i in range(piece.length)
    }  # fmt: skip
    return rows, problems


def _warn_of_pace(path: Path, pieces: list[Piece], times: list[float], rate: float | None) -> None:
    """Warn of what is no error by itself, and yet pictures and table may not belong together."""
    if spare := len(times) - sum(piece.length for piece in pieces):
        warnings.warn(
            f"video {path} has {spare} frames that belong to no episode. If pictures come earlier or "
            "later than the table says, correct from_timestamp in meta/episodes.", stacklevel=2,
        )  # fmt: skip
    if rate and len(times) > 1 and not 0.9 < (pace := float(np.median(np.diff(times))) * rate) < 1.1:
        warnings.warn(
            f"video {path} has {rate / pace:.3g} frames per second, info.json says {rate:g}. One of them is wrong: a "
            "policy would act at the wrong speed.", stacklevel=2,
        )  # fmt: skip


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
            if image.mode.startswith(("I", "F")):  # PIL would clip them to white
                raise DatasetError(f"{where}: a picture of mode {image.mode} (depth, 16 bits), expected 8-bit colour")
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
