"""Films, videos and picture grids can be read back and show what they should."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import rise_env  # noqa: F401  (registers the environments)
from rise_agents.policies.resolve import resolve_actor
from rise_agents.reporting.filming import caption, film_episodes, outcome, picture_grid, write_video


def test_a_film_has_a_picture_per_control_step() -> None:
    kwargs = {"preset": "tiny", "num_workers": 0}
    ((episode, frames, fps),) = film_episodes("RISE-BrickSorting-Cell-v0", resolve_actor("expert"), [3], kwargs)
    assert fps == 10
    assert len(frames) == round(episode.seconds * fps)
    assert frames.dtype == np.uint8
    assert outcome(episode) == "success"
    assert (frames[0] != frames[-1]).any()


def test_video_round_trip(tmp_path: Path) -> None:
    frames = np.zeros((5, 33, 47, 3), np.uint8)
    for index in range(5):
        frames[index] = 50 * index
    path = write_video(tmp_path / "sub" / "film.mp4", frames, fps=10, hold_seconds=0.3)
    read = iio.imread(path, plugin="pyav")
    assert read.shape == (8, 32, 46, 3)
    assert read[:5].mean((1, 2, 3)) == pytest.approx([0, 50, 100, 150, 200], abs=4)
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_grid_has_a_captioned_row_per_film(tmp_path: Path) -> None:
    films = [(f"film {n}", np.full((7, 20, 40, 3), 60 * n, np.uint8)) for n in (1, 2, 3)]
    picture = iio.imread(picture_grid(tmp_path / "grid.png", films, columns=4, width=40))
    row = caption(films[0][1][0], "x").shape[0]
    assert picture.shape[:2] == (3 * row, 160)
    assert (picture[row - 1] == 60).all()
    assert (picture[3 * row - 1] == 180).all()
