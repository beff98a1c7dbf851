"""The scene of box closing: a cardboard box with a lid flap whose tab fits a slot in the opposite rim, and a cup.

Frame of the box: origin in the middle of its bottom, x forward, y to the left, z up. The flap hangs on the left wall
(+y); the rim of the right wall (-y) has the slot. The box is not fastened: it slides where it is pushed.
"""

from __future__ import annotations

import itertools
from xml.etree.ElementTree import Element

import numpy as np

from rise_robot.cell.mjcf import element
from rise_robot.cell.scene import SCENE_CONTACT

__all__ = ["add_box", "add_cup", "tab_tip"]

#: Half extents of the box's inside along x and y, height of its rim, m.
HALF_X, HALF_Y, HEIGHT = 0.062, 0.062, 0.060
#: Crease of the flap, (y, z) in the box, and its length from there to the tab's crease, m.
HINGE = np.array([HALF_Y, HEIGHT + 0.0015])
FLAP_LENGTH = 2 * HALF_Y - 0.0025
#: Length of the tab, half of its width and of the slot's, m.
TAB_LENGTH, TAB_HALF, SLOT_HALF = 0.022, 0.027, 0.030
_THICK = 0.0015
_WALL = 0.002
_POCKET = 0.032
CUP_RADIUS, CUP_HEIGHT = 0.023, 0.050
#: The crease of the flap and of the tab: stiffness (N m/rad) and elastic range (rad), beyond which cardboard gives.
_FLAP_CREASE, _TAB_CREASE = (0.10, 0.40), (0.03, 0.60)

_GHOST = {"contype": "0", "conaffinity": "0", "mass": "0"}
_CARDBOARD, _INSIDE, _EDGE = "0.66 0.46 0.26 1", "0.80 0.63 0.42 1", "0.50 0.33 0.17 1"
_LABEL, _TAB, _SLOT = "0.93 0.90 0.83 1", "0.86 0.26 0.16 1", "0.06 0.05 0.05 1"
_CUP, _COFFEE = "0.13 0.42 0.78 1", "0.10 0.10 0.16 1"


def tab_tip(flap: float, tab: float) -> np.ndarray:
    """Where the tab's edge is in the box, (y, z) m, for angles of both creases, rad."""
    along = np.array([-np.cos(flap), np.sin(flap)])
    return HINGE + FLAP_LENGTH * along + TAB_LENGTH * np.array([-np.cos(flap - tab), np.sin(flap - tab)])


def add_box(root: Element, gap: float) -> None:
    """Add the box, open and with the flap up; the slot is `gap` m wide."""
    world = root.find("worldbody")
    assert world is not None
    box = element(world, "body", name="box", pos=(0.27, 0, 0))
    element(box, "freejoint", name="box")
    friction = {"friction": "0.9 0.01 0.001"}
    outer_x, outer_y, middle = HALF_X + 2 * _WALL, HALF_Y + 2 * _WALL, HEIGHT / 2
    walls = {
        "floor": ((outer_x, outer_y, 0.002), (0, 0, 0.002), 0.24),
        "left": ((outer_x, _WALL, middle), (0, HALF_Y + _WALL, middle), 0.03),
        "right": ((outer_x, _WALL, middle), (0, -HALF_Y - _WALL, middle), 0.03),
        "front": ((_WALL, HALF_Y, middle), (HALF_X + _WALL, 0, middle), 0.03),
        "back": ((_WALL, HALF_Y, middle), (-HALF_X - _WALL, 0, middle), 0.03),
    }
    for name, (size, pos, mass) in walls.items():
        element(box, "geom", name=f"box_{name}", type="box", size=size, pos=pos, mass=mass, rgba=_CARDBOARD,
                **friction, **SCENE_CONTACT)  # fmt: skip
    # The pocket behind the right wall: its inner wall, and what closes it beside the slot.
    depth, across = _POCKET / 2, -HALF_Y + gap
    element(box, "geom", name="box_lip", type="box", size=(HALF_X, _WALL, depth), mass="0.01", rgba=_INSIDE,
            pos=(0, across + _WALL, HEIGHT - depth), **friction, **SCENE_CONTACT)  # fmt: skip
    for sign in (-1, 1):
        half = (HALF_X - SLOT_HALF) / 2
        element(box, "geom", name=f"box_shoulder{(sign + 1) // 2}", type="box", size=(half, gap / 2, depth),
                mass="0.01", pos=(sign * (HALF_X - half), -HALF_Y + gap / 2, HEIGHT - depth), rgba=_INSIDE,
                **friction, **SCENE_CONTACT)  # fmt: skip
    element(box, "geom", type="box", size=(SLOT_HALF, gap / 2, 0.001), pos=(0, -HALF_Y + gap / 2, HEIGHT - _POCKET),
            rgba=_SLOT, **_GHOST)  # fmt: skip
    element(box, "geom", type="box", size=(HALF_X, HALF_Y, 0.0005), pos=(0, 0, 0.0045), rgba=_INSIDE, **_GHOST)
    _add_flap(box)


def _add_flap(box: Element) -> None:
    flap = element(box, "body", name="flap", pos=(0, *HINGE))
    stiffness, elastic = _FLAP_CREASE
    element(flap, "joint", name="flap", axis="-1 0 0", range="0 2.6", springref="1.9", stiffness=stiffness,
            springyield=elastic, damping="0.003", armature="0.00005")  # fmt: skip
    half = FLAP_LENGTH / 2
    element(flap, "geom", name="flap", type="box", size=(HALF_X, half, _THICK), pos=(0, -half, 0), mass="0.010",
            rgba=_CARDBOARD, friction="0.6 0.01 0.001", **SCENE_CONTACT)  # fmt: skip
    element(flap, "geom", type="box", size=(0.035, 0.022, 0.0003), pos=(0, -half, _THICK), rgba=_LABEL, **_GHOST)
    element(flap, "geom", type="box", size=(HALF_X, half, 0.0003), pos=(0, -half, -_THICK), rgba=_INSIDE, **_GHOST)
    tab = element(flap, "body", name="tab", pos=(0, -FLAP_LENGTH, 0))
    stiffness, elastic = _TAB_CREASE
    element(tab, "joint", name="tab", axis="1 0 0", range="-0.2 2.4", springref="0.6", stiffness=stiffness,
            springyield=elastic, damping="0.001", armature="0.00002")  # fmt: skip
    half = TAB_LENGTH / 2
    tab_geom = {"friction": "1 0.01 0.001", "rgba": _TAB, **SCENE_CONTACT}
    element(tab, "geom", name="tab", type="box", size=(TAB_HALF, half - 0.001, 0.0012), pos=(0, -half, 0), mass="0.003",
            **tab_geom)  # fmt: skip
    element(tab, "geom", name="tab_edge", type="capsule", size="0.0014", mass="0.001",
            fromto=(-TAB_HALF + 0.0014, -TAB_LENGTH, 0, TAB_HALF - 0.0014, -TAB_LENGTH, 0), **tab_geom)  # fmt: skip


def add_cup(root: Element) -> None:
    """Add the cup, a mug whose handle points along its x axis."""
    world = root.find("worldbody")
    assert world is not None
    cup = element(world, "body", name="cup", pos=(0.27, -0.25, CUP_HEIGHT / 2))
    element(cup, "freejoint", name="cup")
    element(cup, "geom", name="cup", type="cylinder", size=(CUP_RADIUS, CUP_HEIGHT / 2), mass="0.06", rgba="0 0 0 0",
            friction="0.9 0.02 0.001", condim="4", solref="0.01 1", **SCENE_CONTACT)  # fmt: skip
    # What is seen: staves around an open inside.
    staves, thick = 12, 0.002
    half = CUP_RADIUS * np.tan(np.pi / staves)
    for turn in 2 * np.pi * np.arange(staves) / staves:
        radius = CUP_RADIUS - thick
        element(cup, "geom", type="box", size=(thick, half, CUP_HEIGHT / 2), euler=(0, 0, turn), rgba=_CUP,
                pos=(radius * np.cos(turn), radius * np.sin(turn), 0), **_GHOST)  # fmt: skip
    element(cup, "geom", type="cylinder", size=(CUP_RADIUS - thick, 0.001), pos=(0, 0, 0.012), rgba=_COFFEE, **_GHOST)
    handle = ((0.0, 0.015), (0.016, 0.012), (0.016, -0.012), (0.0, -0.015))
    for (x0, z0), (x1, z1) in itertools.pairwise(handle):
        ends = (CUP_RADIUS + x0, 0, z0, CUP_RADIUS + x1, 0, z1)
        element(cup, "geom", type="capsule", size="0.0035", fromto=ends, rgba=_CUP, mass="0.001",
                **SCENE_CONTACT)  # fmt: skip
