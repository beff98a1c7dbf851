"""What the tests of robots share."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rise_env.tasks import TaskSpec, load_task
from rise_robot.config import PerUnit, RobotConfig, SafetyConfig, StartConfig
from rise_robot.drivers.base import Driver
from rise_robot.env import RobotEnv
from rise_robot.testing import FakeRobot


def tiny_task(**changes: Any) -> TaskSpec:
    """Chunk 8, execute 4, 10 Hz."""
    return dataclasses.replace(load_task("brick_sorting", "tiny"), **changes)


def robot_config(**changes: Any) -> RobotConfig:
    return RobotConfig(**{"name": "fake", "layout": "piper_bimanual", **changes})


def fake_env(driver: Driver | None = None, robot: RobotConfig | None = None, **changes: Any) -> RobotEnv:
    return RobotEnv(driver or FakeRobot(tiny_task()), robot or robot_config(), **changes)


def chunk_near(env: RobotEnv, step: float = 0.02) -> np.ndarray:
    """A chunk that moves every joint by `step` per row, from where the robot is."""
    joints = env.driver.joints().position.astype(float)
    rows = np.arange(1, env.task.chunk + 1)[:, None]
    scale = np.array([1.0 if unit == "rad" else 0.02 for unit in env.task.layout.units])
    return (joints + rows * step * scale).astype(np.float32)


__all__ = [
    "FakeRobot", "PerUnit", "SafetyConfig", "StartConfig", "chunk_near", "fake_env", "robot_config", "tiny_task",
]  # fmt: skip
