"""The learned simulator as a Gymnasium environment."""

from __future__ import annotations

from rise_env.imagination.single import ImaginationEnv
from rise_env.imagination.vector import Foresight, ImaginationVectorEnv

__all__ = ["Foresight", "ImaginationEnv", "ImaginationVectorEnv"]
