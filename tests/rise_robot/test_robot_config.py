"""configs/robots: what may be said of a robot, and what is refused; keeping time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rise_env import registry
from rise_env.errors import ConfigError
from rise_env.registry import DRIVERS, Registration
from rise_env.tasks import load_task
from rise_robot.cell.config import load_cell
from rise_robot.cell.piper import MAX_GRIPPER_SPEED, MAX_JOINT_SPEED
from rise_robot.config import PerUnit, RobotConfig, StartConfig, default_robot, load_robot
from rise_robot.drivers import make_driver
from rise_robot.pacing import Pacer

LAYOUT = load_task().layout


@pytest.mark.parametrize("name", ["piper", "cell"])
def test_the_shipped_robots_fit_the_shipped_tasks(name: str) -> None:
    robot = load_robot(name)
    robot.check(LAYOUT)
    assert robot.name == name
    assert robot.start.speed.rad <= 0.25
    assert robot.safety.gap.rad == 0.35
    assert robot.safety.outside.rad == 0.10


def test_the_cell_as_a_robot_is_the_cell() -> None:
    robot, (_, cell) = load_robot("cell"), load_cell()
    left = np.array(cell.start_joints)
    np.testing.assert_allclose(robot.start.pose, [*left, *(left * [-1, 1, 1, -1, 1, -1, 1])])
    assert (robot.safety.speed.rad, robot.safety.speed.m) == (MAX_JOINT_SPEED, MAX_GRIPPER_SPEED)
    topics = load_robot("piper").drivers["ros"]
    assert {key: robot.drivers["ros"][key] for key in topics} == topics


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("safety.sped.rad=1", "Did you mean 'speed'"),
        ("safety.speed.rad=0", "must be positive"),
        ("safety.speed.rad=.nan", "is nan, expected a number"),
        ("safety.stale_joints=-1", "stale_joints is -1"),
        ("start.timeout=0", r"start\.timeout"),
        ("execution.strategy=fast", "expected one of"),
        ("execution.inference_rate=0", "inference_rate"),
        ("execution.late=0", r"execution\.late"),
        ("execution.smooth.latency_steps=-1", "latency_steps"),
        ("execution.smooth.least_overlap=0", "least_overlap"),
        ("execution.smooth.stale=never", "merge, observation"),
        ("execution.ensemble.decay=.inf", "decay"),
        ("execution.rtc.execute_horizon=0", "execute_horizon"),
        ("execution.rtc.delay_steps=-1", "delay_steps"),
        ("safety", "not of the form"),
        ("safety.gap={", "not valid YAML"),
    ],
)
def test_what_makes_no_sense_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_robot("piper", [override])


def test_what_does_not_fit_the_joints_is_refused() -> None:
    for changes, message in (
        ({"layout": "g1_inspire"}, "has joint layout 'g1_inspire'"),
        ({"start": StartConfig(pose=(0.0,))}, "1 values, layout 'piper_bimanual' has 14"),
        ({"start": StartConfig(pose=(9.0, *[0.0] * 13))}, "start.pose of left_joint1 is 9.0"),
        ({"squeeze": {"gripper": 0.001}}, "squeeze names 'gripper'"),
        ({"squeeze": {"left_gripper": 0.5}}, "expected 0 to 0.02"),
    ):
        with pytest.raises(ConfigError, match=message):
            RobotConfig(**{"name": "x", "layout": "piper_bimanual", **changes}).check(LAYOUT)


def test_files_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: piper\nname: mine\nsafety: {speed: {rad: 0.3, m: 0.05}}\n")
    robot = load_robot(mine)
    assert (robot.name, robot.safety.speed) == ("mine", PerUnit(0.3, 0.05))
    assert robot.safety.gap == load_robot("piper").safety.gap
    (tmp_path / "other.yaml").write_text("extends: mine\nname: other\n")
    assert load_robot(str(tmp_path / "other.yaml")).safety.speed.rad == 0.3
    mine.write_text("extends: other\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_robot(mine)
    with pytest.raises(ConfigError, match=r"unknown robot 'ur5'\. Known robots: cell, piper"):
        load_robot("ur5")
    with pytest.raises(ConfigError, match="does not exist"):
        load_robot("nothing.yaml")


def test_a_driver_has_a_robot_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_robot("ros"), default_robot("cell")) == ("piper", "cell")
    with pytest.raises(ConfigError, match="unknown driver 'can'"):
        default_robot("can")
    monkeypatch.setitem(DRIVERS._known, "can", Registration("can", "nobody:Driver"))
    with pytest.raises(ConfigError, match=r"driver 'can' has no robot of its own: choose one \(--robot\): cell, piper"):
        default_robot("can")
    monkeypatch.setattr(registry, "_config_roots", [tmp_path])
    (tmp_path / "robots").mkdir()
    for name in ("one", "other"):
        (tmp_path / "robots" / f"{name}.yaml").write_text(
            f"extends: piper\nname: {name}\ndriver: can\ncan: {{port: 1}}\n"
        )
        (tmp_path / "robots" / "broken.yaml").write_text("- no mapping\n")  # an error only where it is asked for
        if name == "one":
            assert default_robot("can") == "one"
    with pytest.raises(ConfigError, match=r"is that of several robots: choose one \(--robot\): one, other"):
        default_robot("can")
    (tmp_path / "robots" / "lab.yaml").write_text("extends: one\nname: lab\n")  # not a second default
    robot = load_robot("lab", ["can.port=2", "ros.node=ours"])
    assert robot.drivers["can"] == {"port": 2}
    assert robot.drivers["ros"] == {**load_robot("piper").drivers["ros"], "node": "ours"}
    with pytest.raises(ConfigError, match="unknown key 'usb'"):
        load_robot("lab", ["usb.port=2"])


def test_what_is_no_driver_is_refused_with_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        task, name = None, "half"

        def __init__(self, *_: object) -> None:
            self.connect = self.now = self.observe = self.joints = self.camera_stamps = self.target = print
            self.command = self.fault = self.tick = self.close = print

    monkeypatch.setitem(DRIVERS._known, "half", Registration("half", Half))
    with pytest.raises(ConfigError, match="driver 'half' made a Half, which lacks real_time, hold"):
        make_driver("half", "brick_sorting", "tiny", [], load_robot("piper"))
    with pytest.raises(ConfigError, match="driver 'half' does not take all of these options: speed"):
        make_driver("half", "brick_sorting", "tiny", [], load_robot("piper"), speed=1)


def test_a_pacer_keeps_time_and_makes_up_nothing() -> None:
    now, slept = [5.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    pacer = Pacer(0.1, lambda: now[0], sleep)
    assert pacer.wait() == 5.0  # the first period begins at once
    now[0] += 0.03
    pacer.wait()
    now[0] += 0.25  # late
    begun = [pacer.wait(), pacer.wait(), pacer.wait()]
    np.testing.assert_allclose(begun, [5.35, 5.45, 5.55])
    assert slept == [0.07, 0.1, 0.1]
    pacer.restart()
    pacer.wait()
    assert slept[-1] == 0.1
