"""MJCF of the work cell: table, two Piper arms, cameras, lights; the task adds its objects."""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element, SubElement, tostring

import mujoco

from rise_env.tasks import TaskSpec
from rise_robot.cell.config import CellConfig
from rise_robot.cell.piper import add_piper, numbers
from rise_robot.cell.task import CellTask

__all__ = ["ARM_CONTACT", "SCENE_CONTACT", "SIDES", "build_model", "substeps"]

SIDES = ("left", "right")
#: Contact bits: each arm meets the other arm and the scene; the scene (table, belt, bins, objects) meets all.
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
    """Compile the cell of a task.

    Raises:
        ConfigError: If the task's cameras are not the cell's (`head`, `left_wrist`, `right_wrist`).
    """
    root = Element("mujoco", model=f"rise {spec.name}")
    SubElement(root, "compiler", angle="radian", eulerseq="XYZ", autolimits="true")
    timestep = 1 / spec.fps / substeps(spec, config)
    # The dense Jacobian suits a model this small; the elliptic cone keeps held objects from creeping.
    SubElement(root, "option", timestep=numbers(timestep), integrator="implicitfast", cone="elliptic", impratio="5",
               iterations="30", ls_iterations="20", jacobian="dense")  # fmt: skip
    height, width = (side * config.supersample for side in spec.image_size)
    visual = SubElement(root, "visual")
    SubElement(visual, "global", offwidth=str(max(width, 640)), offheight=str(max(height * len(spec.cameras), 480)))
    SubElement(visual, "quality", offsamples="0", shadowsize="1024")
    SubElement(visual, "headlight", ambient="0.38 0.38 0.38", diffuse="0.22 0.22 0.22", specular="0 0 0")
    SubElement(visual, "map", znear="0.02", zfar="20")
    SubElement(root, "statistic", center="0.25 0 0.1", extent="1.0")

    world = SubElement(root, "worldbody")
    SubElement(world, "light", name="lamp", pos="0.1 0.3 1.6", dir="0.08 -0.15 -1", directional="true",
               diffuse="0.55 0.55 0.55", specular="0.1 0.1 0.1", castshadow="false")  # fmt: skip
    SubElement(world, "geom", name="floor", type="plane", size="3 3 0.1", pos="0 0 -0.75", rgba="0.34 0.36 0.40 1", **SCENE_CONTACT)
    SubElement(world, "geom", name="table", type="box", size="0.45 0.62 0.02", pos="0.28 0 -0.02", rgba="0.72 0.66 0.58 1",
               friction="0.8 0.01 0.0005", **SCENE_CONTACT)  # fmt: skip
    tilt = math.radians(config.head_camera.tilt)
    SubElement(world, "camera", name="head", pos=numbers(config.head_camera.pos), fovy=numbers(config.head_camera.fovy),
               xyaxes=numbers((0, -1, 0, math.cos(tilt), 0, math.sin(tilt))))  # fmt: skip
    SubElement(world, "camera", name="overview", pos="0.95 0.62 0.72", xyaxes="-0.55 0.84 0 -0.42 -0.28 0.86", fovy="45")

    actuators, equality = SubElement(root, "actuator"), SubElement(root, "equality")
    for side, sign in zip(SIDES, (1, -1), strict=True):
        add_piper(world, actuators, equality, side, (0.0, sign * config.arm_spacing, 0.0), config.wrist_fovy, ARM_CONTACT[side])
    task.add_to_scene(root)
    return mujoco.MjModel.from_xml_string(tostring(root, encoding="unicode"))
