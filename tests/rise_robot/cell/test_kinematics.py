"""Closed-form inverse kinematics against the forward kinematics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_robot.cell.kinematics import JOINT_HIGH, JOINT_LOW, forward_grasp, grasp_rotation, inverse_kinematics
from rise_robot.cell.piper import GRASP_OFFSET, dh_flange_pose


def test_round_trip_over_random_poses() -> None:
    """Wherever the elbow bends as the closed form assumes, it finds back to the pose, and mostly to the joints."""
    rng = np.random.default_rng(2)
    joints = rng.uniform(JOINT_LOW, JOINT_HIGH, (600, 6))
    poses = np.stack([forward_grasp(q) for q in joints])
    found, feasible = inverse_kinematics(poses[:, :3, 3], poses[:, :3, :3], joints)
    again = np.stack([forward_grasp(q) for q in found])
    position = np.linalg.norm(again[:, :3, 3] - poses[:, :3, 3], axis=-1)
    turn = np.abs(again[:, :3, :3] - poses[:, :3, :3]).max((1, 2))
    assert feasible.mean() > 0.5
    assert position[feasible].max() < 3e-4
    assert turn[feasible].max() < 1e-6
    assert ((found >= JOINT_LOW) & (found <= JOINT_HIGH)).all()
    assert (np.abs(found - joints).max(-1) < 1e-3)[feasible].mean() > 0.85


@given(
    radius=st.floats(0.2, 0.36), azimuth=st.floats(-0.8, 0.8), height=st.floats(0.03, 0.12), yaw=st.floats(-1.2, 1.2)
)
def test_the_work_area_is_in_reach_with_the_tool_down(radius: float, azimuth: float, height: float, yaw: float) -> None:
    point = np.array([radius * np.cos(azimuth), radius * np.sin(azimuth), height])
    rotation = grasp_rotation(np.asarray(azimuth + yaw), np.asarray(0.0), np.asarray(azimuth))
    joints, feasible = inverse_kinematics(point, rotation, np.zeros(6))
    pose = forward_grasp(joints)
    if feasible:
        np.testing.assert_allclose(pose[:3, 3], point, atol=3e-4)
        np.testing.assert_allclose(pose[:3, :3], rotation, atol=1e-6)
    else:
        assert height > 0.09


def test_out_of_reach_is_said_and_stays_within_limits() -> None:
    rotation = grasp_rotation(np.asarray(0.0), np.asarray(0.0), np.asarray(0.0))
    for point in ([2.0, 0, 0.1], [-0.4, 0, 0.1], [0, 0, 3]):
        joints, feasible = inverse_kinematics(np.array(point), rotation, np.zeros(6))
        assert not feasible
        assert np.isfinite(joints).all()
        assert ((joints >= JOINT_LOW) & (joints <= JOINT_HIGH)).all()


def test_grasp_rotation_is_a_rotation_that_leans_outwards() -> None:
    rng = np.random.default_rng(3)
    yaw, tilt, azimuth = rng.uniform(-1, 1, (3, 50))
    rotation = grasp_rotation(yaw, tilt, azimuth)
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, -1, -2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    tool, outwards = rotation[..., :, 2], np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], -1)
    np.testing.assert_allclose(-tool[:, 2], np.cos(tilt))
    np.testing.assert_allclose((tool * outwards).sum(-1), np.sin(tilt), atol=1e-12)


def test_vectorised_equals_one_by_one() -> None:
    rng = np.random.default_rng(4)
    joints = rng.uniform(JOINT_LOW, JOINT_HIGH, (4, 5, 6))
    poses = np.stack([forward_grasp(q) for q in joints.reshape(-1, 6)]).reshape(4, 5, 4, 4)
    found, feasible = inverse_kinematics(poses[..., :3, 3], poses[..., :3, :3], joints)
    assert (found.shape, feasible.shape) == ((4, 5, 6), (4, 5))
    one, possible = inverse_kinematics(poses[2, 3, :3, 3], poses[2, 3, :3, :3], joints[2, 3])
    np.testing.assert_allclose(one, found[2, 3])
    assert possible == feasible[2, 3]


def test_grasp_point_lies_on_the_tool_axis() -> None:
    joints = np.array([0.1, 1.0, -1.0, 0.2, 0.3, -0.4])
    flange, grasp = dh_flange_pose(joints), forward_grasp(joints)
    np.testing.assert_allclose(grasp[:3, 3] - flange[:3, 3], GRASP_OFFSET * flange[:3, 2])
    assert np.linalg.norm(grasp[:3, 3] - flange[:3, 3]) == pytest.approx(GRASP_OFFSET)
