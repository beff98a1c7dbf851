"""How action chunks become one target per control step: a strategy is one file, all behind `ChunkExecutor`."""

from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec
from rise_robot.config import STRATEGIES, ExecutionConfig
from rise_robot.execution.base import ChunkExecutor, Merge, RtcConstraints
from rise_robot.execution.ensemble import EnsembleExecutor
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


def make_executor(config: ExecutionConfig, task: TaskSpec, strategy: str | None = None) -> ChunkExecutor:
    """Make the executor of a configuration; ConfigError if there is no such strategy.

    Args:
        config: Settings of all strategies.
        task: Says the control rate, and how many steps "sync" plays.
        strategy: One of `STRATEGIES`; the configured one when None.
    """
    chosen = strategy or config.strategy
    period = max(1, round(task.fps / config.inference_rate))
    if chosen == "sync":
        return SynchronousExecutor(task.execute)
    if chosen == "smooth":
        return SmoothExecutor(period, config.smooth)
    if chosen == "ensemble":
        return EnsembleExecutor(period, config.ensemble)
    if chosen == "rtc":
        return RealTimeExecutor(period, config.rtc)
    raise ConfigError(f"execution strategy {chosen!r} is not one of {', '.join(STRATEGIES)}")
