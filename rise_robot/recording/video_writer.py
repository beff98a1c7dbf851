"""One camera's video of one episode, with the statistics of its pictures, encoded at once or in a thread beside."""

from __future__ import annotations

import contextlib
import queue
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig

__all__ = ["BackgroundVideoWriter", "PixelCounts", "VideoWriter"]

_QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
_QUEUE_FRAMES = 64
_POLL_SECONDS = 0.1


class PixelCounts:
    """How often each value of each colour channel occurs: statistics that are exact and cost next to nothing.

    LeRobot's encoder keeps histograms of 5,000 bins for values that can only be 256, which takes five times as long as
    the encoding itself.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, image: np.ndarray) -> None:
        """Count the pixels of a picture, uint8 (H, W, 3)."""
        pixels = image.reshape(-1, 3)
        for channel in range(3):
            self._counts[channel] += np.bincount(pixels[:, channel], minlength=256)

    def statistics(self) -> dict[str, np.ndarray]:
        """As in a dataset: float64 (3, 1, 1) each, of values in [0, 1]; `count`, the pixels, is int64 (1,)."""
        counts, values = self._counts, np.arange(256) / 255
        number = int(counts[0].sum())
        mean = counts @ values / number
        spread = np.sqrt(((values - mean[:, None]) ** 2 * counts).sum(1) / number)
        there = counts > 0
        found = {"min": values[there.argmax(1)], "max": values[255 - there[:, ::-1].argmax(1)]}
        found |= {"mean": mean, "std": spread}
        below = counts.cumsum(1)
        for share in _QUANTILES:
            found[f"q{round(100 * share):02d}"] = values[(below >= share * number).argmax(1)]
        return {"count": np.array([number]), **{name: value.reshape(3, 1, 1) for name, value in found.items()}}


class VideoWriter:
    """Encodes pictures into a file as they come.

    Args:
        path: File to write; its folder is made.
        fps: Pictures per second.
        encoder: Settings.
    """

    def __init__(self, path: Path, fps: int, encoder: RGBEncoderConfig) -> None:
        self.path, self._fps, self._encoder = path, fps, encoder
        self._counts, self._frames = PixelCounts(), 0
        self._container: Any = None
        self._stream: Any = None

    def add(self, image: np.ndarray) -> None:
        """Append a picture, uint8 (H, W, 3) RGB; OSError or ValueError if it cannot be encoded."""
        if self._container is None:
            self._open(*image.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self._counts.add(image)
        self._frames += 1

    def _open(self, height: int, width: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self.path), "w")
        options = self._encoder.get_codec_options(1, as_strings=True)
        self._stream = self._container.add_stream(self._encoder.vcodec, self._fps, options=options)
        self._stream.pix_fmt, self._stream.width, self._stream.height = self._encoder.pix_fmt, width, height
        self._stream.time_base = Fraction(1, self._fps)

    def finish(self) -> dict[str, np.ndarray]:
        """Complete the file; gives the statistics of its pictures. Errors as of `add`."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._counts.statistics()

    def discard(self) -> None:
        """Stop; what was written is of no use."""
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, OSError, RuntimeError, ValueError):  # an encoder that had failed
                self._container.close()


class BackgroundVideoWriter:
    """A `VideoWriter` in a thread of its own, so that whoever controls a robot need not wait for the encoder.

    Errors of the encoder are raised by the next call. A full queue makes `add` wait: no picture is dropped.
    """

    def __init__(self, path: Path, fps: int, encoder: RGBEncoderConfig) -> None:
        self.path = path
        self._writer = VideoWriter(path, fps, encoder)
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(_QUEUE_FRAMES)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (image := self._queue.get()) is not None:
                self._writer.add(image)
        except Exception as error:  # noqa: BLE001  (raised where the pictures come from)
            self._error = error

    def _put(self, image: np.ndarray | None) -> None:
        while self._error is None:
            try:
                return self._queue.put(image, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def add(self, image: np.ndarray) -> None:
        """See `VideoWriter.add`; the picture is copied."""
        self._put(image.copy())
        self._check()

    def finish(self) -> dict[str, np.ndarray]:
        """See `VideoWriter.finish`."""
        self._put(None)
        self._thread.join()
        self._check()
        return self._writer.finish()

    def discard(self) -> None:
        """See `VideoWriter.discard`."""
        self._put(None)
        self._thread.join()
        self._writer.discard()
