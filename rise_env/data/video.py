"""Camera frames of a dataset as steps of work on one array; every video is decoded once, from front to back."""

from __future__ import annotations

import bisect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rise_env.data.cache import Step, fingerprint
from rise_env.data.parquet import read_parquet
from rise_env.data.source import DataFile, Source, VideoSegment
from rise_env.errors import DatasetError
from rise_env.tasks import TaskSpec

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig


__all__ = ["Piece", "decode_image", "decode_video", "decoding_steps", "frames_fingerprint", "resize", "video_encoder"]

_VERSION = 1
_LOSSLESS_BELOW = 128  # pixels


class Piece(NamedTuple):
    """An episode in a video file: index, segment, number of frames, and the row that its first frame goes to."""

    episode: int
    segment: VideoSegment
    length: int
    target: int


def decode_video(path: Path, pieces: list[Piece], fps: int, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames of some episodes in a video file, resized to a height and width (see `resize`).

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
        problem = f"damaged or cut short: {error.strerror or error}. Copy or record it again."
        raise DatasetError(f"video {where} is {problem}") from error
    missing = sorted(rows.values())
    piece = next(p for p in pieces if p.target <= missing[0] < p.target + p.length)
    lost = sum(piece.target <= row < piece.target + piece.length for row in missing)
    raise DatasetError(
        f"video {path}: episode {piece.episode} has {piece.length} frames in the metadata, "
        f"{piece.length - lost} could be decoded. The file is damaged or cut short."
    )


def _match(path: Path, pieces: list[Piece], fps: int) -> dict[int, int]:
    """Row of every wanted frame by its presentation timestamp, from the packets alone."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise DatasetError(f"video {path} (episode {pieces[0].episode}) has no video: damaged or cut short")
        stream = container.streams.video[0]
        base = stream.time_base
        assert base is not None
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
    times = [float(stamp * base) for stamp in stamps]
    rows: dict[int, int] = {}
    half = 0.5 / fps
    for piece in pieces:
        first, last, start = 0, len(times), piece.segment.start
        if not piece.segment.whole:
            first = bisect.bisect_left(times, start - half)
            last = bisect.bisect_left(times, start + piece.length / fps - half)
        if last - first != piece.length:
            raise DatasetError(
                f"video {path}: episode {piece.episode} should have {piece.length} frames from {start:.3f} s on, "
                f"found {last - first}. The video is cut short or does not belong to this dataset."
            )
        rows.update({stamps[first + i]: piece.target + i for i in range(piece.length)})
    return rows


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


def decode_image(content: bytes, size: tuple[int, int], where: str) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a PNG, JPEG or alike; a DatasetError that says `where` if it is damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return resize(np.asarray(image.convert("RGB")), size)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{where}: not a readable image: {error}") from error


def frames_fingerprint(source: Source, spec: TaskSpec) -> str:
    """Fingerprint of the decoded frames; free of the directory's name, so that a renamed dataset keeps its cache."""
    keys = list(spec.cameras.values())
    files = {segment.path for key in keys for segment in source.videos.get(key, ())}
    if any(key not in source.videos for key in keys):
        files |= {file.path for file in source.data_files}
    stamps = {str(path.relative_to(source.root)): _stamp(path) for path in sorted(files)}
    segments = {k: [[str(s.path.relative_to(source.root)), s.start] for s in source.videos.get(k, ())] for k in keys}
    return fingerprint([_VERSION, keys, spec.image_size, source.fps, source.lengths.tolist(), segments, stamps])


def decoding_steps(source: Source, spec: TaskSpec) -> list[Step]:
    """Steps on an array uint8 (N, V, H, W, 3) that decode the cameras of a task, file by file.

    They raise DatasetError where a video or image is missing or damaged.
    """
    starts = np.cumsum(source.lengths) - source.lengths
    steps = []
    for view, key in enumerate(spec.cameras.values()):
        if key not in source.videos:
            steps += [_image_step(source, spec, starts, view, key, file) for file in source.data_files]
            continue
        members: dict[Path, list[Piece]] = {}
        for episode, segment in enumerate(source.videos[key]):
            piece = Piece(episode, segment, int(source.lengths[episode]), int(starts[episode]))
            members.setdefault(segment.path, []).append(piece)
        steps += [_video_step(source, spec, view, path, pieces) for path, pieces in members.items()]
    return steps


def _video_step(source: Source, spec: TaskSpec, view: int, path: Path, pieces: list[Piece]) -> Step:
    def run(array: np.ndarray, advance: Any) -> None:
        for row, image in decode_video(path, pieces, source.fps, spec.image_size):
            array[row, view] = image
            advance(1)

    return Step(f"{view}:{path.relative_to(source.root)}", sum(piece.length for piece in pieces), run)


def _image_step(source: Source, spec: TaskSpec, starts: np.ndarray, view: int, key: str, file: DataFile) -> Step:
    """A camera whose images lie in the parquet files, as PNG or JPEG."""

    def run(array: np.ndarray, advance: Any) -> None:
        table = read_parquet(file.path, ["episode_index", "frame_index", key])
        episodes, numbers = table["episode_index"].to_numpy(), table["frame_index"].to_numpy()
        for row, (episode, number) in enumerate(zip(episodes, numbers, strict=True)):
            where = f"{file.path}, episode {episode}, frame {number}, {key}"
            content = (table[key][row].as_py() or {}).get("bytes")
            if content is None:
                raise DatasetError(f"{where}: the file holds no image")
            array[starts[episode] + number, view] = decode_image(content, spec.image_size, where)
            advance(1)

    return Step(f"{view}:{file.path.relative_to(source.root)}", file.rows, run)


def _stamp(path: Path) -> list[int]:
    try:
        facts = path.stat()
    except OSError:
        return []  # decoding raises: it is missing
    return [facts.st_size, facts.st_mtime_ns]


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
