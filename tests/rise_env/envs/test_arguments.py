"""Names of autoreset modes."""

from __future__ import annotations

import pytest
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.arguments import autoreset_mode
from rise_env.errors import ConfigError


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_spelling(mode: AutoresetMode) -> None:
    for name in (mode, mode.name, mode.name.lower(), mode.value, mode.value.lower()):
        assert autoreset_mode(name) is mode


@pytest.mark.parametrize("name", ["nextstep2", "", "none", None, 3])
def test_unknown_mode(name: object) -> None:
    with pytest.raises(ConfigError, match="Known modes: next_step, same_step, disabled"):
        autoreset_mode(name)  # type: ignore[arg-type]
