"""Off-screen images."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest

from rise_env.errors import RenderingUnavailableError
from rise_robot.cell import render
from rise_robot.cell.render import CellRenderer

CAMERAS = ["head", "left_wrist", "right_wrist"]


@pytest.mark.parametrize("size", [(36, 48), (17, 23), (192, 256)])
@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_shape_and_type(new_cell, size: tuple[int, int], supersample: int) -> None:
    cell = new_cell(0)
    images = CellRenderer(cell.model, cell.data, supersample).render(CAMERAS, size)
    assert (images.shape, images.dtype) == ((3, *size, 3), np.uint8)
    assert images.flags.c_contiguous
    assert images.flags.owndata or images.base is not None
    for image in images:
        assert image.std() > 10, "an empty picture"


def test_order_and_company_do_not_matter(new_cell) -> None:
    cell = new_cell(0)
    renderer = CellRenderer(cell.model, cell.data, 2)
    together = renderer.render(CAMERAS, (36, 48))
    for index, camera in enumerate(CAMERAS):
        np.testing.assert_array_equal(renderer.render([camera], (36, 48))[0], together[index])
    np.testing.assert_array_equal(renderer.render(CAMERAS[::-1], (36, 48)), together[::-1])
    assert not np.array_equal(together[1], together[2])


def test_deterministic_across_sizes_cells_and_time(new_cell) -> None:
    cell, other = new_cell(0), new_cell(1, "cell.difficulty=hard", "cell.variation.enabled=true")
    renderer, second = CellRenderer(cell.model, cell.data, 2), CellRenderer(other.model, other.data, 3)
    first = renderer.render(CAMERAS, (36, 48))
    for _ in range(3):
        second.render(["overview", *CAMERAS], (240, 320))  # the context is shared and grows
        np.testing.assert_array_equal(renderer.render(CAMERAS, (36, 48)), first)
    np.testing.assert_array_equal(CellRenderer(cell.model, cell.data, 2).render(CAMERAS, (36, 48)), first)


def test_rendering_moves_nothing(new_cell) -> None:
    cell = new_cell(0)
    cell.step(cell.command)
    before = cell.save()
    CellRenderer(cell.model, cell.data).render([*CAMERAS, "overview"], (36, 48))
    after = cell.save()
    for key, value in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[key], value)


def test_what_is_left_out_would_not_have_been_seen(new_cell, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, rng = new_cell(0, "cell.variation.enabled=true"), np.random.default_rng(0)
    cameras, renderer = [*CAMERAS, "overview"], CellRenderer(cell.model, cell.data, 1)
    find, drawn = CellRenderer._in_view, list[np.ndarray]()

    def in_view(*args: Any) -> np.ndarray:
        drawn.append(find(*args))
        return drawn[-1]

    monkeypatch.setattr(CellRenderer, "_in_view", in_view)
    for _ in range(8):
        cell.step(cell.command + rng.normal(0, 0.25, cell.command.shape))
        found = renderer.render(cameras, (48, 40))
        with monkeypatch.context() as everything:
            everything.setattr(CellRenderer, "_in_view", lambda *args: np.ones_like(find(*args)))
            np.testing.assert_array_equal(renderer.render(cameras, (48, 40)), found)
    assert not cell.model.geom_group.any(), "the model was left changed"
    assert np.mean(drawn) < 0.8
    cell.model.cam_projection[0], cell.model.cam_fovy[0] = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC, 0.3
    assert find(renderer, [0, 1], 1.2).all(1).tolist() == [True, False]


def test_supersampling_averages(new_cell) -> None:
    cell = new_cell(0)
    large = CellRenderer(cell.model, cell.data, 1).render(CAMERAS, (72, 96)).astype(float)
    small = CellRenderer(cell.model, cell.data, 2).render(CAMERAS, (36, 48))
    mean = large.reshape(3, 36, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(small - mean).max() <= 0.5 + 1e-9


def test_row_zero_is_the_top(new_cell, put_brick) -> None:
    """In the head camera's picture the belt, which lies farther from the robot, is above the bins."""
    cell = new_cell(0)
    put_brick(cell, [0.30, 0.0, 0.047])
    renderer = CellRenderer(cell.model, cell.data, 1)
    plain = renderer.render(["head"], (96, 128))[0].astype(int)
    rgba, rows = cell.model.geom_rgba, []
    for geom in (cell.task._brick_geoms[0], cell.task._bin_geoms[0][0]):
        kept = rgba[geom].copy()
        rgba[geom, :3] = 1 - kept[:3]
        changed = np.abs(renderer.render(["head"], (96, 128))[0].astype(int) - plain).sum(-1) > 30
        rgba[geom] = kept
        rows.append(np.argwhere(changed)[:, 0].mean())
    assert rows[0] + 10 < rows[1]


CODE = """
import numpy as np
from rise_env.errors import RenderingUnavailableError
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
cell = WorkCell(*load_cell("brick_sorting", "tiny"))
cell.reset(np.random.default_rng(0))
cell.step(cell.command)
from rise_env.errors import RenderingUnavailableError
from rise_robot.cell import render
from rise_robot.cell.render import CellRenderer
try:
    CellRenderer(cell.model, cell.data).render(["head"], (36, 48))
except RenderingUnavailableError as error:
    print("unavailable:", error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL is Linux's")
@pytest.mark.parametrize(
    "environment",
    [{"MUJOCO_GL": "disable"}, {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}, {"MUJOCO_EGL_DEVICE_ID": "99"}],
    ids=["switched off", "no such device", "no such device, EGL by default"],
)
def test_without_opengl_physics_runs_and_rendering_says_what_is_missing(environment: dict[str, str]) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MUJOCO_", "PYOPENGL"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env={**inherited, **environment}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("unavailable: cannot start off-screen rendering")
    assert "apt-get install libegl1" in done.stdout


def test_a_fork_of_a_process_that_has_rendered_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "_graphics", SimpleNamespace(process=os.getpid() + 1))
    with pytest.raises(RenderingUnavailableError, match=r"was forked .*make_vec.*\"context\": \"spawn\""):
        render._shared_graphics(None, 1, 1)  # a new context would hang here
