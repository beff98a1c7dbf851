"""Closed-form inverse kinematics of the Piper arm, vectorised.

The last three axes meet in one point (to 0.1 mm), so the wrist centre fixes the first three joints and the remaining
rotation the last three. Everything is in the arm's base frame.
"""

from __future__ import annotations

import numpy as np

from rise_robot.cell.piper import ARM_JOINTS, DH, GRASP_OFFSET, LINKS, dh_flange_pose

__all__ = ["JOINT_HIGH", "JOINT_LOW", "forward_grasp", "grasp_rotation", "inverse_kinematics"]

JOINT_LOW = np.array([link.limits[0] for link in LINKS])
JOINT_HIGH = np.array([link.limits[1] for link in LINKS])

_SHOULDER_HEIGHT, _UPPER = DH[0][2], DH[2][0]
_WRIST_IN_FOREARM = np.array([DH[3][0], -DH[3][2]])
_FOREARM = float(np.hypot(*_WRIST_IN_FOREARM))
_FOREARM_ANGLE = float(np.arctan2(_WRIST_IN_FOREARM[1], _WRIST_IN_FOREARM[0]))
_OFFSET2, _OFFSET3 = np.radians(DH[1][3]), np.radians(DH[2][3])
_WRIST_TO_GRASP = DH[5][2] + GRASP_OFFSET


def forward_grasp(joints: np.ndarray) -> np.ndarray:
    """Pose of the grasp frame in the base frame: (6,) rad to (4, 4), m."""
    pose = dh_flange_pose(joints)
    pose[:3, 3] += GRASP_OFFSET * pose[:3, 2]
    return pose


def grasp_rotation(yaw: np.ndarray, tilt: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Rotation of the grasp frame for a tool that points down, tilted outwards.

    Args:
        yaw: (...,) angle of the closing direction (grasp y axis) about the vertical, rad; 0 closes along world y.
        tilt: (...,) angle between the tool axis and the vertical, rad; positive leans the fingers away from the base.
        azimuth: (...,) direction of the tilt about the vertical, rad.

    Returns:
        (..., 3, 3) rotation matrices; columns are the grasp frame's axes in the base frame.
    """
    cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    # Straight down: z = -Z, y = Y turned by yaw, x = y x z.
    down = np.stack([np.stack(axis, -1) for axis in ([-cy, -sy, zero], [-sy, cy, zero], [zero, zero, -one])], -1)
    # Lean about the horizontal axis across the azimuth (Rodrigues' formula).
    axis = np.stack([np.sin(azimuth), -np.cos(azimuth), zero], -1)
    cross = np.zeros((*axis.shape[:-1], 3, 3))
    cross[..., 0, 1], cross[..., 0, 2] = -axis[..., 2], axis[..., 1]
    cross[..., 1, 0], cross[..., 1, 2] = axis[..., 2], -axis[..., 0]
    cross[..., 2, 0], cross[..., 2, 1] = -axis[..., 1], axis[..., 0]
    lean = np.eye(3) + st[..., None, None] * cross + (1 - ct)[..., None, None] * (cross @ cross)
    return lean @ down


def inverse_kinematics(
    position: np.ndarray, rotation: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joint angles that bring the grasp frame to a pose.

    Args:
        position: (..., 3) grasp point in the base frame, m.
        rotation: (..., 3, 3) grasp frame in the base frame.
        reference: (..., 6) joints, rad; of the two wrist solutions the one nearer to it is taken.

    Returns:
        joints: (..., 6) rad, clipped to the limits.
        feasible: (...,) bool, False where the point is out of reach or a limit had to be clipped.
    """
    wrist = position - _WRIST_TO_GRASP * rotation[..., :, 2]
    radius = np.hypot(wrist[..., 0], wrist[..., 1])
    drop = _SHOULDER_HEIGHT - wrist[..., 2]
    turn = np.arctan2(wrist[..., 1], wrist[..., 0])

    cosine = (radius**2 + drop**2 - _UPPER**2 - _FOREARM**2) / (2 * _UPPER * _FOREARM)
    within_reach = np.abs(cosine) <= 1
    bend = np.arccos(np.clip(cosine, -1, 1))
    shoulder = np.arctan2(drop, radius) - np.arctan2(_FOREARM * np.sin(bend), _UPPER + _FOREARM * np.cos(bend))
    elbow = bend - _FOREARM_ANGLE

    # Rotation of the forearm frame, then the remaining rotation as z-y-z Euler angles.
    total = shoulder + elbow
    c1, s1, ct, st = np.cos(turn), np.sin(turn), np.cos(total), np.sin(total)
    axes = [c1 * ct, s1 * ct, -st], [-c1 * st, -s1 * st, -ct], [-s1, c1, np.zeros_like(c1)]
    forearm = np.stack([np.stack(axis, -1) for axis in axes], -1)
    to_wrist = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # rotation of -90 deg about x
    rest = to_wrist @ np.swapaxes(forearm, -1, -2) @ rotation
    pitch = np.arccos(np.clip(rest[..., 2, 2], -1, 1))
    roll4 = np.arctan2(rest[..., 1, 2], rest[..., 0, 2])
    roll6 = np.arctan2(rest[..., 2, 1], -rest[..., 2, 0])

    arm = np.stack([turn, _wrap(shoulder - _OFFSET2), _wrap(elbow - _OFFSET3)], -1)
    wrists = [roll4, pitch, roll6], [_wrap(roll4 + np.pi), -pitch, _wrap(roll6 + np.pi)]
    wrist_angles = np.stack([np.stack(angles, -1) for angles in wrists], -2)
    arm = np.broadcast_to(arm[..., None, :], (*wrist_angles.shape[:-1], 3))
    both = np.concatenate([arm, wrist_angles], -1)
    clipped = np.clip(both, JOINT_LOW, JOINT_HIGH)
    excess = np.abs(both - clipped).sum(-1)
    distance = np.abs(clipped - reference[..., None, :]).sum(-1)
    choice = np.argmin(excess * 1e3 + distance, axis=-1)
    index = choice[..., None, None]
    joints = np.take_along_axis(clipped, np.broadcast_to(index, (*index.shape[:-1], ARM_JOINTS)), -2)[..., 0, :]
    feasible = within_reach & (np.take_along_axis(excess, choice[..., None], -1)[..., 0] < 1e-6)
    return joints, feasible


def _wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
