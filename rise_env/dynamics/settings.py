"""How a trained dynamics model imagines: the settings that need no training, and where they may come from.

An argument (`imagine=` of environments and world models), the option `--imagine KEY=VALUE` of commands, or the
environment variable `RISE_IMAGINE="compile=true; flow.steps=4"`, which also reaches the processes that a command
starts. An argument goes before the variable, which goes before what the checkpoint says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rise_env.config import decode, merge, parse_override
from rise_env.dynamics.config import DynamicsConfig
from rise_env.errors import ConfigError, unknown_name
from rise_env.files import to_plain

__all__ = ["SETTINGS", "VARIABLE", "changed", "from_environment", "with_settings"]

VARIABLE = "RISE_IMAGINE"
#: Keys of section `dynamics` that a trained model may be given anew.
SETTINGS = ("compile", "compile_backend", "flow.steps", "flow.sigmas", "flow.precision", "flow.disagreement")


def from_environment() -> dict[str, Any]:
    """Settings that `RISE_IMAGINE` holds, by dotted key.

    Raises:
        ConfigError: If it holds something else.
    """
    found: dict[str, Any] = {}
    for part in filter(str.strip, os.environ.get(VARIABLE, "").split(";")):
        try:
            found = merge(found, parse_override(part.strip()))
        except ConfigError as error:
            raise ConfigError(f"{VARIABLE}: {error}") from error
    return _flat(found)


def changed(config: DynamicsConfig, settings: Mapping[str, Any]) -> DynamicsConfig:
    """Settings of a model with some of `SETTINGS` replaced.

    Args:
        config: What it was made with.
        settings: By dotted key ("flow.steps") or as mappings within mappings. Steps without sigmas do away with sigmas.

    Raises:
        ConfigError: If a key needs training or is unknown, or a value is wrong.
    """
    flat = _flat(settings)
    for key in flat:
        if key not in SETTINGS:
            raise ConfigError(f"{unknown_name('setting of imagination', key, SETTINGS)} Others need training.")
    if "flow.steps" in flat:
        flat.setdefault("flow.sigmas", [])
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        nested = merge(nested, {sections[0]: {name: value}} if sections else {name: value})
    return decode(DynamicsConfig, merge(to_plain(config), nested), "settings of imagination (section 'dynamics')")


def with_settings(dynamics: Any, settings: Mapping[str, Any]) -> Any:
    """A dynamics model, of whatever class, that imagines in another way, with the same weights; what keys it takes is
    its own business.

    Raises:
        ConfigError: If the settings are wrong, or the model takes none.
    """
    flat = _flat(settings)
    if not flat:
        return dynamics
    if not hasattr(dynamics, "with_settings"):
        raise ConfigError(
            f"{', '.join(flat)}: {type(dynamics).__name__} has no such settings (a method `with_settings`, as "
            f"LatentDynamics has it). Leave out imagine=, --imagine and {VARIABLE}."
        )
    return dynamics.with_settings(flat)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f'settings of imagination are {settings!r:.80}, expected a mapping such as {{"flow.steps": 4}}'
        )
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            flat[str(key)] = value
    return flat
