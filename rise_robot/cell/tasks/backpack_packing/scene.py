"""The scene of backpack packing: a half-rigid backpack that lies open on its back, and a T-shirt.

The bag has firm walls and a flap of strips, each hinged at the far wall and sprung, so that the mouth stands a hand's
breadth open and must be held to be wide open. A slider runs along the near rim; what it has passed is held shut by
`connect` constraints, one per strip. The T-shirt is a MuJoCo flex.

World frame: x forward from the arm bases, y to the left, z up from the table. Bag frame: origin in the middle of its
underside, axes as the world's.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from rise_robot.cell.mjcf import element
from rise_robot.cell.scene import SCENE_CONTACT

__all__ = ["add_bag", "add_garment", "garment_points", "set_physics"]

#: Inner half-extents of the bag along x and y, height of its rim, thickness of its walls (half), m.
BAG_HALF, BAG_HEIGHT, WALL = np.array([0.056, 0.092]), 0.085, 0.003
#: Where the bag stands by default, m.
BAG_X, BAG_Y = 0.29, 0.0
#: Where the shirt lies by default, m.
SHIRT_X, SHIRT_Y = 0.27, -0.225
#: How far its firm underside stands out in front and behind, so that it does not tip merely from being held, m.
FOOT = 0.012
STRIPS = 5
#: Angle at which the flap rests, that of its springs, and how far it opens, rad from shut.
FLAP_REST, FLAP_SPRING, FLAP_MOST = 0.5, 0.7, 1.9
FLAP_LENGTH = 2 * BAG_HALF[0]
#: Strip that carries the loop the flap is held by.
LOOP_STRIP, LOOP_UP = 3, 0.02
#: Travel of the slider along y: it starts at +ZIP and is shut at -ZIP; its tab stands this far before the near wall.
ZIP, TAB_OUT, TAB_UP = 0.072, 0.022, 0.022
#: Middle of the carrying loops, from the bag's origin, m; they are mirrored in y.
HANDLE = np.array([0.0, 0.116, 0.070])
#: Half of their thickness, m: padded, so that the grippers' springs squeeze them firmly.
HANDLE_HALF = 0.011

#: Share of the shirt's vertices that must be in the bag.
INSIDE = 0.95
#: Side of the T-shirt's triangles and its radius (half of its thickness), m; its mass, kg.
GRID, RADIUS, MASS = 0.0225, 0.004, 0.08
#: Height of its fold, m, and the width of the fold's foot as a share of it.
FOLD, FOLD_FOOT = 0.04, 0.12


def set_physics(root: Element) -> None:
    """What a deforming garment needs: an integrator that takes its elasticity implicitly, and firm friction."""
    option = root.find("option")
    assert option is not None
    # With 20 iterations the solver does not converge: pinched cloth chatters between the pads and slips out.
    option.attrib.update(integrator="discrete", solver="CG", cone="elliptic", impratio="10", iterations="50",
                         ls_iterations="20", jacobian="sparse")  # fmt: skip


_FABRIC, _DARK, _METAL, _STRAP = "0.13 0.36 0.42 1", "0.10 0.27 0.32 1", "0.85 0.80 0.55 1", "0.95 0.55 0.10 1"
_GHOST = {"contype": "0", "conaffinity": "0", "mass": "0"}


def add_bag(root: Element) -> None:
    """Add the bag: walls, flap, zipper, loops."""
    world, equality, tendons = root.find("worldbody"), root.find("equality"), element(root, "tendon")
    assert world is not None and equality is not None
    half_x, half_y, middle = BAG_HALF[0], BAG_HALF[1], BAG_HEIGHT / 2
    bag = element(world, "body", name="bag", pos=(BAG_X, BAG_Y, 0))
    element(bag, "freejoint", name="bag")
    wall = {"type": "box", "friction": "0.8 0.01 0.001", **SCENE_CONTACT}
    outer_x, outer_y = half_x + 2 * WALL, half_y + 2 * WALL
    parts = {
        "floor": ((outer_x + FOOT, outer_y, WALL), (0, 0, WALL), 0.50),
        "near": ((WALL, outer_y, middle), (-half_x - WALL, 0, middle), 0.08),
        "far": ((WALL, outer_y, middle), (half_x + WALL, 0, middle), 0.08),
        "left": ((half_x, WALL, middle), (0, half_y + WALL, middle), 0.06),
        "right": ((half_x, WALL, middle), (0, -half_y - WALL, middle), 0.06),
    }
    for name, (size, pos, mass) in parts.items():
        element(bag, "geom", name=f"bag_{name}", size=size, pos=pos, mass=mass, rgba=_FABRIC, **wall)
    _add_looks(bag, outer_x, outer_y)
    for name, sign in (("left", 1), ("right", -1)):  # loops to lift it by
        element(bag, "geom", name=f"bag_{name}_loop", size=(HANDLE_HALF, 0.020, 0.014), mass="0.01", rgba=_STRAP,
                pos=HANDLE * (1, sign, 1), **wall)  # fmt: skip

    width = outer_y / STRIPS
    for index in range(STRIPS):
        y = (2 * index + 1 - STRIPS) * width
        strip = element(bag, "body", name=f"strip{index}", pos=(half_x + WALL, y, BAG_HEIGHT + 0.003))
        element(strip, "joint", name=f"strip{index}", axis="0 1 0", range=(0, FLAP_MOST), stiffness="0.025",
                springref=FLAP_SPRING, damping="0.004", armature="2e-5")  # fmt: skip
        element(strip, "geom", name=f"strip{index}", size=(FLAP_LENGTH / 2, width - 0.0005, 0.0015), mass="0.008",
                pos=(-FLAP_LENGTH / 2 - WALL, 0, 0), rgba=_FABRIC, **wall)  # fmt: skip
        element(strip, "geom", type="box", size=(0.004, width - 0.001, 0.0022), pos=(-FLAP_LENGTH - WALL + 0.004, 0, 0),
                rgba=_METAL, **_GHOST)  # fmt: skip
        element(equality, "connect", name=f"zip{index}", body1=f"strip{index}", body2="bag", active="false",
                anchor=(-FLAP_LENGTH - WALL, 0, 0), solref="0.06 1")  # fmt: skip
        if index == LOOP_STRIP:
            loop = element(
                strip, "body", name="loop", pos=(-FLAP_LENGTH - WALL + 0.003, 0, 0), euler=(0, -FLAP_REST, 0)
            )
            element(loop, "joint", name="loop_slide", type="slide", axis="0 0 1", range="-0.01 0.02", stiffness="60",
                    damping="1", armature="0.002")  # fmt: skip
            element(loop, "joint", name="loop", type="ball", damping="0.0005", stiffness="0.003", armature="2e-5")
            element(loop, "geom", name="loop", size=(0.004, 0.011, 0.014), pos=(0, 0, LOOP_UP), mass="0.004",
                    rgba=_STRAP, **wall)  # fmt: skip
        if index:
            tendon = element(tendons, "fixed", name=f"flap{index}", stiffness="0.5", damping="0.004")
            element(tendon, "joint", joint=f"strip{index - 1}", coef="1")
            element(tendon, "joint", joint=f"strip{index}", coef="-1")

    slider = element(bag, "body", name="slider", pos=(-outer_x - 0.006, 0, BAG_HEIGHT - 0.004))
    element(slider, "joint", name="slider", type="slide", axis="0 1 0", range=(-ZIP, ZIP), frictionloss="1.0",
            damping="2", armature="0.01")  # fmt: skip
    element(slider, "geom", type="box", size=(0.006, 0.007, 0.006), mass="0.01", rgba=_METAL, **SCENE_CONTACT)
    tab = (-TAB_OUT + 0.006 + WALL * 2, 0, TAB_UP)
    element(slider, "geom", name="tab", type="box", size=(0.006, 0.004, 0.016), pos=tab, mass="0.004", rgba=_STRAP,
            friction="1.0 0.01 0.001", **SCENE_CONTACT)  # fmt: skip


def _add_looks(bag: Element, outer_x: float, outer_y: float) -> None:
    """What makes it a backpack to the eye: zipper tape, shoulder straps, a pocket."""
    rail = (-outer_x - 0.001, 0, BAG_HEIGHT - 0.004)
    element(bag, "geom", type="box", size=(0.0015, outer_y, 0.004), pos=rail, rgba=_METAL, **_GHOST)
    for sign in (-1, 1):
        for x in (-0.03, 0.03):
            element(bag, "geom", type="box", size=(0.008, 0.001, 0.04), pos=(x, sign * (outer_y + 0.001), 0.042),
                    rgba=_DARK, **_GHOST)  # fmt: skip


def garment_points() -> tuple[np.ndarray, np.ndarray]:
    """T-shirt that lies with a standing fold down its middle, as it does when dropped: points (n, 3) m around the
    middle of its body, and triangles (m, 3).
    """
    cells = [(i, j) for i in range(4) for j in range(6)]  # body: i across, j from the hem up
    cells += [(i, j) for i in (-2, -1, 4, 5) for j in (4, 5)]  # sleeves
    corners = sorted({(i + a, j + b) for i, j in cells for a in (0, 1) for b in (0, 1)})
    number = {corner: k for k, corner in enumerate(corners)}
    triangles = []
    for i, j in cells:
        a, b, c, d = (number[i + p, j + q] for p, q in ((0, 0), (1, 0), (1, 1), (0, 1)))
        triangles += [(a, b, c), (a, c, d)] if (i + j) % 2 else [(a, b, d), (b, c, d)]
    flat = GRID * (np.array(corners, float) - (2, 3))
    # Cloth within the fold's height of its line stands up, the rest comes nearer.
    drawn = np.minimum(np.abs(flat[:, 0]), FOLD)
    across = flat[:, 0] - np.sign(flat[:, 0]) * (1 - FOLD_FOOT) * drawn
    return np.c_[across, flat[:, 1], FOLD - drawn], np.array(triangles)


def add_garment(root: Element) -> None:
    """Add the T-shirt at the origin of the world."""
    world = root.find("worldbody")
    assert world is not None
    points, triangles = garment_points()
    shirt = element(world, "flexcomp", name="shirt", type="direct", dim="2", mass=MASS, radius=RADIUS,
                    point=points, rgba="0.80 0.12 0.15 1",
                    element=" ".join(map(str, triangles.ravel())))  # fmt: skip
    element(shirt, "contact", condim="3", friction="1.5 0.005 0.0001", solref="0.008 1", selfcollide="none",
            **SCENE_CONTACT)  # fmt: skip
    element(shirt, "elasticity", young="3e4", poisson="0.2", thickness="1e-3", damping="1e-2", elastic2d="both")
