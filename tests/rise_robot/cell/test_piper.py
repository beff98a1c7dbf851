"""The arm in MuJoCo is the published arm."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from rise_env.tasks import load_layout
from rise_robot.cell.kinematics import JOINT_HIGH, JOINT_LOW
from rise_robot.cell.piper import DH, dh_flange_pose
from rise_robot.cell.scene import SIDES


@pytest.mark.parametrize("side", SIDES)
def test_mujoco_flange_equals_dh_within_two_tenths_of_a_millimetre(new_cell, side: str) -> None:
    cell, rng = new_cell(), np.random.default_rng(1)
    site = cell.model.site(f"{side}_flange").id
    addresses = cell._joint_addresses[side]
    for joints in rng.uniform(JOINT_LOW, JOINT_HIGH, (300, 6)):
        cell.data.qpos[addresses] = joints
        mujoco.mj_kinematics(cell.model, cell.data)
        pose = dh_flange_pose(joints)
        assert np.abs(cell.data.site_xpos[site] - cell.bases[side] - pose[:3, 3]).max() < 2e-4
        assert np.abs(cell.data.site_xmat[site].reshape(3, 3) - pose[:3, :3]).max() < 1e-3


def test_zero_pose_and_parameters_are_the_published_ones() -> None:
    np.testing.assert_allclose(dh_flange_pose(np.zeros(6))[:3, 3], [0.0561, 0, 0.2133], atol=1e-4)
    np.testing.assert_allclose([row[3] for row in DH], [0, -172.22, -102.78, 0, 0, 0])


def test_limits_are_those_of_the_layout_and_of_the_model(new_cell) -> None:
    layout, cell = load_layout("piper_bimanual"), new_cell()
    for offset in (0, 7):
        np.testing.assert_allclose(layout.lower[offset : offset + 6], JOINT_LOW, atol=1e-4)
        np.testing.assert_allclose(layout.upper[offset : offset + 6], JOINT_HIGH, atol=1e-4)
    for side in SIDES:
        ranges = np.array([cell.model.joint(f"{side}_joint{i + 1}").range for i in range(6)])
        np.testing.assert_allclose(ranges.T, [JOINT_LOW, JOINT_HIGH])
        servos = np.array([cell.model.actuator(f"{side}_joint{i + 1}").ctrlrange for i in range(6)])
        np.testing.assert_allclose(servos, ranges)


@pytest.mark.parametrize("opening", [0.0, 0.02, 0.07])
def test_gripper_opens_by_what_is_commanded_with_both_fingers(new_cell, opening: float) -> None:
    cell = new_cell()
    target = cell.command.copy()
    target[[6, 13]] = opening
    for _ in range(15):
        cell.step(target)
    for side in SIDES:
        assert cell.opening(side) == pytest.approx(opening, abs=0.001)
        first, second = cell.data.qpos[cell._finger_addresses[side]]
        assert first == pytest.approx(-second, abs=0.001)
    assert cell.state()[[6, 13]] == pytest.approx(opening, abs=0.001)
