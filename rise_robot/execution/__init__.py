"""How action chunks become one target per control step: a strategy is one file, all behind `ChunkExecutor`."""

from rise_robot.execution.base import ChunkExecutor, Merge, RtcConstraints
from rise_robot.execution.ensemble import EnsembleExecutor
from rise_robot.execution.factory import make_executor
from rise_robot.execution.real_time import RealTimeExecutor
from rise_robot.execution.smooth import SmoothExecutor
from rise_robot.execution.synchronous import SynchronousExecutor

__all__ = [
    "ChunkExecutor",
    "EnsembleExecutor",
    "Merge",
    "RealTimeExecutor",
    "RtcConstraints",
    "SmoothExecutor",
    "SynchronousExecutor",
    "make_executor",
]
