"""What is guessed of robots that the repository has never seen: units, limits, times, picture sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rise_env.data.task_guess import guess_image_size, guess_joints, guess_progress, guess_times, unlike_targets
from rise_env.errors import DatasetError
from rise_env.spaces import check_lags, default_lags
from rise_env.tasks import JointLayout, TaskSpec


def recorded(
    values: dict[str, tuple[float, float]], fps: int = 30, lengths: tuple[int, ...] = (90,) * 6, **lag: int
) -> Any:
    """A dataset whose joints swing between two values, behind commands that lead by some frames."""
    names, rng = tuple(values), np.random.default_rng(0)
    low, high = (np.array(side, float) for side in zip(*values.values(), strict=True))
    action = low + (high - low) * np.concatenate(
        [np.linspace(0, 1, n)[:, None] ** rng.uniform(0.5, 2, len(names)) for n in lengths]
    )
    wave = np.sin(np.arange(len(action))[:, None] / rng.uniform(4, 8, len(names)))
    action = np.clip(action + 0.2 * (high - low) * wave, low, high)
    layout = SimpleNamespace(names=names, dim=len(names))
    return SimpleNamespace(
        name="wobbler", state=np.roll(action, lag.get("behind", 0), 0), action=action, num_episodes=len(lengths),
        lengths=np.array(lengths), starts=np.cumsum(lengths) - lengths, spec=SimpleNamespace(fps=fps, layout=layout),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "span", "unit", "limits"),
    [
        ("shoulder_pan", (-1.0, 1.0), "rad", (-1.5, 1.5)),
        ("shoulder_pan.pos", (-95.0, 60.0), "deg", (-134, 99)),
        ("joint_3", (0.4, 0.4), "rad", (0.35, 0.45)),
        ("gripper", (0.0, 0.07), "m", (0.0, 0.0875)),
        ("gripper.pos", (2.0, 97.0), "none", (0.0, 100.0)),
        ("left_hand_index", (0.5, 0.58), "none", (0.0, 1.0)),
        ("left_gripper", (-1.0, 1.0), "rad", (-1.5, 1.5)),  # neither an opening nor a share
        ("ee_x", (0.1, 0.4), "m", (0.025, 0.475)),
        ("ee_qw", (-1.0, 1.0), "none", (-1.5, 1.5)),
        ("lift_axis_z", (0.0, 0.0), "m", (-0.005, 0.005)),
    ],
)
def test_units_and_limits(name: str, span: tuple[float, float], unit: str, limits: tuple[float, float]) -> None:
    (joint,) = guess_joints(recorded({name: span}))
    assert joint.unit == unit, joint.why
    assert (joint.lower, joint.upper) == pytest.approx(limits, rel=0.02, abs=0.01 * (span[1] - span[0]) + 1e-9)
    JointLayout("one", (name,), (unit,), (joint.lower,), (joint.upper,))
    assert joint.lower <= joint.least
    assert joint.most <= joint.upper


def test_an_outlier_does_not_widen_the_limits() -> None:
    dataset = recorded({"elbow": (-1.0, 1.0)}, lengths=(400,) * 6)
    dataset.state[5] = 40.0
    (joint,) = guess_joints(dataset)
    assert (joint.upper, joint.most, joint.unit) == (pytest.approx(1.5, abs=0.02), 40.0, "rad")


@pytest.mark.parametrize("fps", [1, 5, 10, 15, 24, 30, 50, 60, 100])
@pytest.mark.parametrize("seconds", [3, 8, 30])
def test_times_fit_each_other(fps: int, seconds: int) -> None:
    lengths = tuple(max(3, fps * seconds + extra) for extra in (-1, 0, 2, 5))
    times = guess_times(recorded({"elbow": (-1.0, 1.0)}, fps, lengths))
    spec = TaskSpec(
        "t", "Do it.", {"head": "h"}, (16, 16), JointLayout("l", ("elbow",), ("rad",), (-2,), (2,)), fps, times.chunk,
        times.stride, 4, times.execute, 5.0,
    )  # fmt: skip
    assert check_lags(spec, times.lags) == times.lags
    assert times.chunk < min(lengths)
    if fps >= 10 and seconds >= 8:
        assert 1.0 <= times.chunk / fps <= 1.7
        assert 0.15 <= times.lags[0] / fps <= 0.45
    assert check_lags(spec, default_lags(spec)) == default_lags(spec)


def test_slow_joints_make_long_chunks_and_short_episodes_short_ones() -> None:
    quick, slow = (
        guess_times(recorded({"elbow": (-1.0, 1.0)}, lengths=(300,) * 3, behind=frames)) for frames in (1, 18)
    )
    assert quick.chunk < slow.chunk
    assert slow.lag == pytest.approx(0.6, abs=0.05)
    assert guess_times(recorded({"elbow": (-1.0, 1.0)}, lengths=(9, 10, 11))).chunk <= 8
    with pytest.raises(DatasetError, match="half of its 3 episodes have at most 1 frames"):
        guess_times(recorded({"elbow": (-1.0, 1.0)}, lengths=(1, 1, 90)))


def test_velocities_are_no_targets() -> None:
    dataset = recorded({"elbow": (-1.0, 1.0), "wrist": (0.0, 2.0), "still": (1.0, 1.0)}, behind=5)
    assert unlike_targets(dataset) == []
    dataset.action[:, :2] = np.diff(dataset.state[:, :2], axis=0, append=0.0)
    assert unlike_targets(dataset) == ["elbow", "wrist"]


def test_pictures_keep_their_shape() -> None:
    sizes = {
        size: guess_image_size([size])
        for size in ((480, 640), (1080, 1920), (96, 96), (640, 480), (376, 1344), (32, 48))
    }
    assert list(sizes.values()) == [(48, 64), (48, 80), (64, 64), (64, 48), (32, 112), (32, 48)]


@pytest.mark.parametrize(
    ("column", "expected", "why"),
    [
        (None, "time", "no column `progress`"),
        (np.linspace(0, 1, 20), "dense", "from 0 to 1"),
        (np.linspace(0, 0.4, 20)[:, None], "dense", "from 0 to 0.4"),  # nobody succeeded
        (np.repeat([0.0, 1.0], [19, 1]), "time", "nobody measured it"),  # what RISE records on a robot
        (np.linspace(0, 100, 20), "time", "from 0 to 100, not from 0 to 1"),
        (np.full(20, np.nan), "time", "not finite"),
        (np.zeros((20, 2)), "time", "2 numbers per frame"),
    ],
)
def test_progress_that_was_measured(column: np.ndarray | None, expected: str, why: str) -> None:
    columns = [] if column is None else ["progress"]
    found = guess_progress(SimpleNamespace(columns=columns, num_frames=20, column=lambda _: column))  # type: ignore[arg-type]
    assert found[0] == expected
    assert why in found[1]
