"""MJCF of the work cell: table, two Piper arms, cameras, lights; the task adds its objects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

import mujoco

from rise_env.tasks import TaskSpec
from rise_robot.cell.config import CellConfig
from rise_robot.cell.mjcf import element
from rise_robot.cell.piper import add_piper

if TYPE_CHECKING:
    from rise_robot.cell.task import CellTask

__all__ = ["ARM_CONTACT", "SCENE_CONTACT", "SIDES", "build_model", "substeps"]

SIDES = ("left", "right")
#: Contact bits: each arm meets the other arm and the scene; the scene (table, objects) meets all.
_LEFT, _RIGHT, _SCENE = 1, 2, 4
ARM_CONTACT = {
    "left": {"contype": str(_LEFT), "conaffinity": str(_RIGHT | _SCENE)},
    "right": {"contype": str(_RIGHT), "conaffinity": str(_LEFT | _SCENE)},
}
SCENE_CONTACT = {"contype": str(_SCENE), "conaffinity": str(_SCENE)}


def substeps(spec: TaskSpec, config: CellConfig) -> int:
    """Physics steps per control step."""
    return max(1, math.ceil(1 / (spec.fps * config.max_timestep) - 1e-9))


def build_model(spec: TaskSpec, config: CellConfig, task: CellTask) -> mujoco.MjModel:
    """Compile the cell of a task; ConfigError if the task's cameras are not the cell's (`head`, `left_wrist`,
    `right_wrist`).
    """
    root = Element("mujoco", model=f"rise {spec.name}")
    element(root, "compiler", angle="radian", eulerseq="XYZ", autolimits="true")
    timestep = 1 / spec.fps / substeps(spec, config)
    # The dense Jacobian suits a model this small; the elliptic cone keeps held objects from creeping.
    element(root, "option", timestep=timestep, integrator="implicitfast", cone="elliptic", impratio="5",
               iterations="30", ls_iterations="20", jacobian="dense")  # fmt: skip
    height, width = (side * config.supersample for side in spec.image_size)
    visual = element(root, "visual")
    element(visual, "global", offwidth=str(max(width, 640)), offheight=str(max(height * len(spec.cameras), 480)))
    element(visual, "quality", offsamples="0", shadowsize="1024")
    element(visual, "headlight", ambient="0.38 0.38 0.38", diffuse="0.22 0.22 0.22", specular="0 0 0")
    element(visual, "map", znear="0.02", zfar="20")
    element(root, "statistic", center="0.25 0 0.1", extent="1.0")

    world = element(root, "worldbody")
    element(world, "light", name="lamp", pos="0.1 0.3 1.6", dir="0.08 -0.15 -1", directional="true",
               diffuse="0.55 0.55 0.55", specular="0.1 0.1 0.1", castshadow="false")  # fmt: skip
    floor = {"type": "plane", "size": "7 7 1", "pos": "0 0 -0.75", "rgba": "0.34 0.36 0.40 1"}
    element(world, "geom", name="floor", **floor, **SCENE_CONTACT)
    element(world, "geom", name="table", type="box", size="0.45 0.62 0.02", pos="0.28 0 -0.02", rgba="0.72 0.66 0.58 1",
               friction="0.8 0.01 0.0005", **SCENE_CONTACT)  # fmt: skip
    _add_room(root, world)
    tilt = math.radians(config.head_camera.tilt)
    element(world, "camera", name="head", pos=config.head_camera.pos, fovy=config.head_camera.fovy,
               xyaxes=(0, -1, 0, math.cos(tilt), 0, math.sin(tilt)))  # fmt: skip
    element(world, "camera", name="overview", pos="0.95 0.62 0.72", xyaxes="-0.55 0.84 0 -0.42 -0.28 0.86", fovy="45")

    actuators, equality = element(root, "actuator"), element(root, "equality")
    for side, sign in zip(SIDES, (1, -1), strict=True):
        base = 0.0, sign * config.arm_spacing, 0.0
        add_piper(world, actuators, equality, side, base, config.wrist_fovy, ARM_CONTACT[side])
    task.add_to_scene(root)
    return mujoco.MjModel.from_xml_string(tostring(root, encoding="unicode"))


def _add_room(root: Element, world: Element) -> None:
    """Walls and ceiling, so that no camera ever looks into the void; they glow a little, whatever the lamp does."""
    element(element(root, "asset"), "material", name="wall", rgba="0.50 0.54 0.60 1", emission="0.55", specular="0")
    ghost = {"type": "box", "material": "wall", "contype": "0", "conaffinity": "0"}
    half, height = 3.4, 1.7
    middle = height - 0.75
    for x, y in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        size = (0.05, half, height) if x else (half, 0.05, height)
        element(world, "geom", pos=(0.7 + x * half, y * half, middle), size=size, **ghost)
    element(world, "geom", pos=(0.7, 0, middle + height), size=(half, half, 0.05), **ghost)
