"""Ranges of actions, a test per published convention; the numbers are those of the published files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamics_world import World

from rise_env.dynamics.actions import JointScaler
from rise_env.dynamics.ranges import ActionRanges, ranges_of, read_ranges
from rise_env.errors import ConfigError
from rise_env.tasks import load_layout

PIPER = load_layout("piper_bimanual")
#: RISE, dynamics/dynamics_model/configs/ltx_model/infer_online.yaml: the ranges of its fine-tuned model.
RISE_YAML = """
mixed_precision: bf16
min_val: [-1.2569797039031982, -0.015368163585662842, -2.9705562591552734, -1.7858469486236572, -1.2238012552261353,
  -2.116654872894287, -0.004800000227987766, -1.1926462650299072, -0.011425820179283619, -2.889738082885742,
  -1.5043879747390747, -1.2006704807281494, -2.1159398555755615, -0.0010999999940395355]
max_val: [1.1646835803985596, 3.1207141876220703, 0.0, 1.7559653520584106, 1.3258661031723022, 2.117056131362915,
  0.10109999775886536, 1.4933459758758545, 2.8809986114501953, 0.0, 1.7803171873092651, 1.3112828731536865,
  2.0924253463745117, 0.10080000013113022]
diffusion_model:
  config: {action_in_channels: 14}
"""
#: The pretraining set has grippers from 0 to 100; its arm joints do not matter here.
PRETRAINING = """
import numpy as np
LOW = np.array([-3.0, -3.0, -3.0, -3.0, -3.0, -3.0, 0, -3.0, -3.0, -3.0, -3.0, -3.0, -3.0, 0], dtype=np.float32)
NORM_SET = {
    "GALAXEA": {"min_val": LOW, "max_val": 2 * ([3.0] * 6 + [100.0])},
    "AGIBOT": {"min_val": [-np.pi] * 16, "max_val": [np.pi] * 16},
    "OTHER": compute(),
}
"""
#: Genie Envisioner, data/utils/statistics.py: 16 dimensions, two arms of seven joints and a gripper each.
GENIE = """
StatisticInfo = {
    "agibotworld_joint": {
        "mean": [-1.2455877173776138, 0.7444988532599097, 0.7276085570616037, -0.9697965112684924, 0.6339293484631947,
                 1.2640398472759886, -0.0007876268094789704, 0, 1.3022833720950178, -0.7556787747644584,
                 -0.8588525388272683, 0.8713104165671968, -0.593267192798959, -1.2104334810203448,
                 -0.039674215368317174, 0],
        "std": [0.5337649373339123, 0.3512827954207858, 0.5619289513324849, 0.3960596038760223, 0.4907613118713761,
                0.3500267611121078, 0.6416098814468049, 1, 0.5281823205736444, 0.35552909880550443, 0.5800864927957736,
                0.4218060263276174, 0.5405150536418051, 0.38154597507953125, 0.6631348696564108, 1],
    },
    "agibotworld_delta_joint": {"mean": [0.0] * 16, "std": [1.0] * 16},
}
"""
AGIBOT = load_layout({
    "names": [f"{side}_{i}" for side in ("left", "right") for i in range(8)], "units": ["rad"] * 16,
    "lower": [-3.0] * 16, "upper": [3.0] * 16,
})  # fmt: skip


def token(ranges: ActionRanges, joint: int, value: float, dim: int = 14) -> float:
    """What a model with these ranges reads of a joint at a value, padded to 30 numbers."""
    scaler = JointScaler(dim, 2, "target", relative=False, width=30, form="min_max")
    scaler.set_ranges(ranges.shift, ranges.scale)
    actions = torch.zeros(1, 4, dim)
    actions[..., joint] = value
    tokens = scaler.tokens(actions, torch.zeros(1, dim))
    assert not bool(tokens[..., dim:].any())
    return float(tokens[0, 0, joint])


def test_the_fine_tuned_ranges_of_the_release(tmp_path: Path) -> None:
    (tmp_path / "infer_online.yaml").write_text(RISE_YAML)
    ranges = read_ranges(tmp_path / "infer_online.yaml", PIPER)
    assert ranges.form == "min_max"
    assert token(ranges, 6, 0.07) == pytest.approx(0.41, abs=0.005)
    assert token(ranges, 0, 1.0) == pytest.approx(0.86, abs=0.005)
    assert token(ranges, 13, 0.10080000013113022) == pytest.approx(1.0)
    assert ranges.narrow(PIPER) == []


def test_the_pretraining_ranges_of_the_release(tmp_path: Path) -> None:
    file = tmp_path / "constants.py"
    file.write_text(PRETRAINING)
    ranges = read_ranges(file, PIPER, "GALAXEA")
    assert token(ranges, 6, 0.07) == pytest.approx(-0.999, abs=0.0005)
    assert [text.split()[0] for text in ranges.narrow(PIPER)] == ["left_gripper", "right_gripper"]


def test_mean_and_deviation_of_genie_envisioner(tmp_path: Path) -> None:
    file = tmp_path / "statistics.py"
    file.write_text(GENIE)
    ranges = read_ranges(file, AGIBOT, "agibotworld_joint")
    assert ranges.form == "mean_std"
    assert token(ranges, 0, 1.0, dim=16) == pytest.approx((1.0 + 1.2455877) / 0.5337649, rel=1e-5)
    with pytest.raises(ConfigError, match="ranges of 16 dimensions, layout 'piper_bimanual' has 14"):
        read_ranges(file, PIPER, "agibotworld_joint")


def test_statistics_of_lerobot_and_openpi(tmp_path: Path) -> None:
    ends = {"min": [-1.0] * 14, "max": [3.0] * 14, "mean": [0.0] * 14, "std": [1.0] * 14, "count": [9]}
    (tmp_path / "stats.json").write_text(json.dumps({"action": ends, "observation.state": ends}))
    ranges = read_ranges(tmp_path / "stats.json", PIPER)
    assert token(ranges, 3, 3.0) == 1.0
    quantiles = {
        name: ends[other] for name, other in (("q01", "min"), ("q99", "max"), ("mean", "mean"), ("std", "std"))
    }
    (tmp_path / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": quantiles, "actions": quantiles}}))
    with pytest.raises(ConfigError, match="has mean_std and quantiles but no min and max at 'norm_stats/actions'"):
        read_ranges(tmp_path / "norm_stats.json", PIPER)
    (tmp_path / "norm_stats.json").write_text(json.dumps({"q01": ends["min"], "q99": ends["max"]}))
    assert read_ranges(tmp_path / "norm_stats.json", PIPER).form == "quantiles"


def test_the_ranges_of_a_dataset() -> None:
    world = World()
    ranges = ranges_of(world)
    for joint in (0, 1):
        for end, sign in ((world.action.min(0), -1.0), (world.action.max(0), 1.0)):
            assert token(ranges, joint, float(end[joint]), dim=2) == pytest.approx(sign, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "cannot be read"),
        ("a.txt", "", "are read from .json, .yaml and .py"),
        ("a.json", "[", "cannot be read"),
        ("a.py", "def f(:", "cannot be read"),
        ("a.py", "x = open('a.py').read()", "has no action ranges"),
        ("a.json", '{"min_val": [1], "max": [2]}', "has no action ranges"),
        ("a.json", '{"min_val": [1, 2], "max_val": [2, 1]}', "joint 'y' has 2 and 1, expected a lower"),
        ("a.json", '{"min_val": [1, NaN], "max_val": [2, 1]}', "joint 'y' has nan and 1"),
        ("a.json", '{"a": {"min": [1], "max": [2]}, "b": {"min": [1], "max": [2]}}', "choose one .*: a, b"),
    ],
)  # fmt: skip
def test_what_is_no_range_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_ranges(tmp_path / name, World().spec.layout)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "constants.py").write_text(PRETRAINING)
    with pytest.raises(ConfigError, match=r"has no ranges 'FINETUNE': .*GALAXEA"):
        read_ranges(tmp_path / "constants.py", PIPER, "FINETUNE")


def test_a_joint_that_never_moves_stays_finite(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"min": [0.5, 0], "max": [0.5, 1]}')
    ranges = read_ranges(tmp_path / "a.json", World().spec.layout)
    assert np.array_equal(ranges.scale, [1.0, 0.5])
