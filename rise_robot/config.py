"""What differs from robot to robot: `configs/robots/<name>.yaml`, decoded into dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rise_env.config import config_files, decode, load_extended, load_yaml, merge, parse_override
from rise_env.errors import ConfigError, requirement
from rise_env.registry import DRIVERS
from rise_env.tasks import JointLayout

__all__ = [
    "STRATEGIES",
    "EnsembleConfig",
    "ExecutionConfig",
    "PerUnit",
    "RealTimeConfig",
    "RobotConfig",
    "SafetyConfig",
    "SmoothConfig",
    "StartConfig",
    "default_robot",
    "load_robot",
]

#: Names of the execution strategies; `rise_robot.execution.make_executor` knows them.
STRATEGIES = ("sync", "smooth", "ensemble", "rtc")


_require = requirement("robot configuration")


@dataclass(frozen=True)
class PerUnit:
    """One number for angles and one for lengths.

    Attributes:
        rad: For joints in rad; positive, may be infinite.
        m: For joints in m; positive, may be infinite.
    """

    rad: float
    m: float

    def __post_init__(self) -> None:
        _require(self.rad > 0 and self.m > 0, f"{self} must be positive (.inf switches a bound off)")

    def vector(self, layout: JointLayout) -> np.ndarray:
        """The number of every joint of a layout, float64 (D,)."""
        return layout.sizes(self.rad, self.m)


@dataclass(frozen=True)
class StartConfig:
    """Where episodes begin, and how slowly the robot goes there.

    Attributes:
        pose: Joint targets (D,), rad and m; empty to begin wherever the robot is.
        speed: Largest speed on the way, rad/s and m/s.
        tolerance: How near the measured joints must come, rad and m.
        timeout: Time after which the way is given up, s.
    """

    pose: tuple[float, ...] = ()
    speed: PerUnit = field(default_factory=lambda: PerUnit(0.2, 0.04))
    tolerance: PerUnit = field(default_factory=lambda: PerUnit(0.01, 0.001))
    timeout: float = 60.0

    def __post_init__(self) -> None:
        _require(self.timeout > 0, f"start.timeout is {self.timeout} s, expected more than 0")


@dataclass(frozen=True)
class SafetyConfig:
    """Bounds that `rise_robot.safety.SafetyGuard` keeps.

    Attributes:
        speed: Largest change of a target, per second; faster targets are cut to it.
        outside: How far outside its limits a target may be and still be clipped; further out the robot stops.
        gap: Largest distance between the last command and the measured joint.
        measured: How far outside the arm's own limits a measured joint may be; further out the measurement is wrong.
        ahead: How far in the future a stamp may lie, s. One that does could never become stale.
        stale_joints: Largest age of a joint state, s.
        stale_camera: Largest age of a picture, s.
        frozen_joints: Time that a joint may stand still although its command moves, s.
        frozen_motion: Motion that counts for this, rad.
        frozen_images: Time that a camera may show the same bytes although the joints move, s; None to allow it, for
            rendered pictures.
        limits: Narrower limits than the layout's, by joint name.
    """

    speed: PerUnit = field(default_factory=lambda: PerUnit(1.5, 0.2))
    outside: PerUnit = field(default_factory=lambda: PerUnit(0.10, 0.02))
    gap: PerUnit = field(default_factory=lambda: PerUnit(0.35, math.inf))
    measured: PerUnit = field(default_factory=lambda: PerUnit(0.35, 0.05))
    ahead: float = 0.1
    stale_joints: float = 0.2
    stale_camera: float = 0.5
    frozen_joints: float = 0.5
    frozen_motion: float = 0.05
    frozen_images: float | None = 1.0
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ahead", "stale_joints", "stale_camera", "frozen_joints", "frozen_motion", "frozen_images"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"safety.{name} is {value}, expected more than 0")

    def bounds(self, layout: JointLayout) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits of every joint, float64 (D,) each: the layout's, narrowed by `limits`; ConfigError if
        `limits` names an unknown joint, or is wider than the layout.
        """
        low, high = layout.low.astype(float), layout.high.astype(float)
        for name, (lower, upper) in self.limits.items():
            _require(name in layout.names, f"safety.limits names {name!r}; the joints are {', '.join(layout.names)}")
            index = layout.names.index(name)
            _require(
                low[index] <= lower < upper <= high[index],
                f"safety.limits of {name} are [{lower}, {upper}], expected to rise and to lie within the arm's "
                f"[{low[index]:.4f}, {high[index]:.4f}]",
            )
            low[index], high[index] = lower, upper
        return low, high


@dataclass(frozen=True)
class SmoothConfig:
    """Temporal smoothing.

    Attributes:
        latency_steps: Largest number of stale steps dropped from a new chunk.
        least_overlap: Steps that the old plan is padded to before the two are blended.
        stale: Which steps count as stale: those played since the last "merge", as deployed with the release, or since
            the "observation" that the chunk was computed from. They are the same where an inference begins as soon as
            the one before has ended; where it begins later, the first drops steps that are still to come.
    """

    latency_steps: int = 8
    least_overlap: int = 8
    stale: Literal["merge", "observation"] = "observation"

    def __post_init__(self) -> None:
        _require(self.latency_steps >= 0, f"smooth.latency_steps is {self.latency_steps}, expected 0 or more")
        _require(self.least_overlap >= 1, f"smooth.least_overlap is {self.least_overlap}, expected 1 or more")


@dataclass(frozen=True)
class EnsembleConfig:
    """Temporal ensembling.

    Attributes:
        decay: Chunk i for a step, 0 the oldest, has the weight exp(-decay i): a larger one trusts old chunks more.
    """

    decay: float = 0.01

    def __post_init__(self) -> None:
        _require(math.isfinite(self.decay), f"ensemble.decay is {self.decay}, expected a finite number")


@dataclass(frozen=True)
class RealTimeConfig:
    """Real-time chunking.

    Attributes:
        execute_horizon: Leading steps of a new chunk that are constrained by the old one.
        delay_steps: Control steps an inference is expected to take before one was measured.
    """

    execute_horizon: int = 10
    delay_steps: int = 4

    def __post_init__(self) -> None:
        _require(self.execute_horizon >= 1, f"rtc.execute_horizon is {self.execute_horizon}, expected 1 or more")
        _require(self.delay_steps >= 0, f"rtc.delay_steps is {self.delay_steps}, expected 0 or more")


@dataclass(frozen=True)
class ExecutionConfig:
    """How chunks become targets.

    Attributes:
        strategy: One of `STRATEGIES`.
        inference_rate: Inferences begun per second at most, Hz; "sync" asks whenever its chunk is used up instead.
        late: Time that the arm waits for a chunk before the episode ends, s.
        smooth: Settings of "smooth".
        ensemble: Settings of "ensemble".
        rtc: Settings of "rtc".
    """

    strategy: str = "smooth"
    inference_rate: float = 3.0
    late: float = 1.0
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    rtc: RealTimeConfig = field(default_factory=RealTimeConfig)

    def __post_init__(self) -> None:
        _require(self.strategy in STRATEGIES, f"execution.strategy is {self.strategy!r}, expected one of {STRATEGIES}")
        _require(self.inference_rate > 0, f"execution.inference_rate is {self.inference_rate} Hz, expected more than 0")
        _require(self.late > 0, f"execution.late is {self.late} s, expected more than 0")


@dataclass(frozen=True)
class RobotConfig:
    """A robot.

    Attributes:
        name: Short name.
        layout: Name of the joint layout that the lists below are in the order of; the task must have the same.
        start: Start pose.
        safety: Bounds.
        squeeze: How much further closed a gripper is sent than its target says, m, by joint name.
        execution: Chunk execution.
        drivers: What a driver needs to know of this robot, by the driver's name; decoded by the driver. In the YAML
            file these are sections of their own: `ros: {...}`.
    """

    name: str
    layout: str
    start: StartConfig = field(default_factory=StartConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    squeeze: dict[str, float] = field(default_factory=dict)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    drivers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check(self, layout: JointLayout) -> None:
        """Compare with the joints of a task; ConfigError if this is a robot with other joints, or the start pose does
        not fit them.
        """
        _require(
            layout.name == self.layout,
            f"robot {self.name!r} has joint layout {self.layout!r}, the task has {layout.name!r}. Choose another robot "
            "(--robot) or task.",
        )
        low, high = self.safety.bounds(layout)
        for name, closer in self.squeeze.items():
            _require(name in layout.names, f"squeeze names {name!r}; the joints are {', '.join(layout.names)}")
            _require(0 <= closer <= 0.02, f"squeeze of {name} is {closer} m, expected 0 to 0.02")
        if not self.start.pose:
            return
        pose = np.asarray(self.start.pose, float)
        _require(pose.shape == low.shape, f"start.pose has {pose.size} values, layout {layout.name!r} has {layout.dim}")
        for index in np.flatnonzero((pose < low) | (pose > high)):
            _require(
                False,
                f"start.pose of {layout.names[index]} is {pose[index]}, its limits are [{low[index]}, {high[index]}]",
            )


def load_robot(name: str | Path, overrides: Iterable[str] = ()) -> RobotConfig:
    """Load a robot; ConfigError if there is no such robot, or something in the file is wrong.

    Args:
        name: Name of a file `configs/robots/<name>.yaml`, ours or a plug-in's, or the path of a YAML file.
            `extends: <name>` at its top starts from a file beside it, or from one of those.
        overrides: Dotted assignments, e.g. `["safety.speed.rad=0.3"]`; values are YAML.

    Example:
        >>> load_robot("piper").safety.gap.rad
        0.35
    """
    path = _find(str(name), None)
    values = load_extended(path, _find)
    for override in overrides:
        values = merge(values, parse_override(override))
    values.pop("driver", None)  # for `default_robot`
    drivers = {key: values.pop(key) for key in list(values) if key in DRIVERS}
    return decode(RobotConfig, {**values, "drivers": drivers}, f"robot {path.name}")


def default_robot(driver: str) -> str:
    """The robot that is meant where only a driver is named: the one whose file says `driver: <name>`; ConfigError if
    there is no such driver, or not exactly one such robot.
    """
    wanted, known = DRIVERS.find(driver).name, config_files("robots")
    found = [name for name, path in known.items() if _driver_of(path) == wanted]
    if len(found) == 1:
        return found[0]
    names = ", ".join(found or known)
    raise ConfigError(
        f"driver {driver!r} {'is that of several robots' if found else 'has no robot of its own'}: choose one "
        f"(--robot): {names}; or give the path of a YAML file"
    )


def _driver_of(path: Path) -> str | None:
    try:
        return load_yaml(path).get("driver")
    except ConfigError:  # reported where this robot is asked for
        return None


def _find(name: str, beside: Path | None) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if beside is not None and (beside / f"{name}.yaml").is_file():
        return beside / f"{name}.yaml"
    known = config_files("robots")
    if name not in known:
        names = ", ".join(sorted(known))
        raise ConfigError(f"unknown robot {name!r}. Known robots: {names}; or give the path of a YAML file.")
    return known[name]
