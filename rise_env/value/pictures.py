"""A picture per episode: frames above, the value's curve below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from rise_env.value.labels import FrameDataset, optional_column

__all__ = ["draw_episode", "draw_values"]

_WIDTH, _PLOT, _MARGIN, _TITLE = 960, 260, 44, 22
_INK, _GRID, _VALUE, _TRUTH = (40, 40, 40), (222, 222, 222), (23, 107, 184), (214, 124, 30)
_SPREAD, _FORCED = (198, 221, 242), (253, 236, 200)


def draw_episode(
    frames: np.ndarray,
    frame_numbers: Sequence[int],
    values: np.ndarray,
    spread: np.ndarray,
    *,
    truth: np.ndarray | None = None,
    marked: np.ndarray | None = None,
    title: str = "",
) -> Image.Image:
    """Draw an episode of n frames.

    Args:
        frames: Some of its frames, uint8 (k, V, H, W, 3).
        frame_numbers: Their numbers within the episode, rising.
        values: Value of every frame, (n,).
        spread: Spread of every frame, (n,); drawn as a band.
        truth: Progress label of every frame, (n,), drawn as an orange line.
        marked: Frames with a yellow background (corrections, demonstrations), bool (n,).
        title: Text above.
    """
    count, views, height, width = frames.shape[:4]
    thumb_width = (_WIDTH - 2 * _MARGIN) // count
    thumb_height = max(1, round(thumb_width * height / width))
    top = _TITLE + views * thumb_height + 8
    picture = Image.new("RGB", (_WIDTH, top + _PLOT + 24), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, 5), title, fill=_INK)
    for column in range(count):
        for view in range(views):
            thumb = Image.fromarray(frames[column, view]).resize((thumb_width - 2, thumb_height - 2))
            picture.paste(thumb, (_MARGIN + column * thumb_width, _TITLE + view * thumb_height))

    curves = [values - spread, values + spread, *([] if truth is None else [truth])]
    low = min(0.0, *(float(curve.min()) for curve in curves))
    high = max(1.0, *(float(curve.max()) for curve in curves)) if low >= 0 or float(values.max()) > 0 else 0.0
    steps = np.arange(len(values))
    x = _MARGIN + steps * (_WIDTH - 2 * _MARGIN) / max(len(values) - 1, 1)

    def y(curve: np.ndarray | float) -> np.ndarray:
        return np.asarray(top + (high - np.asarray(curve)) / (high - low) * (_PLOT - 10) + 5)

    if marked is not None:
        for step in np.flatnonzero(marked):
            draw.rectangle((x[step] - 1, top, x[min(step + 1, len(x) - 1)], top + _PLOT), fill=_FORCED)
    for level in np.linspace(low, high, 5):
        draw.line([(_MARGIN, float(y(level))), (_WIDTH - _MARGIN, float(y(level)))], fill=_GRID)
        draw.text((4, float(y(level)) - 6), f"{level:.2f}", fill=_INK)
    if len(values) > 1:
        band = [*_points(x, y(values + spread)), *_points(x, y(values - spread))[::-1]]
        draw.polygon(band, fill=_SPREAD)
        if truth is not None:
            draw.line(_points(x, y(truth)), fill=_TRUTH, width=2)
        draw.line(_points(x, y(values)), fill=_VALUE, width=3)
    for number in frame_numbers:
        draw.line([(x[number], top + _PLOT), (x[number], top + _PLOT + 4)], fill=_INK)
        draw.text((x[number] - 6, top + _PLOT + 6), str(number), fill=_INK)
    return picture


def _points(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def draw_values(
    pixels: FrameDataset,
    number: int,
    values: np.ndarray,
    spread: np.ndarray,
    *,
    marked: np.ndarray | None = None,
    columns: int = 10,
) -> Image.Image:
    """`draw_episode` for an episode of a dataset of pixels, with so many of its frames and its recorded progress."""
    start, length, episode = int(pixels.starts[number]), int(pixels.lengths[number]), pixels.episodes[number]
    shown = np.unique(np.linspace(0, length - 1, min(columns, length)).round().astype(np.int64))
    progress = optional_column(pixels, "progress")
    outcomes: dict[bool | None, str] = {True: "success", False: "failure"}
    return draw_episode(
        np.asarray(pixels.frames(start + shown)),
        shown.tolist(),
        values,
        spread,
        truth=None if progress is None else progress[start : start + length],
        marked=marked,
        title=f"episode {number}, {outcomes.get(getattr(episode, 'success', None), 'no outcome')}: {episode.task}",
    )
