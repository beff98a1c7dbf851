"""Pictures: decoding of videos and images, resizing, and how recordings are encoded."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rise_env.data.placing import Piece, find_places
from rise_env.errors import DatasetError

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig


__all__ = ["DamagedError", "decode_image", "decode_video", "resize", "video_encoder", "video_facts"]

_LOSSLESS_BELOW = 128  # pixels


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


def _match(container: Any, pieces: list[Piece], fps: float | None) -> tuple[dict[int, int], dict[int, str]]:
    """Row of every wanted frame by its presentation timestamp, from the packets alone; what is wrong, by episode."""
    path, stream = Path(container.name), container.streams.video[0]
    stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    mine = {piece.number: piece.episode for piece in pieces if piece.episode is not None}
    if twice := sum(a == b for a, b in itertools.pairwise(stamps)):
        text = f"video {path}: {twice} frames have the time stamp of another. The file is damaged: record it again."
        return {}, dict.fromkeys(mine.values(), text)
    places, found = find_places(path, pieces, [float(stamp * stream.time_base) for stamp in stamps], fps)
    rows = {
        stamps[places[piece.number] + i]: piece.target + i
        for piece in pieces if piece.number in mine and piece.number not in found for i in range(piece.length)
    }  # fmt: skip
    return rows, {mine[number]: text for number, text in found.items() if number in mine}


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
