"""A robot of somebody else: a simulated arm that goes where it is sent. It satisfies `SceneDriver`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rise_env.tasks import load_task
from rise_robot.config import RobotConfig
from rise_robot.drivers.base import JointSample, Observation


class StrangerDriver:
    """Joints go a share `follow` of the way to their targets in every control period; time passes in `tick` alone.

    An episode succeeds once the measured joints are near a mark, which the cameras show beside the arm.
    """

    name = "stranger"
    real_time = False

    def __init__(
        self, task: str, preset: str, overrides: Sequence[str], robot: RobotConfig, follow: float | None = None
    ) -> None:
        self.task = load_task(task, preset, overrides)
        self._follow = robot.drivers["stranger"]["follow"] if follow is None else follow
        self._low, self._high = self.task.layout.low.astype(float), self.task.layout.high.astype(float)
        self._position = self._mark = (self._low + self._high) / 2
        self._target: np.ndarray | None = None
        self._ticks = 0

    def connect(self) -> None:
        """Nothing to open."""

    def now(self) -> float:
        """Simulated time, s."""
        return self._ticks / self.task.fps

    def observe(self) -> Observation:
        """A picture per camera: a white column where the first joint is, a red one where it should be."""
        height, width = self.task.image_size
        image = np.zeros((height, width, 3), np.uint8)
        for joints, colour in ((self._mark, (255, 0, 0)), (self._position, (255, 255, 255))):
            share = (joints[0] - self._low[0]) / (self._high[0] - self._low[0])
            image[:, round(float(np.clip(share, 0, 1)) * (width - 1))] = colour
        return Observation(dict.fromkeys(self.task.cameras, image), self.joints(), self.camera_stamps())

    def joints(self) -> JointSample:
        """Where the joints are now."""
        return JointSample(self._position.astype(np.float32), self.now())

    def camera_stamps(self) -> Mapping[str, float]:
        """Pictures are of the present."""
        return dict.fromkeys(self.task.cameras, self.now())

    def target(self) -> np.ndarray | None:
        """The last target."""
        return None if self._target is None else self._target.copy()

    def command(self, target: np.ndarray) -> None:
        """Follow it from the next tick on."""
        self._target = np.array(target, float)

    def fault(self) -> str | None:
        """All is well."""
        return None

    def tick(self) -> None:
        """One control period."""
        self._ticks += 1
        if self._target is not None:
            self._position = self._position + self._follow * (self._target - self._position)

    def hold(self) -> None:
        """Stay."""
        self._target = self._position.copy()

    def close(self) -> None:
        """Nothing to close."""
        self.hold()

    def reset_scene(self, seed: int) -> None:
        """Another mark, the arm in the middle."""
        self._mark = np.random.default_rng(seed).uniform(self._low, self._high)
        self._position, self._target = (self._low + self._high) / 2, None

    def outcome(self) -> dict[str, Any]:
        """How near the mark is."""
        distance = float(np.max(np.abs(self._position - self._mark) / (self._high - self._low)))
        done = distance < 0.05
        values = {"progress": 1.0 if done else max(0.0, 0.95 - distance), "score": 10.0 * done, "is_success": done}
        return {**values, "failure_mode": "none", "finished": done}
