"""RobotSession: one control period after another, between whoever decides and a driver, under the safety guard."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from rise_env.errors import ActionError, RobotError
from rise_robot.config import RobotConfig
from rise_robot.drivers.base import Driver, Observation, SceneDriver
from rise_robot.operator_keys import Key, Keys
from rise_robot.safety import Admitted, SafetyGuard, Stop, StopReason

__all__ = ["RobotSession"]

_LOG = logging.getLogger(__name__)


class RobotSession:
    """Everything that moves the robot goes through here.

    Every control period begins with the operator's keys and signals, then the driver's own fault, the joint state and
    the age of the pictures; then the target passes the guard and is sent. Whatever is wrong makes the robot hold and
    sets `stop`; from then on nothing is sent until `begin`. Motors are never switched off.

    Args:
        driver: The robot.
        robot: Its configuration; must fit the driver's task.
        keys: Operator's keys.
        interrupted: Says the name of a signal that asks to stop, or None.
        dry_run: Do everything but send.

    Raises:
        ConfigError: If the configuration does not fit the task.

    Attributes:
        stop: Why the robot was stopped, or None.
        verdict: What the operator said of the episode: `Key.SUCCESS`, `Key.FAILURE` or None.
        intervening: Whether the operator has taken over.
    """

    def __init__(
        self,
        driver: Driver,
        robot: RobotConfig,
        *,
        keys: Keys | None = None,
        interrupted: Callable[[], str | None] | None = None,
        dry_run: bool = False,
    ) -> None:
        layout = driver.task.layout
        robot.check(layout)
        self.driver, self.robot, self.dry_run = driver, robot, dry_run
        self.keys = keys or Keys()
        self._interrupted = interrupted or (lambda: None)
        self.guard = SafetyGuard(driver.task, robot.safety)
        self._squeeze = np.array([robot.squeeze.get(name, 0.0) for name in layout.names])
        self._connected = False
        self._clear()

    def _clear(self) -> None:
        self.stop: Stop | None = None
        self.verdict: Key | None = None
        self.intervening = False
        self._sent: np.ndarray | None = None
        #: When the last target was sent, s on the driver's clock.
        self.sent_at: float | None = None

    def connect(self) -> None:
        """Connect the driver, once; RobotError if it cannot be connected."""
        if not self._connected:
            self.answer(self.driver.connect)
            self._connected = True
            self.keys.open()

    def begin(self) -> None:
        """An episode begins where the robot is; RobotError if something is wrong with the robot already."""
        self._clear()
        self._check_reported("the episode cannot begin")
        self.guard.begin(self._held())
        self.keys.poll()  # what was pressed before does not count
        if (stop := self._reason()) is not None:
            self.halt(stop)
            raise RobotError(f"the episode cannot begin ({stop.reason}): {stop.detail}")

    def go_to_start(self) -> None:
        """Move slowly from where the joints are measured to the start pose; does nothing in a dry run or without one;
        RobotError if it is stopped on the way or does not arrive.
        """
        start, layout, fps = self.robot.start, self.driver.task.layout, self.driver.task.fps
        if not start.pose or self.dry_run:
            return
        self._clear()
        self._check_reported("the way to the start pose cannot begin")
        pose, tolerance = np.asarray(start.pose, float), start.tolerance.vector(layout)
        step, begun = start.speed.vector(layout) / fps, self.answer(self.driver.now)
        target = self.answer(self.driver.joints).position.astype(float)
        self.guard.begin(target)
        self._sent = self.answer(
            self.driver.target
        )  # an old target, perhaps far away, does not count: the way starts at the arm
        while True:
            apart = np.abs(self.answer(self.driver.joints).position - pose)
            if (apart <= tolerance).all() and np.array_equal(target, pose):
                return
            if self.answer(self.driver.now) - begun > start.timeout:
                far = [layout.names[i] for i in np.flatnonzero(apart > tolerance)]
                self._hold()
                raise RobotError(
                    f"the start pose was not reached within {start.timeout} s; still away: {', '.join(far)}. Look for "
                    "what is in the way, or raise start.timeout or start.tolerance in the robot's YAML."
                )
            near = np.abs(pose - target) <= step
            target = np.where(near, pose, target + np.clip(pose - target, -step, step))
            if self.tick(target, squeeze=False) is None:
                assert self.stop is not None
                raise RobotError(f"stopped on the way to the start pose ({self.stop.reason}): {self.stop.detail}")

    def tick(self, target: np.ndarray | None, *, squeeze: bool = True) -> Admitted | None:
        """One control period.

        Args:
            target: Joint targets (D,), rad and m; None to hold.
            squeeze: Whether grippers are sent a little further closed, as configured.

        Returns:
            What was admitted (the held target while holding); None if the robot has been stopped: nothing was sent.
        """
        return self._guarded(lambda: self._tick(target, squeeze))

    def observe(self) -> Observation | None:
        """The newest observation, checked; None if that stopped the robot."""
        return self._guarded(self._observe)

    def asked_to_stop(self) -> Stop | None:
        """Whether a signal asks to stop; for the time between episodes."""
        name = self._interrupted()
        return None if name is None else Stop(StopReason.SIGNAL, f"the program was asked to end ({name})")

    def answer[T](self, question: Callable[[], T]) -> T:
        """The driver's answer; RobotError whatever it raises: a driver is somebody's own code, on hardware."""
        try:
            return question()
        except (RobotError, ActionError):
            raise
        except Exception as error:
            if not isinstance(error, OSError):  # of a bug, its author wants the lines
                _LOG.error("driver %r raised", self.driver.name, exc_info=True)
            raise RobotError(f"driver {self.driver.name!r} raised {type(error).__name__}: {error}") from error

    def halt(self, stop: Stop) -> None:
        """Hold, and send nothing more in this episode."""
        failed = None if self.dry_run else self._hold()
        if self.stop is None:
            self.stop = stop if failed is None else Stop(stop.reason, f"{stop.detail}; {failed}")

    def close(self) -> None:
        """Hold and disconnect. Twice is fine."""
        self.keys.close()
        if self._connected:
            self._connected = False
            self.answer(self.driver.close)

    def _hold(self) -> str | None:
        """Hold; what went wrong, in words. A stop must come to its end."""
        try:
            self.answer(self.driver.hold)
        except (RobotError, ActionError) as error:
            return f"and it could not be told to hold: {error}"
        return None

    def _check_reported(self, what: str) -> None:
        """On hardware: arms that have not reported yet. A simulation may stand at 0."""
        if not self.driver.real_time or isinstance(self.driver, SceneDriver):
            return
        if (stop := self.guard.check_reported(self.answer(self.driver.joints))) is not None:
            self.halt(stop)
            raise RobotError(f"{what} ({stop.reason}): {stop.detail}")

    def _held(self) -> np.ndarray:
        held = None if self.dry_run else self.answer(self.driver.target)
        return self.answer(self.driver.joints).position.astype(float) if held is None else held

    def _tick(self, target: np.ndarray | None, squeeze: bool) -> Admitted | None:
        if self.stop is not None:
            return None
        admitted = self._reason() or self._admit(target)
        if isinstance(admitted, Stop):
            self.halt(admitted)
            return None
        if target is not None and not self.dry_run:
            sent = np.maximum(admitted.target - self._squeeze, self.guard.low) if squeeze else admitted.target
            self.answer(lambda: self.driver.command(sent))
            self._sent, self.sent_at = sent, self.answer(self.driver.now)
        self.answer(self.driver.tick)
        return admitted

    def _observe(self) -> Observation | None:
        observation = self.answer(self.driver.observe)
        if (stop := self.guard.check_observation(observation, self.answer(self.driver.now))) is None:
            return observation
        self.halt(stop)
        return None

    def _admit(self, target: np.ndarray | None) -> Admitted | Stop:
        if self.dry_run:  # nobody follows: every target is measured against where the robot is
            self.guard.follow(self._held())
        else:
            held = self.answer(self.driver.target)
            if held is not None and (self._sent is None or not np.array_equal(held, self._sent)):
                self.guard.follow(held)
        if target is not None:
            return self.guard.admit(target)
        assert self.guard.last is not None
        return Admitted(self.guard.last.copy(), 0, 0)

    def _reason(self) -> Stop | None:
        """What is wrong now."""
        for key in self.keys.poll():
            if key is Key.STOP:
                return Stop(StopReason.OPERATOR, "the operator pressed stop")
            if key in (Key.TAKE_OVER, Key.HAND_BACK):
                self.intervening = key is Key.TAKE_OVER
            else:
                self.verdict = key
        if (asked := self.asked_to_stop()) is not None:
            return asked
        try:
            if (fault := self.answer(self.driver.fault)) is not None:
                return Stop(StopReason.FAULT, fault)
            # The clock is read last: an answer that took long is old when it arrives.
            joints, stamps = self.answer(self.driver.joints), self.answer(self.driver.camera_stamps)
            now = self.answer(self.driver.now)
            stop = self.guard.check_joints(joints, now, tracks=not self.dry_run)
            return stop or self.guard.check_cameras(stamps, now)
        except RobotError as error:
            return Stop(StopReason.LINK, str(error))

    def _guarded[T](self, action: Callable[[], T | None]) -> T | None:
        """What the driver cannot do stops the robot; any other error makes it hold and goes on to the caller."""
        try:
            return action()
        except RobotError as error:
            self.halt(Stop(StopReason.LINK, str(error)))
        except ActionError as error:
            self.halt(Stop(StopReason.BAD_ACTION, str(error)))
        except BaseException:
            if not self.dry_run:
                self._hold()
            raise
        return None
