"""SafetyGuard: what every target and every measurement must pass. Pure: no clock, no input or output of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from rise_env.envs.arguments import real_numbers
from rise_env.errors import ActionError
from rise_env.tasks import TaskSpec
from rise_robot.config import SafetyConfig
from rise_robot.drivers.base import JointSample, Observation

__all__ = ["Admitted", "SafetyGuard", "Stop", "StopReason"]

#: Changes of a measured joint below this do not count as motion, rad or m.
_STILL = 1e-4
#: Components further than this outside the limits are counted as clipped; less is rounding.
_ROUNDING = 1e-6
#: A stamp may be this much older than the one before, s: clocks that are slewed, and noise of comparing them.
_BACK = 0.05
#: Joints of one arm, by the first word of their names, that do not all stand at exactly 0.
_ARM = 4
#: Motion of the arms after which a camera must show something new, rad.
_SEEN_MOTION = 0.1


class StopReason(StrEnum):
    """Why a robot was stopped; the value is `info["stop_reason"]`."""

    BAD_ACTION = "bad_action"
    OUTSIDE_LIMITS = "outside_limits"
    TRACKING_GAP = "tracking_gap"
    BAD_MEASUREMENT = "bad_measurement"
    BAD_PICTURE = "bad_picture"
    BAD_STAMP = "bad_stamp"
    STALE_JOINTS = "stale_joints"
    STALE_CAMERA = "stale_camera"
    FROZEN_JOINTS = "frozen_joints"
    FROZEN_CAMERA = "frozen_camera"
    FAULT = "fault"
    LINK = "link"
    POLICY_FAILED = "policy_failed"
    POLICY_LATE = "policy_late"
    OPERATOR = "operator"
    SIGNAL = "signal"


@dataclass(frozen=True)
class Stop:
    """A reason to stop.

    Attributes:
        reason: Which rule.
        detail: What exactly, for people.
    """

    reason: StopReason
    detail: str


@dataclass(frozen=True)
class Admitted:
    """A target that may be sent.

    Attributes:
        target: float64 (D,), rad and m, within the limits and near the one before.
        clamped: Components that lay outside the limits and were clipped.
        slowed: Components that were cut to the speed limit.
    """

    target: np.ndarray
    clamped: int
    slowed: int


class SafetyGuard:
    """Keeps the bounds of a `SafetyConfig`.

    Targets are clipped to the limits and cut to the largest change per control period (1 / `fps`); what cannot be
    corrected so, and every measurement that cannot be trusted, is a `Stop`. The guard decides, the caller acts.

    Example:
        >>> from rise_env.tasks import load_task
        >>> task = load_task()
        >>> guard = SafetyGuard(task, SafetyConfig())
        >>> guard.begin(task.layout.low + 0.1)
        >>> guard.admit(task.layout.low.astype(float)).target.shape
        (14,)
    """

    def __init__(self, task: TaskSpec, config: SafetyConfig) -> None:
        self._task, self._layout, self._config = task, (layout := task.layout), config
        self.low, self.high = config.bounds(layout)
        self._largest_change = config.speed.vector(layout) / task.fps
        self._measured = config.measured.vector(layout)
        self._outside, self._gap = config.outside.vector(layout), config.gap.vector(layout)
        self._angles = np.array([unit == "rad" for unit in layout.units])
        self.begin(None)

    def begin(self, held: np.ndarray | None) -> None:
        """Forget the past; the robot holds `held` (D,), rad and m, or None where that is not known yet."""
        #: The last target sent, float64 (D,), or None.
        self.last: np.ndarray | None = None if held is None else np.asarray(held, float).copy()
        self._anchor: np.ndarray | None = None
        self._pictures: dict[str, tuple[np.ndarray, float, np.ndarray]] = {}
        self._stamps: dict[str, float] = {}

    def follow(self, held: np.ndarray) -> None:
        """The robot holds `held` (D,), rad and m, which is not what was sent last: it has limits of its own."""
        self.last = np.asarray(held, float).copy()

    def check_chunk(self, chunk: Any, shape: tuple[int, ...] | None) -> Stop | None:
        """A whole chunk before any of it is run: shape (chunk, D), numbers, finite."""
        try:
            array = real_numbers(chunk, "the actions")
        except ActionError as error:
            return self._bad(str(error))
        if array.shape != shape:
            return self._bad(f"the action has shape {array.shape}, expected {shape}: joint targets (steps, joints)")
        return self._numbers(array, "the action")

    def admit(self, target: Any) -> Admitted | Stop:
        """A target (D,), rad and m, on its way to the robot; what is admitted counts as sent."""
        try:
            array = real_numbers(target, "the targets")
        except ActionError as error:
            return self._bad(str(error))
        if array.shape != self.low.shape:
            return self._bad(f"the target has shape {array.shape}, expected {self.low.shape}")
        if (stop := self._numbers(array, "the target")) is not None:
            return stop
        if self.last is None:
            return self._bad("nobody knows yet what the robot holds, so no target can be near it")
        wanted = array.astype(np.float64)
        inside = np.clip(wanted, self.low, self.high)
        beyond = np.abs(wanted - inside)
        if (far := beyond > self._outside).any():
            return Stop(StopReason.OUTSIDE_LIMITS, f"targets far outside their limits: {self._list(far, wanted)}")
        change = np.clip(inside - self.last, -self._largest_change, self._largest_change)
        slowed = np.abs(inside - self.last) > self._largest_change + _ROUNDING
        # The target itself where it is near enough: adding a difference would change its last bits.
        allowed = np.where(np.abs(inside - self.last) <= self._largest_change, inside, self.last + change)
        self.last = allowed
        return Admitted(allowed.copy(), int(np.count_nonzero(beyond > _ROUNDING)), int(np.count_nonzero(slowed)))

    def check_joints(self, joints: JointSample, now: float, *, tracks: bool = True) -> Stop | None:
        """A joint state: fresh, finite, near what was commanded, and moving where its command moves.

        `now` is the driver's clock, s; `tracks` says whether commands are being sent: the joints follow none otherwise.
        """
        if (stop := self._check_measured(joints)) is not None:
            return stop
        measured = np.asarray(joints.position, float)
        if (stop := self._check_stamp("the joint state", joints.stamp, now)) is not None:
            return stop
        age = now - joints.stamp
        if age > self._config.stale_joints:
            detail = f"the newest joint state is {age:.2f} s old, at most {self._config.stale_joints} s are allowed"
            return Stop(StopReason.STALE_JOINTS, detail)
        if self.last is None or not tracks:
            return None
        if (apart := np.abs(self.last - measured) > self._gap).any():
            where = self._list(apart, measured, self.last)
            return Stop(StopReason.TRACKING_GAP, f"measured joints are far from their commands: {where}")
        return self._check_motion(measured, now)

    def check_reported(self, joints: JointSample) -> Stop | None:
        """The first joint state of an arm: zeros in every joint are what drivers give before the arm has reported."""
        position = np.asarray(joints.position, float)
        if (stop := self._check_measured(joints)) is not None:
            return stop
        words = [name.partition("_")[0] for name in self._layout.names]
        arms = [np.array([word == arm for word in words]) for arm in dict.fromkeys(words)]
        for joined in [np.ones(len(words), bool), *(arm for arm in arms if arm.sum() >= _ARM)]:
            if not position[joined].any():
                names = [name for name, part in zip(self._layout.names, joined, strict=True) if part]
                return Stop(
                    StopReason.BAD_MEASUREMENT,
                    f"{names[0]} to {names[-1]} are all measured at exactly 0, as before an arm has reported: check "
                    "its power and its bus; an arm that really stands there must be moved a little by hand",
                )
        return None

    def _check_measured(self, joints: JointSample) -> Stop | None:
        measured = np.asarray(joints.position)
        numbers = np.issubdtype(measured.dtype, np.floating) or np.issubdtype(measured.dtype, np.integer)
        if not (measured.shape == self.low.shape and numbers and np.isfinite(measured).all()):
            detail = f"the measured joints are {joints.position}, expected {self.low.size} finite numbers"
            return Stop(StopReason.BAD_MEASUREMENT, detail)
        low, high = self._layout.low - self._measured, self._layout.high + self._measured
        if (far := (measured < low) | (measured > high)).any():
            where = self._list(far, measured)
            return Stop(StopReason.BAD_MEASUREMENT, f"joints are measured far outside their limits: {where}")
        return None

    def _check_stamp(self, what: str, stamp: float, now: float) -> Stop | None:
        """A stamp on the driver's clock: a number, not in the future, and not before the one before it."""
        if not np.isfinite(stamp):
            return Stop(StopReason.BAD_STAMP, f"{what} has the stamp {stamp}, expected seconds on the driver's clock")
        if stamp - now > self._config.ahead:
            detail = (
                f"{stamp - now:.2f} s in the future, at most {self._config.ahead} s are allowed: two clocks disagree"
            )
            return Stop(StopReason.BAD_STAMP, f"the stamp of {what} lies {detail}")
        back = self._stamps.get(what, stamp) - stamp
        if back > _BACK:
            return Stop(
                StopReason.BAD_STAMP, f"the stamp of {what} went back by {back:.2f} s: old data, or a clock was set"
            )
        self._stamps[what] = stamp
        return None

    def _check_motion(self, measured: np.ndarray, now: float) -> Stop | None:
        assert self.last is not None
        if self._anchor is None:
            self._anchor, self._commands = measured.copy(), np.stack([self.last, self.last])
            self._waiting = np.full(measured.shape, np.inf)
        moved = np.abs(measured - self._anchor) > _STILL
        self._anchor = np.where(moved, measured, self._anchor)
        lowest, highest = np.where(moved, self.last, self._commands)
        self._commands = np.stack([np.minimum(lowest, self.last), np.maximum(highest, self.last)])
        # What counts is how far commands have ranged since the joint last moved: a policy that plans from where it sees
        # the joint comes back again and again. A gripper may stand still on what it holds; an arm joint may not.
        ranged = (self._commands[1] - self._commands[0] > self._config.frozen_motion) & self._angles
        self._waiting = np.where(moved | ~ranged, np.inf, np.minimum(self._waiting, now))
        if (stuck := now - self._waiting > self._config.frozen_joints).any():
            where, limit = self._list(stuck, measured, self.last), self._config.frozen_joints
            detail = f"joint states arrive but have not changed for {limit} s although commands have: {where}"
            return Stop(StopReason.FROZEN_JOINTS, detail)
        return None

    def check_cameras(self, stamps: Mapping[str, float], now: float) -> Stop | None:
        """The newest pictures: one of every camera, none too old, by their stamps on the driver's clock."""
        return self._check_pictures("the newest picture", stamps, now)

    def _check_pictures(self, what: str, stamps: Mapping[str, float], now: float) -> Stop | None:
        for camera in self._task.cameras:
            if camera not in stamps:
                seen = ", ".join(stamps) or "none"
                return Stop(StopReason.BAD_PICTURE, f"there is no picture of camera {camera!r}; there are: {seen}")
            picture = f"{what} of camera {camera!r}"
            if (stop := self._check_stamp(picture, stamps[camera], now)) is not None:
                return stop
            age, limit = now - stamps[camera], self._config.stale_camera
            if age > limit:
                return Stop(StopReason.STALE_CAMERA, f"{picture} is {age:.2f} s old, at most {limit} s are allowed")
        return None

    def check_observation(self, observation: Observation, now: float) -> Stop | None:
        """An observation that is about to be used: fresh, pictures as the task has them, and no camera that repeats
        itself while the arms move.
        """
        stop = (
            self._check_measured(observation.joints)
            or self._check_stamp("the observed joint state", observation.joints.stamp, now)
            or self._check_pictures("the observed picture", observation.stamps, now)
        )
        if stop is not None:
            return stop
        shape = (*self._task.image_size, 3)
        for camera in self._task.cameras:
            image = observation.images.get(camera)
            if image is None:
                return Stop(StopReason.BAD_PICTURE, f"there is no picture of camera {camera!r}")
            if not isinstance(image, np.ndarray) or image.shape != shape or image.dtype != np.uint8:
                found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                detail = f"the picture of camera {camera!r} is {found}, expected uint8 {shape}: height, width, RGB"
                return Stop(StopReason.BAD_PICTURE, detail)
        allowed = self._config.frozen_images
        if allowed is None:
            return None
        joints = np.asarray(observation.joints.position, float)
        for camera, image in observation.images.items():
            seen = self._pictures.get(camera)
            if seen is None or not np.array_equal(seen[0], image):
                self._pictures[camera] = (image, now, joints)
                continue
            moved = np.abs(joints - seen[2])[self._angles].max(initial=0.0)
            if now - seen[1] > allowed and moved > _SEEN_MOTION:
                return Stop(
                    StopReason.FROZEN_CAMERA,
                    f"camera {camera!r} has sent the same picture for {now - seen[1]:.2f} s while the arms moved by "
                    f"{moved:.2f} rad",
                )
        return None

    def _numbers(self, array: np.ndarray, what: str) -> Stop | None:
        if not np.isfinite(array).all():
            return self._bad(f"{what} is not finite (NaN or infinity)")
        return None

    @staticmethod
    def _bad(detail: str) -> Stop:
        return Stop(StopReason.BAD_ACTION, detail)

    def _list(self, which: np.ndarray, values: np.ndarray, commands: np.ndarray | None = None) -> str:
        parts = []
        for index in np.flatnonzero(which):
            name, unit = self._layout.names[index], self._layout.units[index]
            if commands is None:
                limits = f"limits {self.low[index]:.3f} to {self.high[index]:.3f}"
                parts.append(f"{name} {values[index]:.3f} {unit} ({limits})")
            else:
                parts.append(f"{name} is at {values[index]:.3f} {unit}, its command at {commands[index]:.3f}")
        return ", ".join(parts)
