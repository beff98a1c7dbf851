"""Off-screen rendering of all cameras in one pass.

One OpenGL context serves every cell of a process: the cells' models hold no meshes or textures, so nothing
model-specific lives on the graphics side. Shadows, reflections and multisampling are off (a factor of ten in software
rendering); images are rendered larger and averaged instead. What lies outside a camera's view is not drawn: in software
every corner costs, seen or not.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from rise_env.errors import RenderingUnavailableError

__all__ = ["CellRenderer", "free_graphics"]

#: Group of shapes that are left out of a picture; MuJoCo shows none of it by default.
_HIDDEN = mujoco.mjNGROUP - 1
#: How far outside a view a shape must lie to be left out, m.
_SPARE = 1e-3

_HELP = (
    "Off-screen rendering needs OpenGL through EGL. On Debian or Ubuntu: "
    "apt-get install libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri ; then set MUJOCO_GL=egl."
)


def _new_context(width: int, height: int) -> Any:
    """An off-screen context: EGL on Linux unless MUJOCO_GL names another backend, the system's own elsewhere."""
    if os.environ.get("MUJOCO_GL", "egl") == "egl" and sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        from mujoco.egl import GLContext
    else:
        GLContext = mujoco.GLContext
    if GLContext is None:
        raise RuntimeError(f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} switches rendering off")
    return GLContext(width, height)


class _Graphics:
    """The process's OpenGL context and MuJoCo's resources in it."""

    def __init__(self, model: mujoco.MjModel, width: int, height: int) -> None:
        try:
            self._context = _new_context(width, height)
            self._context.make_current()
            self.resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (ImportError, AttributeError, RuntimeError, mujoco.FatalError) as error:
            raise RenderingUnavailableError(f"cannot start off-screen rendering ({error}). {_HELP}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.resources)
        self.size = (self.resources.offWidth, self.resources.offHeight)
        self.process = os.getpid()

    def use(self, width: int, height: int) -> None:
        """Make the context current and large enough."""
        self._context.make_current()
        if width > self.size[0] or height > self.size[1]:
            self.size = (max(width, self.size[0]), max(height, self.size[1]))
            mujoco.mjr_resizeOffscreen(*self.size, self.resources)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.resources)

    def free(self) -> None:
        self._context.make_current()
        self.resources.free()
        self._context.free()


_graphics: _Graphics | None = None


def free_graphics() -> None:
    """Let go of the process's OpenGL context, in the thread that has rendered; the next picture makes another one.

    Only a process that does not render in its main thread has to call this: at its end that thread lets go of it.
    """
    global _graphics
    if _graphics is not None:
        atexit.unregister(free_graphics)
        _graphics.free()
        _graphics = None


def _shared_graphics(model: mujoco.MjModel, width: int, height: int) -> _Graphics:
    global _graphics
    if _graphics is not None and _graphics.process != os.getpid():
        raise RenderingUnavailableError(
            "this process was forked from one that had rendered, and OpenGL does not survive that. Use "
            "gymnasium.make_vec(ID, num_envs=N) without vectorization_mode, which has worker processes of its own; or "
            'vectorization_mode="async" with vector_kwargs={"context": "spawn"}'
        )
    if _graphics is None:
        _graphics = _Graphics(model, width, height)
        atexit.register(free_graphics)
    _graphics.use(width, height)
    return _graphics


class CellRenderer:
    """Renders cameras of one cell, at `supersample` times the requested size, and averages (anti-aliasing)."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, supersample: int = 1) -> None:
        self._model, self._data, self._supersample = model, data, supersample
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_SKYBOX):
            self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._option.geomgroup[_HIDDEN] = False
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(self, cameras: Sequence[str], size: tuple[int, int]) -> np.ndarray:
        """Pictures of the present state by some cameras, uint8 (len(cameras), H, W, 3), row 0 on top; `size` is (H, W).

        RenderingUnavailableError if no OpenGL context can be had; the message names the missing packages.
        """
        model, data, view, scene = self._model, self._data, self._camera, self._scene
        factor, count = self._supersample, len(cameras)
        height, width = size[0] * factor, size[1] * factor
        graphics = _shared_graphics(model, width, height * count)
        numbers = [model.camera(camera).id for camera in cameras]
        groups = model.geom_group.copy()
        try:
            for index, seen in enumerate(self._in_view(numbers, width / height)):
                model.geom_group[:] = np.where(seen, groups, _HIDDEN)
                view.fixedcamid = numbers[index]
                everything = mujoco.mjtCatBit.mjCAT_ALL
                mujoco.mjv_updateScene(model, data, self._option, self._perturb, view, everything, scene)
                # Tiles are stacked upwards in the frame buffer, whose rows run from the bottom.
                tile = mujoco.MjrRect(0, (count - 1 - index) * height, width, height)
                mujoco.mjr_render(tile, scene, graphics.resources)
        finally:
            model.geom_group[:] = groups
        pixels = np.empty((count * height, width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, mujoco.MjrRect(0, 0, width, count * height), graphics.resources)
        return _averaged(pixels[::-1], factor).reshape(count, *size, 3)

    def _in_view(self, cameras: Sequence[int], aspect: float) -> np.ndarray:
        """Which shapes may be seen by some cameras, bool (len(cameras), number of shapes).

        A shape is out of view where the box around it lies beyond one side of the view, with a millimetre to spare.
        """
        model, data = self._model, self._data
        inwards, near, parallel = [], [], []
        for number in cameras:
            self._camera.fixedcamid = number
            mujoco.mjv_updateCamera(model, data, self._camera, self._scene)
            lens = self._scene.camera[0]
            half = lens.frustum_width or aspect * (lens.frustum_top - lens.frustum_bottom) / 2
            left, right, ahead = lens.frustum_center - half, lens.frustum_center + half, lens.frustum_near
            bottom, top = lens.frustum_bottom, lens.frustum_top
            # Of the sides, in the camera's axes: x to the right, y up, z back.
            inwards.append([[0, 0, -1], [ahead, 0, left], [-ahead, 0, -right], [0, ahead, bottom], [0, -ahead, -top]])
            near.append([ahead, 0, 0, 0, 0])
            parallel.append(bool(lens.orthographic))  # its sides do not meet: nothing is left out
        normals = np.array(inwards)
        normals /= np.sqrt((normals * normals).sum(2, keepdims=True))
        numbers = list(cameras)
        normals = normals @ data.cam_xmat[numbers].reshape(-1, 3, 3).transpose(0, 2, 1)
        offsets = (normals @ data.cam_xpos[numbers][:, :, None])[..., 0] + np.array(near)
        normals, offsets = normals.reshape(-1, 3), offsets.reshape(-1)
        axes = data.geom_xmat.reshape(-1, 3, 3)
        middles = data.geom_xpos + (axes @ model.geom_aabb[:, :3, None])[..., 0]
        reach = np.abs(normals @ axes) @ model.geom_aabb[:, 3:, None]  # (shapes, sides, 1)
        inside = middles @ normals.T - offsets + reach[..., 0] > -_SPARE
        seen = inside.reshape(model.ngeom, len(cameras), -1).all(2).T
        endless = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        return seen | endless | np.array(parallel)[:, None]


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of pixels, rounded, contiguous: uint8 (factor x H, factor x W, 3) to (H, W, 3)."""
    if factor == 1:
        return np.ascontiguousarray(pixels)
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    rows = pixels.reshape(height, factor, -1)
    total = rows[:, 0].astype(np.uint16)
    for index in range(1, factor):
        total += rows[:, index]
    columns = total.reshape(height, width, factor, 3)
    total = columns[:, :, 0] + factor * factor // 2
    for index in range(1, factor):
        total += columns[:, :, index]
    total //= factor * factor
    return total.astype(np.uint8)
