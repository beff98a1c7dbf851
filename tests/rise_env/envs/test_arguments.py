"""Names of autoreset modes, and what an action is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.data import open_dataset
from rise_env.envs.arguments import autoreset_mode, real_numbers
from rise_env.envs.single import ImaginationEnv
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ActionError, ConfigError
from rise_env.testing import counting_starts, counting_world_model
from rise_robot.cell.config import cell_overrides


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_spelling(mode: AutoresetMode) -> None:
    for name in (mode, mode.name, mode.name.lower(), mode.value, mode.value.lower()):
        assert autoreset_mode(name) is mode


@pytest.mark.parametrize("name", ["nextstep2", "", "none", None, 3])
def test_unknown_mode(name: object) -> None:
    with pytest.raises(ConfigError, match="Known modes: next_step, same_step, disabled"):
        autoreset_mode(name)  # type: ignore[arg-type]


ZEROS = np.zeros((2, 1, 8, 3), np.float32)
NO_ACTIONS = {
    "complex": ZEROS.astype(complex), "objects": ZEROS.astype(object), "texts": ZEROS.astype(str),
    "bytes": ZEROS.astype(bytes), "dates": ZEROS.astype("datetime64[s]"), "durations": ZEROS.astype("timedelta64[s]"),
    "truth": ZEROS > 0, "None": None, "a map": {"actions": 1}, "ragged": [[1.0], [2.0, 3.0]],
    "complex tensor": torch.zeros(ZEROS.shape, dtype=torch.complex64), "truth tensor": torch.from_numpy(ZEROS) > 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def worlds() -> dict[str, Callable[[Any], Any]]:
    """Where actions come in, by name; those of the cell and the robot have tests of their own."""
    parts: dict[str, Any] = {"starts": counting_starts(), "world_model": counting_world_model()}
    envs, single = ImaginationVectorEnv(2, **parts), ImaginationEnv(**parts)
    envs.reset(seed=0)
    single.reset(seed=0)
    return {"array": real_numbers, "step": envs.step, "candidates": envs.evaluate_candidates, "single": single.step}


@pytest.mark.parametrize("kind", NO_ACTIONS)
def test_what_is_no_action(worlds: dict[str, Callable[[Any], Any]], kind: str) -> None:
    """One kind of error, before anything has moved, and no silent cast."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for take in worlds.values():
            with pytest.raises(ActionError, match=r"real numbers.*nothing was executed"):
                take(NO_ACTIONS[kind])


def test_what_is_an_action() -> None:
    for given in (ZEROS.astype(">f8"), ZEROS.astype(int), ZEROS.tolist(), torch.zeros(3, requires_grad=True),
                  torch.zeros(3, dtype=torch.bfloat16)):  # fmt: skip
        assert not real_numbers(given).any()


@pytest.mark.parametrize("wrong", ["x", "false", 1, 0, [], 1.0])
def test_truth_values_are_no_other_things(wrong: object) -> None:
    for call in (
        lambda: cell_overrides(None, None, None, wrong),  # type: ignore[arg-type]
        lambda: open_dataset("none", skip_bad_episodes=wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="expected True or False"):
            call()
    assert cell_overrides(None, None, None, np.True_) == ["cell.variation.enabled=true"]  # type: ignore[arg-type]
