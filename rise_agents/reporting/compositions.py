"""Films made of films: before beside after, truth above imagination, and GIFs for pages that show no video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rise_agents.reporting.filming import caption
from rise_env.envs.drawing import picture
from rise_env.errors import ConfigError, requirement
from rise_env.files import atomic_path

__all__ = ["imagined_film", "side_by_side", "write_gif"]

_GAP, _GROUND = 6, 24
_GIF_BYTES, _GIF_FPS = 2_000_000, 50
#: Pixels that a palette is made from: enough for the smallest brick, and a second faster than all.
_MOSAIC_PIXELS = 200_000


def side_by_side(before: np.ndarray, after: np.ndarray, labels: tuple[str, str]) -> np.ndarray:
    """Two films uint8 (T, H, W, 3) in one, each under its label; the shorter stays on its last picture.

    Raises:
        ConfigError: If a film is empty or of another kind, or their heights differ.
    """
    for name, film in (("before", before), ("after", after)):
        _check_film(film, f"side_by_side: {name}")
    if before.shape[1] != after.shape[1]:
        raise ConfigError(f"side_by_side: the films are {before.shape[1]} and {after.shape[1]} pixels high")
    left, right = (
        np.stack([caption(frame, label) for frame in film]) for film, label in zip((before, after), labels, strict=True)
    )
    gap = np.full((left.shape[1], _GAP, 3), _GROUND, np.uint8)
    return np.stack([
        np.concatenate([left[min(t, len(left) - 1)], gap, right[min(t, len(right) - 1)]], axis=1)
        for t in range(max(len(left), len(right)))
    ])  # fmt: skip


def imagined_film(real: np.ndarray, imagined: np.ndarray, action_label: str, values: Sequence[float]) -> np.ndarray:
    """What the cameras saw, and below it what the world model imagined for the same actions; uint8 (K, H', W', 3).

    Both are uint8 (K, V, H, W, 3). `action_label`, on top, says what was done ("the expert's chunk"). The K `values` of
    the imagined frames become bars from 0 to 1.

    Raises:
        ConfigError: If shapes or numbers do not fit.
    """
    if real.shape != imagined.shape or real.dtype != np.uint8 or imagined.dtype != np.uint8:
        raise ConfigError(
            f"imagined_film wants two uint8 arrays of one shape (K, V, H, W, 3): real is {real.dtype} {real.shape}, "
            f"imagined is {imagined.dtype} {imagined.shape}"
        )
    if real.ndim != 5 or real.shape[-1] != 3 or 0 in real.shape:
        raise ConfigError(f"imagined_film: the frames are {real.shape}, expected (K, V, H, W, 3) with K at least 1")
    if len(values) != len(real) or not np.isfinite(values).all():
        raise ConfigError(f"imagined_film: values must be {len(real)} finite numbers, got {list(values)}")
    film = []
    for k, value in enumerate(map(float, values)):
        number = f"frame {k + 1} of {len(real)}"
        above = picture(real[k], ["real", number], None)
        below = picture(imagined[k], ["imagined", number, f"value {value:.2f}"], value)
        film.append(caption(np.concatenate([above, below]), action_label))
    return np.stack(film)


def write_gif(path: str | Path, frames: np.ndarray, fps: float, width: int, most_bytes: int = _GIF_BYTES) -> Path:
    """Write a GIF that repeats for ever, small enough for a README.

    All pictures share one palette and are not dithered: what does not move costs nothing. Where the file would be too
    large, the palette is halved, down to 32 colours.

    Args:
        path: File to write, in one step.
        frames: uint8 (T, H, W, 3).
        fps: Pictures per second, at most 50: viewers slow down what is faster.
        width: Width to scale to, pixels.
        most_bytes: Largest file.

    Raises:
        ConfigError: If an argument is wrong, or no palette makes it small enough.
    """
    from PIL import Image

    _check_film(frames, "write_gif")
    if not 0 < fps <= _GIF_FPS:
        raise ConfigError(f"write_gif: fps is {fps}, expected above 0 and at most {_GIF_FPS}; leave out pictures")
    requirement("write_gif").at_least(1, width=width)
    size = (width, max(1, round(width * frames.shape[1] / frames.shape[2])))
    small = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    sample = [np.asarray(small[t]) for t in np.unique(np.linspace(0, len(small) - 1, 16).round().astype(int))]
    mosaic = np.concatenate(sample)
    every = max(1, round((mosaic.size / 3 / _MOSAIC_PIXELS) ** 0.5))
    colours = Image.fromarray(np.ascontiguousarray(mosaic[::every, ::every]))
    # GIF counts in hundredths of a second. Rounding the times, not the durations, keeps the film's length.
    durations = np.diff(np.round(np.arange(len(small) + 1) * 100 / fps).astype(int)) * 10
    path = Path(path)
    with atomic_path(path) as aside:
        for count in (255, 128, 64, 32):  # one of 256 is left to say "as before"
            shared = colours.quantize(count, Image.Quantize.MEDIANCUT)
            first, *others = (image.quantize(palette=shared, dither=Image.Dither.NONE) for image in small)
            # Without `palette` every picture would bring its own; `optimize` leaves out what is as before.
            first.save(
                aside, format="GIF", save_all=True, append_images=others, duration=durations.tolist(),
                palette=bytes(shared.getpalette() or b""), optimize=True, disposal=1, loop=0,
            )  # fmt: skip
            if (written := aside.stat().st_size) <= most_bytes:
                return path
        raise ConfigError(
            f"write_gif: {len(frames)} pictures {width} pixels wide are {written / 1e6:.1f} MB with 32 colours, more "
            f"than {most_bytes / 1e6:.1f} MB. Take fewer pictures or a smaller width."
        )


def _check_film(film: np.ndarray, name: str) -> None:
    if film.ndim != 4 or film.shape[-1] != 3 or film.dtype != np.uint8 or 0 in film.shape:
        raise ConfigError(f"{name} is {film.dtype} {film.shape}, expected uint8 (T, H, W, 3) with T at least 1")
