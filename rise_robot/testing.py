"""Fakes for tests of what stands above a driver. Neither is a model of a robot: `FakeRobot` goes where it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from rise_env.errors import RobotError
from rise_env.tasks import TaskSpec
from rise_robot.drivers.base import Driver, JointSample, Observation
from rise_robot.operator_keys import Key, Keys
from rise_robot.safety import StopReason

__all__ = ["FAULTS", "FakeRobot", "Fault", "FaultyDriver", "ScriptedKeys"]

type Fault = Literal[
    "stale_joints", "stale_camera", "future_joints", "future_camera", "backward_joints", "frozen_joints",
    "frozen_camera", "nan_joints", "outside_joints", "wrong_size", "wrong_type", "missing_camera", "blocked", "fault",
    "link", "io", "bug", "command", "hold", "tick", "interrupt",
]  # fmt: skip

#: Why each of them must stop the robot. "interrupt" is not among them: it is an exception, and the arm holds.
FAULTS: dict[Fault, StopReason] = {
    "stale_joints": StopReason.STALE_JOINTS,
    "stale_camera": StopReason.STALE_CAMERA,
    "future_joints": StopReason.BAD_STAMP,
    "future_camera": StopReason.BAD_STAMP,
    "backward_joints": StopReason.BAD_STAMP,
    "frozen_joints": StopReason.FROZEN_JOINTS,
    "frozen_camera": StopReason.FROZEN_CAMERA,
    "nan_joints": StopReason.BAD_MEASUREMENT,
    "outside_joints": StopReason.BAD_MEASUREMENT,
    "wrong_size": StopReason.BAD_PICTURE,
    "wrong_type": StopReason.BAD_PICTURE,
    "missing_camera": StopReason.BAD_PICTURE,
    "blocked": StopReason.FROZEN_JOINTS,
    "fault": StopReason.FAULT,
    "hold": StopReason.FAULT,
    "link": StopReason.LINK,
    "io": StopReason.LINK,
    "bug": StopReason.LINK,
    "command": StopReason.LINK,
    "tick": StopReason.LINK,
}


class FakeRobot:
    """A `Driver` whose joints go a share of the way to their targets in every control period; cameras show noise.

    Args:
        task: The task.
        start: Joints at the start, (D,) rad and m; the middle of the limits when omitted.
        follow: Share of the way, in (0, 1].

    Attributes:
        sent: Every target that was sent.
        log: Calls in order: "connect", "command", "tick", "hold", "close".
        real_time: Time goes on in `tick` alone.
    """

    name = "fake"
    real_time = False

    def __init__(self, task: TaskSpec, start: np.ndarray | None = None, follow: float = 1.0) -> None:
        self.task, self._follow = task, follow
        middle = (task.layout.low.astype(float) + task.layout.high) / 2
        self.position = middle if start is None else np.asarray(start, float).copy()
        self.sent: list[np.ndarray] = []
        self.log: list[str] = []
        self.ticks = 0
        self._target: np.ndarray | None = None

    def connect(self) -> None:
        """Note it."""
        self.log.append("connect")

    def now(self) -> float:
        """Control periods that have passed, in s."""
        return self.ticks / self.task.fps

    def observe(self) -> Observation:
        """Noise that changes with time."""
        rng, shape = np.random.default_rng(self.ticks), (*self.task.image_size, 3)
        images = {camera: rng.integers(0, 256, shape, np.uint8) for camera in self.task.cameras}
        return Observation(images, self.joints(), self.camera_stamps())

    def joints(self) -> JointSample:
        """Where the joints are."""
        return JointSample(self.position.astype(np.float32), self.now())

    def camera_stamps(self) -> Mapping[str, float]:
        """Now."""
        return dict.fromkeys(self.task.cameras, self.now())

    def target(self) -> np.ndarray | None:
        """The last target; None before the first."""
        return None if self._target is None else self._target.copy()

    def command(self, target: np.ndarray) -> None:
        """Note it."""
        self.log.append("command")
        self.sent.append(np.array(target))
        self._target = np.array(target)

    def fault(self) -> str | None:
        """None."""
        return None

    def tick(self) -> None:
        """Time passes, joints move."""
        self.log.append("tick")
        self.ticks += 1
        if self._target is not None:
            self.position = self.position + self._follow * (self._target - self.position)

    def hold(self) -> None:
        """Note it."""
        self.log.append("hold")

    def close(self) -> None:
        """Note it."""
        self.log.append("close")


class FaultyDriver:
    """A driver that breaks in one way, from some control period on.

    Args:
        driver: What works until then.
        fault: What breaks. "stale_*": the stamps stand still; "future_*": they lie 100 s ahead; "backward_joints": they
            go back by 0.18 s; "frozen_*": the stamps go on, the values stand still; "nan_joints": the measurement is
            NaN; "outside_joints": 5 rad; "wrong_size", "wrong_type", "missing_camera": of one camera's pictures;
            "blocked": commands are not followed; "fault": the robot reports one; "link", "command", "tick": everything,
            `command` or `tick` raises RobotError; "io", "bug": reading the joints raises OSError, TypeError; "hold":
            the robot reports a fault and `hold` raises OSError; "interrupt": `tick` raises KeyboardInterrupt.
        after: Control periods before that.
    """

    def __init__(self, driver: Driver, fault: Fault, after: int) -> None:
        self.inner, self.task, self.name = driver, driver.task, f"faulty-{driver.name}"
        self.real_time = driver.real_time
        self.connect, self.now, self.close = driver.connect, driver.now, driver.close  # work
        self._fault, self._left = fault, after
        self._joints: JointSample | None = None
        self._seen: Observation | None = None
        self._sent: np.ndarray | None = None
        self._taken = 0.0

    def _is(self, *faults: Fault) -> bool:
        return self._left <= 0 and self._fault in faults

    def _check_link(self) -> None:
        if self._is("link"):
            raise RobotError("the link is gone (a fake)")

    def observe(self) -> Observation:
        """May be old, frozen or missing."""
        self._check_link()
        seen = self.inner.observe()
        if self._seen is None or not self._is("frozen_camera"):
            self._seen = seen
        images, (first, *_) = dict(self._seen.images), self.task.cameras
        if self._is("wrong_size"):
            images[first] = images[first][:-2]
        if self._is("wrong_type"):
            images[first] = images[first].astype(np.float32) / 255
        if self._is("missing_camera"):
            del images[first]
        return replace(seen, images=images, joints=self.joints(), stamps=self.camera_stamps())

    def joints(self) -> JointSample:
        """May be old, frozen, wrong or missing."""
        self._check_link()
        if self._is("io"):
            raise OSError("the bus is gone (a fake)")
        if self._is("bug"):
            raise TypeError("a bug in a driver (a fake)")
        joints = self.inner.joints()
        if self._joints is None or not self._is("stale_joints", "frozen_joints"):
            self._joints = joints
        if self._is("nan_joints"):
            return replace(joints, position=np.full_like(joints.position, np.nan))
        if self._is("outside_joints"):
            return replace(joints, position=np.concatenate([[5.0], joints.position[1:]]).astype(np.float32))
        if self._is("future_joints", "backward_joints"):
            return replace(joints, stamp=joints.stamp + (100.0 if self._fault == "future_joints" else -0.18))
        return replace(self._joints, stamp=joints.stamp) if self._is("frozen_joints") else self._joints

    def camera_stamps(self) -> Mapping[str, float]:
        """May be wrong in one camera."""
        self._check_link()
        stamps, (first, *_) = dict(self.inner.camera_stamps()), self.task.cameras
        if not self._is("stale_camera"):
            self._taken = stamps[first]
        stamps[first] = self._taken + 100 * self._is("future_camera")
        return stamps

    def target(self) -> np.ndarray | None:
        """What it was sent last, followed or not."""
        return self.inner.target() if self._sent is None else self._sent

    def command(self, target: np.ndarray) -> None:
        """May fail or do nothing."""
        self._check_link()
        if self._is("command"):
            raise RobotError("the command could not be sent (a fake)")
        if self._is("blocked"):
            self._sent = np.array(target)
        else:
            self.inner.command(target)

    def fault(self) -> str | None:
        """May report something."""
        return "arm_status 7: collision (a fake)" if self._is("fault", "hold") else self.inner.fault()

    def hold(self) -> None:
        """May fail."""
        if self._is("hold"):
            raise OSError("the bus is gone (a fake)")
        self.inner.hold()

    def tick(self) -> None:
        """May fail."""
        if self._is("tick"):
            raise RobotError("the clock has stopped (a fake)")
        if self._is("interrupt"):
            raise KeyboardInterrupt
        self._left -= 1
        self.inner.tick()


class ScriptedKeys(Keys):
    """Keys that are pressed by themselves.

    Args:
        presses: Keys by the number of the poll at which they are pressed, counted from the opening.
        clock: Where to take that number from instead, e.g. control periods.
    """

    available = True

    def __init__(self, presses: Mapping[int, Iterable[Key]], clock: Callable[[], int] | None = None) -> None:
        self._presses, self._polls = {at: list(keys) for at, keys in presses.items()}, -1
        self._clock = clock
        self.open_count = self.close_count = 0

    def open(self) -> None:
        """Count it."""
        self.open_count += 1

    def poll(self) -> list[Key]:
        """What is due."""
        self._polls += 1
        now = self._polls if self._clock is None else self._clock()
        due = sorted(at for at in self._presses if at <= now)
        return [key for at in due for key in self._presses.pop(at)]

    def close(self) -> None:
        """Count it."""
        self.close_count += 1
