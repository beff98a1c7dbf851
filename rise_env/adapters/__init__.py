"""Views of our vector environments for other ecosystems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rise_env.adapters.lerobot import LeRobotView
    from rise_env.adapters.sb3 import SB3VecEnv

__all__ = ["LeRobotView", "SB3VecEnv"]

_HOMES = {"LeRobotView": "lerobot", "SB3VecEnv": "sb3"}


def __getattr__(name: str) -> Any:
    """Import an adapter, and with it the package it is for, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
