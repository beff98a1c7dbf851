"""Registers `--env.type=rise` with LeRobot, which imports this module by the name of its distribution."""

from rise_env.adapters.lerobot_env import RiseEnvConfig

__all__ = ["RiseEnvConfig"]
