"""Films made of films show both, to the end, and GIFs keep time and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from rise_agents.reporting.compositions import imagined_film, side_by_side, write_gif
from rise_agents.reporting.filming import caption
from rise_env.errors import ConfigError


def film(length: int, height: int = 30, width: int = 40, base: int = 0) -> np.ndarray:
    """Picture t is grey of brightness base + 10 t."""
    return np.stack([np.full((height, width, 3), base + 10 * t, np.uint8) for t in range(length)])


@pytest.mark.parametrize(("left", "right"), [(3, 7), (7, 3), (4, 4)])
def test_the_shorter_film_stays_on_its_last_picture(left: int, right: int) -> None:
    both = side_by_side(film(left), film(right, width=50, base=100), ("before", "after"))
    assert both.dtype == np.uint8
    assert len(both) == 7 if left != right else 4
    strip = caption(film(1)[0], "").shape[0] - 30
    assert both.shape[1] == 30 + strip
    for t in range(len(both)):
        below = both[t, strip:]
        assert (below[:, :40] == 10 * min(t, left - 1)).all()
        assert (below[:, -50:] == 100 + 10 * min(t, right - 1)).all()
    assert (both[0, :strip, :40] == caption(film(1)[0], "before")[:strip]).all()
    assert (both[0, :strip, :40] != caption(film(1)[0], "after")[:strip]).any()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (film(1)[:0], film(3), "before is uint8"),
        (film(3), film(3).astype(float), "after is float64"),
        (film(3), film(3)[..., 0], r"after is uint8 \(3, 30, 40\)"),
        (film(3), film(3, height=31), "30 and 31 pixels high"),
    ],
)
def test_films_that_do_not_fit(before: np.ndarray, after: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        side_by_side(before, after, ("a", "b"))


def frames(brightness: int, count: int = 4, views: int = 3) -> np.ndarray:
    return np.full((count, views, 32, 40, 3), brightness, np.uint8)


def test_truth_is_above_imagination_with_its_values() -> None:
    shown = imagined_film(frames(200), frames(90), "expert", [0.1, 0.4, 0.7, 1.0])
    assert shown.shape[0] == 4
    real, imagined = (shown == 200).all(-1), (shown == 90).all(-1)
    assert real.sum() == imagined.sum() == 4 * 3 * 160 * 200
    assert np.nonzero(real[0])[0].max() < np.nonzero(imagined[0])[0].min()
    bar = (shown == (64, 170, 110)).all(-1)
    middle = np.nonzero(imagined[0])[0].min()
    above, below = bar[:, :middle].sum((1, 2)), bar[:, middle:].sum((1, 2))
    assert (np.diff(below) > 0).all()
    assert not above.any()
    assert (shown[0][:30] == shown[1][:30]).all()  # the label
    assert (shown[0][30:middle] != shown[1][30:middle]).any()  # the frame number


@pytest.mark.parametrize(
    ("real", "imagined", "values", "message"),
    [
        (frames(0), frames(0, count=3), None, r"one shape.*imagined is uint8 \(3,"),
        (frames(0), frames(0).astype(np.float32), None, "imagined is float32"),
        (frames(0)[:, 0], frames(0)[:, 0], None, r"expected \(K, V, H, W, 3\)"),
        (frames(0, count=0), frames(0, count=0), None, "K at least 1"),
        (frames(0), frames(0), [0.5] * 3, "values must be 4 finite numbers"),
        (frames(0), frames(0), [0.5, 0.5, 0.5, float("nan")], "values must be 4 finite numbers"),
    ],
)
def test_imagination_that_does_not_fit(real: np.ndarray, imagined: np.ndarray, values: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        imagined_film(real, imagined, "expert", values)


def moving(length: int, noise: float = 0.0) -> np.ndarray:
    """A red square that moves over a still picture of many colours."""
    rows, columns = np.mgrid[:120, :160]
    still = np.stack([rows + 60, columns + 40, 255 - rows], axis=-1).astype(np.uint8)
    pictures = np.repeat(still[None], length, axis=0)
    for t in range(length):
        pictures[t, 40:60, 4 * t : 4 * t + 20] = (230, 30, 30)
    random = np.random.default_rng(0).normal(0, noise, pictures.shape)
    return np.clip(pictures + random, 0, 255).astype(np.uint8)


def local_palettes(content: bytes) -> int:
    """Number of pictures of a GIF that bring a palette of their own (GIF89a, sections 18 to 23)."""
    assert content[:6] == b"GIF89a"
    place, count = 13 + 3 * 2 ** ((content[10] & 7) + 1) * (content[10] >> 7), 0
    while content[place] != 0x3B:
        if content[place] == 0x2C:
            flags = content[place + 9]
            count += flags >> 7
            place += 11 + 3 * 2 ** ((flags & 7) + 1) * (flags >> 7)
        else:
            place += 2
        while content[place]:
            place += content[place] + 1
        place += 1
    return count


def test_gif_keeps_time_size_and_colours(tmp_path: Path) -> None:
    pictures = np.repeat(moving(15), 2, axis=0)  # every picture twice: those are merged, their time is not lost
    path = write_gif(tmp_path / "sub" / "film.gif", pictures, fps=15, width=80)
    with Image.open(path) as gif:
        assert gif.size == (80, 60)
        assert gif.info["loop"] == 0
        shown = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert sum(duration for _, duration in shown) == 2000
    assert len(shown) == 15
    for t in (0, 7, 14):
        wanted = np.asarray(Image.fromarray(pictures[2 * t]).resize((80, 60), Image.Resampling.LANCZOS), float)
        assert np.abs(shown[t][0] - wanted).mean() < 6
    assert local_palettes(path.read_bytes()) == 0
    assert [file.name for file in path.parent.iterdir()] == ["film.gif"]


@pytest.mark.parametrize("pictures", [moving(1), film(1), np.repeat(moving(1), 5, axis=0), film(3)])
def test_gif_of_little(tmp_path: Path, pictures: np.ndarray) -> None:
    path = write_gif(tmp_path / "film.gif", pictures, fps=10, width=40)
    with Image.open(path) as gif:
        shown = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert len(shown) == len(np.unique(pictures, axis=0))
    assert sum(duration for _, duration in shown) == 100 * len(pictures)
    last = np.asarray(Image.fromarray(pictures[-1]).resize((40, 30), Image.Resampling.LANCZOS), float)
    assert np.abs(shown[-1][0] - last).mean() < 6


def test_gif_takes_fewer_colours_before_it_gives_up(tmp_path: Path) -> None:
    noisy = moving(6, noise=12)[:, ::3, ::3]
    full = write_gif(tmp_path / "full.gif", noisy, 10, 53).stat().st_size
    small = write_gif(tmp_path / "small.gif", noisy, 10, 53, most_bytes=full * 2 // 3)
    assert small.stat().st_size <= full * 2 // 3
    with pytest.raises(ConfigError, match="fewer pictures or a smaller width"):
        write_gif(tmp_path / "never.gif", noisy, 10, 53, most_bytes=1000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full.gif", "small.gif"]


@pytest.mark.parametrize(
    ("pictures", "fps", "width", "message"),
    [
        (film(3), 60, 40, "fps is 60"),
        (film(3), 0, 40, "fps is 0"),
        (film(3), 10, 0, "width is 0"),
        (film(1)[:0], 10, 40, "expected uint8"),
    ],
)
def test_gif_arguments(tmp_path: Path, pictures: np.ndarray, fps: float, width: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_gif(tmp_path / "film.gif", pictures, fps, width)
