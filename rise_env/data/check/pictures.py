"""What cameras recorded, measured while videos are decoded: numbers per frame, and no more pictures than a page "
"shows.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rise_env.data.check.reading import Motion
from rise_env.data.frames import decoding_steps
from rise_env.data.source import Source
from rise_env.data.video import DamagedError
from rise_env.errors import DatasetError

__all__ = ["Camera", "Meter", "read_camera", "read_pictures"]

#: Longest side of the pictures that are measured and shown, pixels.
_LONGEST = 192
#: Blocks along the shorter side, whose means are compared: noise and compression average out, motion does not.
_BLOCKS = 24
#: Pictures of an episode's film.
_FILMED = 100


@dataclass
class Camera:
    """What a camera recorded; NaN where a frame could not be decoded.

    Attributes:
        key: Its feature.
        size: Height and width of its pictures.
        brightness: Mean grey level, float32 (N,).
        contrast: Deviation of grey levels within a picture, float32 (N,).
        change: Largest change of a block since the frame before, brightness apart, grey levels, float32 (N,); NaN at
            the first frame of an episode.
        drift: The same, since `window` frames before.
        shift: Change of brightness that all blocks share, grey levels, float32 (N,).
        alike: Correlation of the blocks with those of the frame before, float32 (N,).
        window: Frames that `drift` looks back.
        firsts: Blocks of the first picture of every episode, uint8 (E, h, w).
        films: Pictures by episode (its place among those that were read), then by row.
        damaged: What is wrong with episodes of which pictures are missing, by their number.
        warnings: What else the decoder had to say.
    """

    key: str
    size: tuple[int, int]
    brightness: np.ndarray
    contrast: np.ndarray
    change: np.ndarray
    drift: np.ndarray
    shift: np.ndarray
    alike: np.ndarray
    window: int
    firsts: np.ndarray
    films: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its key without what all cameras share."""
        return self.key.removeprefix("observation.").removeprefix("images.").removeprefix("image.")


def read_camera(
    source: Source, key: str, motion: Motion, filmed: Collection[int], advance: Callable[[int], None] = lambda _: None
) -> Camera:
    """Decode a camera once and measure it.

    Args:
        source: Dataset, without episodes whose joint values cannot be read.
        key: Feature of the camera.
        motion: Joint values of the same episodes.
        filmed: Which of them are shown.
        advance: Called with the number of frames just decoded.
    """
    size = _size_of(source, key)
    meter = Meter(key, source.features[key].image_size, size, motion, filmed)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in decoding_steps(source, [key], size):
            try:
                step.run(meter, advance)
            except DamagedError as error:
                meter.camera.damaged |= {int(source.numbers[i]): text for i, text in error.episodes.items()}
            except DatasetError as error:
                meter.camera.damaged |= dict.fromkeys(source.numbers.tolist(), str(error))
    meter.camera.warnings = list(dict.fromkeys(str(one.message) for one in said if one.category is UserWarning))
    return meter.camera


def read_pictures(source: Source, key: str, motion: Motion, rows: Collection[int]) -> dict[int, np.ndarray]:
    """Pictures of a camera, uint8 RGB (H, W, 3) by row of `motion`; those that cannot be decoded are left out.

    The video files in which they lie are decoded again, up to them.
    """
    places = [int(np.searchsorted(motion.starts, row, side="right")) - 1 for row in rows]
    needed = set(motion.numbers[places].tolist())
    numbers = source.numbers.tolist()
    part = source.without({i for i, number in enumerate(numbers) if number not in needed})
    starts = dict(zip(part.numbers.tolist(), (np.cumsum(part.lengths) - part.lengths).tolist(), strict=True))
    wanted = {
        starts[int(motion.numbers[place])] + row - int(motion.starts[place]): row
        for row, place in zip(rows, places, strict=True)
    }
    keeper = _Keeper(wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told when they were measured
        for step in decoding_steps(part, [key], _size_of(source, key)):
            with contextlib.suppress(DatasetError):
                step.run(keeper, lambda _: None)
    return keeper.pictures


class _Keeper:
    """Keeps the pictures of some rows, under other numbers."""

    def __init__(self, wanted: dict[int, int]) -> None:
        self._wanted = wanted
        self.pictures: dict[int, np.ndarray] = {}

    def __setitem__(self, place: Any, image: np.ndarray) -> None:
        if int(place[0]) in self._wanted:
            self.pictures[self._wanted[int(place[0])]] = image.copy()


def _size_of(source: Source, key: str) -> tuple[int, int]:
    """Height and width at which a camera is measured and shown."""
    height, width = source.features[key].image_size
    scale = min(1.0, _LONGEST / max(height, width))
    return max(2, round(height * scale)), max(2, round(width * scale))


class Meter:
    """Measures pictures as they come, in the place of the array that they are decoded into.

    Args:
        key: Feature of the camera.
        recorded: Height and width of its pictures.
        size: Height and width at which they come.
        motion: Joint values of the episodes.
        filmed: Which of them are shown.

    Attributes:
        camera: What was measured.
    """

    def __init__(
        self, key: str, recorded: tuple[int, int], size: tuple[int, int], motion: Motion, filmed: Collection[int] = ()
    ) -> None:
        count, episodes = int(motion.lengths.sum()), len(motion.lengths)
        self._block = max(1, min(size) // _BLOCKS)
        grid = (size[0] // self._block, size[1] // self._block)

        def blank() -> np.ndarray:
            return np.full(count, np.nan, np.float32)

        self.camera = Camera(
            key, recorded,
            brightness=blank(), contrast=blank(), change=blank(), drift=blank(), shift=blank(), alike=blank(),
            window=max(2, round(motion.fps / 2)), firsts=np.zeros((episodes, *grid), np.uint8),
        )  # fmt: skip
        self._starts, self._lengths = motion.starts, motion.lengths
        self._filmed = set(filmed)
        self._past: dict[int, np.ndarray] = {}

    def __setitem__(self, place: Any, image: np.ndarray) -> None:
        row, camera = int(place[0]), self.camera
        episode = int(np.searchsorted(self._starts, row, side="right")) - 1
        frame = row - int(self._starts[episode])
        blocks = self._blocks(image)
        camera.brightness[row], camera.contrast[row] = blocks.mean(), blocks.std()
        if frame == 0:
            self._past = {}
            camera.firsts[episode] = blocks
        before = self._past.get(row - 1)
        if before is not None:
            difference = blocks - before
            camera.shift[row] = _middle(difference)
            camera.change[row] = np.abs(difference - camera.shift[row]).max()
            camera.alike[row] = _correlation(blocks, before)
        earlier = self._past.pop(row - camera.window, None)
        if earlier is not None:
            difference = blocks - earlier
            camera.drift[row] = np.abs(difference - _middle(difference)).max()
        self._past[row] = blocks
        if episode in self._filmed and frame % -(-int(self._lengths[episode]) // _FILMED) == 0:
            camera.films.setdefault(episode, {})[row] = image.copy()

    def _blocks(self, image: np.ndarray) -> np.ndarray:
        """Means of blocks of grey levels, float32 (h, w)."""
        size, (height, width) = self._block, self.camera.firsts.shape[1:]
        grey = image[: height * size, : width * size].reshape(height, size, -1)
        rows = grey.sum(axis=1, dtype=np.uint16).reshape(height * width, -1)  # a block is no higher than 256 pixels
        return np.asarray(rows @ np.full(rows.shape[1], 1 / (size * rows.shape[1]), np.float32)).reshape(height, width)


def _middle(values: np.ndarray) -> float:
    """Median; NumPy's own takes as long as decoding."""
    flat = values.reshape(-1)
    return float(np.partition(flat, len(flat) // 2)[len(flat) // 2])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-6 else 1.0
