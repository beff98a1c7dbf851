"""The scene of brick sorting: a conveyor in front of both arms, bins between it and the robot, and bricks.

World frame: x forward from the arm bases, y to the left, z up from the table. The belt runs along y; either arm
reaches the bins.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from rise_robot.cell.mjcf import element
from rise_robot.cell.scene import SCENE_CONTACT

__all__ = ["COLORS", "add_belt", "add_bin", "add_brick", "parking"]

COLORS = {
    "red": (0.80, 0.10, 0.10), "blue": (0.10, 0.25, 0.85), "yellow": (0.92, 0.74, 0.08), "green": (0.10, 0.60, 0.22)
}  # fmt: skip
BELT_X, BELT_HALF_WIDTH, BELT_TOP = 0.30, 0.058, 0.030
#: Where bricks leave the belt, m from the middle.
BELT_END = 0.36
BRICK_HALF = np.array([0.030, 0.017, 0.017])
BIN_X, BIN_HALF, BIN_HEIGHT = 0.155, np.array([0.050, 0.058]), 0.050
#: Length of the belt's stripes along y, m; shifted by whole stripes, the belt looks the same.
STRIPE = 0.08
_BELT_HALF_LENGTH = 0.80
#: Geoms of a bin.
BIN_PARTS = ("floor", "front", "back", "left", "right")


def add_belt(root: Element) -> None:
    """Add the belt, driven by an actuator of the same name, and its rails."""
    world, actuators = root.find("worldbody"), root.find("actuator")
    assert world is not None and actuators is not None
    ghost = {"contype": "0", "conaffinity": "0", "mass": "0"}
    belt = element(world, "body", name="belt", pos=(BELT_X, 0, BELT_TOP - 0.01))
    element(belt, "joint", name="belt", type="slide", axis="0 1 0")
    element(belt, "geom", name="belt", type="box", size=(BELT_HALF_WIDTH, _BELT_HALF_LENGTH, 0.01),
               mass="30", rgba="0.24 0.25 0.27 1", friction="1 0.02 0.001", **SCENE_CONTACT)  # fmt: skip
    for index in range(int(2 * _BELT_HALF_LENGTH / STRIPE)):
        y = -_BELT_HALF_LENGTH + (index + 0.5) * STRIPE
        element(belt, "geom", type="box", size=(BELT_HALF_WIDTH, 0.004, 0.0004), pos=(0, y, 0.0102),
                   rgba="0.32 0.33 0.35 1", **ghost)  # fmt: skip
    element(actuators, "velocity", name="belt", joint="belt", kv="3000")
    for sign in (-1, 1):
        element(world, "geom", type="box", size=(0.006, 0.55, 0.019), rgba="0.55 0.57 0.60 1",
                   pos=(BELT_X + sign * (BELT_HALF_WIDTH + 0.009), 0, 0.019), **SCENE_CONTACT)  # fmt: skip


def add_bin(root: Element, index: int, center: np.ndarray) -> None:
    """Add a bin around `center`, (2,) m."""
    world = root.find("worldbody")
    assert world is not None
    half_x, half_y = BIN_HALF
    wall, middle = 0.004, BIN_HEIGHT / 2
    parts = {
        "floor": ((half_x, half_y, 0.002), (0, 0, 0.002)),
        "front": ((wall, half_y + wall, middle), (half_x + wall, 0, middle)),
        "back": ((wall, half_y + wall, middle), (-half_x - wall, 0, middle)),
        "left": ((half_x + wall, wall, middle), (0, half_y + wall, middle)),
        "right": ((half_x + wall, wall, middle), (0, -half_y - wall, middle)),
    }
    body = element(world, "body", name=f"bin{index}", pos=(*center, 0))
    for name, (size, pos) in parts.items():
        element(body, "geom", name=f"bin{index}_{name}", type="box", size=size, pos=pos, **SCENE_CONTACT)


def add_brick(root: Element, index: int) -> None:
    """Add a brick, out of play."""
    world = root.find("worldbody")
    assert world is not None
    body = element(world, "body", name=f"brick{index}", pos=(*parking(index)[:3],))
    element(body, "freejoint", name=f"brick{index}")
    element(body, "geom", name=f"brick{index}", type="box", size=BRICK_HALF, mass="0.04",
               friction="0.9 0.02 0.001", condim="4", solref="0.01 1", **SCENE_CONTACT)  # fmt: skip


def parking(index: int) -> np.ndarray:
    """Where a brick that is not in play rests, (7,): on the floor behind the robot, out of every camera's view."""
    return np.array([-1.2, 0.2 * index, -0.75 + BRICK_HALF[2], 1.0, 0.0, 0.0, 0.0])
