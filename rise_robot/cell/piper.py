"""The AgileX Piper arm with its parallel gripper: kinematic table, MJCF body tree and published DH parameters.

The numbers are those of the vendor's description of the S-V1.6-3 arm and newer (`agx_arm_urdf`, MIT licence). Shapes
are primitives of about the right size: they serve contact and looks; masses and inertias come from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from rise_robot.cell.mjcf import element

__all__ = [
    "ARM_JOINTS",
    "DH",
    "GRASP_OFFSET",
    "LINKS",
    "MAX_GRIPPER_SPEED",
    "MAX_JOINT_SPEED",
    "Link",
    "add_piper",
    "dh_flange_pose",
]

#: Number of revolute joints.
ARM_JOINTS = 6
#: Speed limit of the revolute joints, rad/s.
MAX_JOINT_SPEED = 3.0
#: Speed limit of the total gripper opening, m/s.
MAX_GRIPPER_SPEED = 0.2
#: Distance from the flange to the point between the finger pads that holds an object, m (the tips are at 0.1425 m).
GRASP_OFFSET = 0.1325


@dataclass(frozen=True)
class Link:
    """One moving body of the arm; its joint turns about the body's z axis.

    Attributes:
        pos: Position in the parent frame, m.
        rpy: Fixed-axis roll, pitch, yaw in the parent frame, rad.
        mass: Mass, kg.
        com: Centre of mass in the body frame, m.
        inertia: ixx, iyy, izz, ixy, ixz, iyz about the centre of mass, kg m^2.
        limits: Joint range, rad.
        gains: Position gain (N m/rad) and velocity gain (N m s/rad) of the joint's servo.
    """

    pos: tuple[float, float, float]
    rpy: tuple[float, float, float]
    mass: float
    com: tuple[float, float, float]
    inertia: tuple[float, float, float, float, float, float]
    limits: tuple[float, float]
    gains: tuple[float, float]


_HALF_PI = np.pi / 2
LINKS: tuple[Link, ...] = (
    Link((0, 0, 0.123), (0, 0, 0), 0.71, (0.00032, -0.00041, -0.00348),
         (500e-6, 409e-6, 458e-6, 0, 0, 0), (-2.618, 2.618), (80, 5)),
    Link((0, 0, 0), (_HALF_PI, -0.1357866, -np.pi), 1.16, (0.21852, -0.00861, 0.00126),
         (1119e-6, 67633e-6, 67559e-6, 1829e-6, 192e-6, 0), (0, 3.1416), (80, 5)),
    Link((0.28503, 0, 0), (0, 0, -1.7938494), 0.50, (-0.01999, -0.14808, -0.00053),
         (13476e-6, 464e-6, 13633e-6, 1610e-6, 0, 0), (-2.9671, 0), (80, 5)),
    Link((-0.02198, -0.25075, 0), (_HALF_PI, 0, 0), 0.38, (0.00013, -0.00076, -0.00394),
         (178e-6, 189e-6, 146e-6, 0, 0, 0), (-1.7453, 1.7453), (40, 5)),
    Link((0, 0, 0), (-_HALF_PI, 0, 0), 0.383, (0.00018, -0.06104, -0.00227),
         (1723e-6, 179e-6, 1712e-6, 0, 0, 0), (-1.2217, 1.2217), (10, 1.5)),
    Link((0.000088, -0.091, 0), (_HALF_PI, 0, 0), 0.047, (0, 0, -0.002),
         (20e-6, 20e-6, 30e-6, 0, 0, 0), (-2.0944, 2.0944), (10, 1.5)),
)  # fmt: skip

#: Modified DH parameters as published: a (m), alpha (deg), d (m), theta offset (deg).
DH: tuple[tuple[float, float, float, float], ...] = (
    (0.0, 0.0, 0.123, 0.0),
    (0.0, -90.0, 0.0, -172.22),
    (0.28503, 0.0, 0.0, -102.78),
    (-0.02198, 90.0, 0.25075, 0.0),
    (0.0, -90.0, 0.0, 0.0),
    (0.0, 90.0, 0.091, 0.0),
)


def dh_flange_pose(joints: np.ndarray) -> np.ndarray:
    """Flange pose in the base frame from the published modified DH parameters: (6,) rad to (4, 4), m."""
    pose = np.eye(4)
    for (a, alpha, d, offset), angle in zip(DH, joints, strict=True):
        ca, sa = np.cos(np.radians(alpha)), np.sin(np.radians(alpha))
        ct, st = np.cos(angle + np.radians(offset)), np.sin(angle + np.radians(offset))
        rows = [ct, -st, 0, a], [st * ca, ct * ca, -sa, -sa * d], [st * sa, ct * sa, ca, ca * d], [0, 0, 0, 1]
        pose = pose @ np.array(rows)
    return pose


_WHITE, _GREY, _DARK = "0.87 0.88 0.9 1", "0.55 0.57 0.6 1", "0.17 0.18 0.2 1"

# Primitive shapes per link in its own frame: (type, size, attributes, colour, collides).
_SHAPES: dict[int, tuple[tuple[str, str, dict[str, str], str, bool], ...]] = {
    1: (("cylinder", "0.045 0.05", {"pos": "0 0 -0.01"}, _WHITE, False),),
    2: (("capsule", "0.036", {"fromto": "0 0 0 0.285 0 0"}, _WHITE, True),),
    3: (("capsule", "0.031", {"fromto": "0 0 0 -0.022 -0.22 0"}, _WHITE, True),),
    4: (("cylinder", "0.033 0.034", {"pos": "0 0 0"}, _GREY, False),),
    5: (("capsule", "0.028", {"fromto": "0 0 0 0 -0.06 0"}, _WHITE, True),),
    6: (("cylinder", "0.032 0.008", {"pos": "0 0 -0.008"}, _DARK, False),),
}


def add_piper(
    world: Element,
    actuators: Element,
    equality: Element,
    side: str,
    base: tuple[float, float, float],
    wrist_fovy: float,
    contact: dict[str, str],
) -> None:
    """Add one arm to an MJCF tree: bodies, joints, servos, wrist camera and two sites.

    Joints are `<side>_joint1..6` and the coupled slides `<side>_finger1/2`; actuators `<side>_joint1..6` (targets in
    rad) and `<side>_gripper` (target: position of one finger, i.e. half of the total opening, m); sites `<side>_flange`
    and `<side>_grasp` (between the pads, z along the tool axis, y along the closing direction).

    Args:
        world: The `worldbody` element.
        actuators: The `actuator` element.
        equality: The `equality` element.
        side: Name prefix, "left" or "right".
        base: Position of the arm's base in the world, m.
        wrist_fovy: Vertical field of view of the wrist camera, degrees.
        contact: `contype` and `conaffinity` of the arm's colliding shapes.
    """
    ghost = {"contype": "0", "conaffinity": "0"}
    body = element(world, "body", name=f"{side}_base", pos=base)
    element(body, "inertial", pos="-0.0047 0 0.0415", mass="1.02", diaginertia="0.002 0.002 0.002")
    element(body, "geom", type="cylinder", size="0.055 0.035", pos="0 0 0.035", rgba=_DARK, mass="0", **ghost)
    for number, link in enumerate(LINKS, start=1):
        body = element(body, "body", name=f"{side}_link{number}", pos=link.pos, euler=link.rpy, gravcomp="1")
        element(body, "inertial", pos=link.com, mass=link.mass, fullinertia=link.inertia)
        joint = f"{side}_joint{number}"
        element(body, "joint", name=joint, axis="0 0 1", range=link.limits, armature="0.02", damping="0.2")
        kp, kv = link.gains
        element(actuators, "position", name=joint, joint=joint, kp=kp, kv=kv, ctrlrange=link.limits)
        for kind, size, where, colour, collides in _SHAPES[number]:
            bits = contact if collides else ghost
            element(body, "geom", type=kind, size=size, rgba=colour, mass="0", **where, **bits)
    element(body, "site", name=f"{side}_flange", size="0.002", rgba="0 0 0 0")
    view = {"pos": "-0.073 0.0035 0.036", "xyaxes": "0 -1 0 -0.939 0 0.344"}
    element(body, "camera", name=f"{side}_wrist", fovy=wrist_fovy, **view)
    _add_gripper(body, actuators, equality, side, contact, ghost)


def _add_gripper(
    flange: Element, actuators: Element, equality: Element, side: str, contact: dict[str, str], ghost: dict[str, str]
) -> None:
    hand = element(flange, "body", name=f"{side}_gripper_base", pos="0 0 0.0045", gravcomp="1")
    element(hand, "inertial", pos="0 0 0.0321", mass="0.45", diaginertia="0.000929 0.000714 0.000394")
    element(hand, "geom", type="box", size="0.028 0.036 0.027", pos="0 0 0.03", rgba=_DARK, mass="0", **contact)
    element(hand, "geom", type="box", size="0.018 0.058 0.013", pos="0 0 0.07", rgba=_GREY, mass="0", **contact)
    element(hand, "site", name=f"{side}_grasp", pos=(0, 0, GRASP_OFFSET - 0.0045), size="0.002", rgba="0 0 0 0")
    for number, (yaw, low, high, axis) in enumerate(((0, 0, 0.05, "0 0 1"), (-np.pi, -0.05, 0, "0 0 -1")), start=1):
        name = f"{side}_finger{number}"
        finger = element(hand, "body", name=name, pos="0 0 0.138", euler=(_HALF_PI, 0, yaw), gravcomp="1")
        element(finger, "inertial", pos="0.0007 -0.0492 0.0097", mass="0.025", diaginertia="74e-6 8e-6 75e-6")
        element(finger, "joint", name=name, type="slide", axis=axis, range=(low, high), armature="0.05", damping="2")
        # In the finger's frame y runs back from the tip and z outwards from the pad.
        pad = {"size": "0.011 0.022 0.006", "pos": "0 -0.022 0.006", "friction": "1.6 0.02 0.001", "priority": "1"}
        box = {"type": "box", "mass": "0"}
        element(finger, "geom", name=f"{name}_pad", rgba=_DARK, solref="0.008 1", **box, **pad, **contact)
        element(finger, "geom", size="0.008 0.014 0.006", pos="0 -0.055 0.010", rgba=_GREY, **box, **ghost)
    pair = {"joint1": f"{side}_finger2", "joint2": f"{side}_finger1"}
    element(equality, "joint", **pair, polycoef="0 -1 0 0 0", solref="0.008 1")
    element(actuators, "position", name=f"{side}_gripper", joint=f"{side}_finger1", kp="900", kv="40",
               ctrlrange="0 0.04", forcerange="-14 14")  # fmt: skip
