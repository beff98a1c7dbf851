"""The scene: names that the rest relies on, contact rules, and MJCF text."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import mujoco
import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.config import CellConfig, load_cell
from rise_robot.cell.mjcf import element
from rise_robot.cell.scene import SIDES, substeps


def test_cameras_and_names(new_cell) -> None:
    model = new_cell(0).model
    cameras = {model.camera(i).name for i in range(model.ncam)}
    assert cameras == {"head", "overview", "left_wrist", "right_wrist"}
    for side in SIDES:
        for name in (*(f"{side}_joint{i}" for i in range(1, 7)), f"{side}_gripper"):
            assert model.actuator(name).id >= 0
    assert model.nmesh == model.ntex == 0  # the renderer shares one context between models for this reason


def test_arms_collide_with_each_other_and_the_scene_but_not_with_themselves(new_cell) -> None:
    model = new_cell(0).model

    def meet(a: int, b: int) -> bool:
        pair = (model.geom_contype[a] & model.geom_conaffinity[b]) | (model.geom_contype[b] & model.geom_conaffinity[a])
        return bool(pair)

    left, right = (model.geom(f"{side}_finger1_pad").id for side in SIDES)
    table, brick = model.geom("table").id, model.geom("brick0").id
    assert meet(left, right)
    assert meet(left, table)
    assert meet(right, brick)
    assert meet(brick, table)
    arm = [g for g in range(model.ngeom) if model.body(model.geom_bodyid[g]).name.startswith("left_")]
    assert not any(meet(a, b) for a in arm for b in arm)


def test_start_pose_touches_nothing_and_sees_the_belt(new_cell) -> None:
    for seed in range(10):
        cell = new_cell(seed)
        arms = {g for g in range(cell.model.ngeom) if "_" in cell.model.body(cell.model.geom_bodyid[g]).name}
        touching = [tuple(pair) for pair in cell.data.contact.geom[cell.data.contact.dist < 0]]
        assert not [pair for pair in touching if arms & set(pair)]


def test_arms_do_not_start_the_same(new_cell) -> None:
    cell = new_cell(0)
    home = cell.home()
    np.testing.assert_allclose(home["right"], home["left"] * [-1, 1, 1, -1, 1, -1, 1])
    assert cell.side_slice("right") == slice(7, 14)
    for side, sign in zip(SIDES, (1, -1), strict=True):
        assert cell.bases[side][1] == pytest.approx(sign * cell.config.arm_spacing)


@pytest.mark.parametrize(("fps", "expected"), [(10, 25), (30, 9), (50, 5), (100, 3), (1000, 1)])
def test_substeps(fps: int, expected: int) -> None:
    spec, config = load_cell("brick_sorting", "tiny", [f"task.fps={fps}"])
    assert substeps(spec, config) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cell.supersample=0", "supersample is 0"),
        ("cell.supersample=9", "supersample is 9"),
        ("cell.max_timestep=0.1", "max_timestep is 0.1"),
        ("cell.start_joints=[0, 1]", "start_joints"),
    ],
)
def test_wrong_cell_configuration(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_cell("brick_sorting", "tiny", [override])


def test_head_camera_pose_is_configured(new_cell) -> None:
    model = new_cell(0, "cell.head_camera.pos=[0.2, 0.1, 0.9]", "cell.head_camera.fovy=50").model
    np.testing.assert_allclose(model.camera("head").pos, [0.2, 0.1, 0.9])
    assert float(model.camera("head").fovy[0]) == 50
    assert isinstance(model, mujoco.MjModel)
    assert CellConfig.__dataclass_fields__


def test_mjcf_text() -> None:
    child = element(Element("worldbody"), "geom", type="box", size=(0.1, np.float32(0.25), 1e-9), mass=1)
    assert child.attrib == {"type": "box", "size": "0.1 0.25 1e-09", "mass": "1"}
