"""Names of Gymnasium's autoreset modes."""

from __future__ import annotations

from gymnasium.vector.vector_env import AutoresetMode

from rise_env.errors import ConfigError

__all__ = ["autoreset_mode"]


def autoreset_mode(name: str | AutoresetMode) -> AutoresetMode:
    """Mode by name: "next_step", "same_step" or "disabled"; Gymnasium's own spellings and members are taken too.

    Raises:
        ConfigError: If there is no such mode.
    """
    if isinstance(name, AutoresetMode):
        return name
    for mode in AutoresetMode:
        if str(name).replace("_", "").lower() == mode.value.replace("_", "").lower():
            return mode
    raise ConfigError(
        f"unknown autoreset_mode {name!r}. Known modes: {', '.join(mode.name.lower() for mode in AutoresetMode)}."
    )
