"""Chunk advantages against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rise_env.envs.advantage import chunk_advantage, penalized
from rise_env.errors import ConfigError

VALUES = [[0.25, 0.5, 0.75, 1.0], [0.5, 0.25, 0.0, 0.25]]
START = [0.125, 0.5]
EXPECTED = {
    "mean": [0.625 - 0.125, 0.25 - 0.5],
    "last": [1.0 - 0.125, 0.25 - 0.5],
    # (.5 + .75 + 1) / 3 - (.125 + .25 + .5 + .75) / 4 and (.25 + 0 + .25) / 3 - (.5 + .5 + .25 + 0) / 4
    "tail": [0.75 - 0.40625, 0.5 / 3 - 0.3125],
}


@pytest.mark.parametrize("mode", EXPECTED)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_by_hand(mode: str, kind) -> None:
    result = chunk_advantage(kind(VALUES), kind(START), mode)
    assert isinstance(result, type(kind(START)))
    np.testing.assert_allclose(np.asarray(result), EXPECTED[mode], rtol=1e-6)


def test_short_chunks_have_short_tails() -> None:
    assert chunk_advantage(np.array([0.75, 0.25]), np.array(0.5), "tail") == 0.5 - 0.5
    for mode in ("mean", "last"):
        assert chunk_advantage(np.array([0.75]), np.array(0.5), mode) == 0.25


@pytest.mark.parametrize("mode", EXPECTED)
def test_a_row_does_not_depend_on_the_others(mode: str) -> None:
    values, start = torch.rand(7, 25, generator=torch.Generator().manual_seed(0)), torch.rand(7)
    together = chunk_advantage(values, start, mode)
    assert all(
        torch.equal(chunk_advantage(values[i : i + 1], start[i : i + 1], mode)[0], together[i]) for i in range(7)
    )


def test_penalty() -> None:
    advantage, uncertainty = np.array([0.5, -0.25]), np.array([0.25, 0.5])
    np.testing.assert_array_equal(penalized(advantage, uncertainty, 2.0), [0.0, -1.25])
    assert penalized(advantage, np.array([np.nan, np.inf]), 0.0) is advantage
    with pytest.raises(ConfigError, match="negative"):
        penalized(advantage, uncertainty, -1.0)


def test_misuse() -> None:
    with pytest.raises(ConfigError, match="unknown advantage mode 'median'"):
        chunk_advantage(np.array(VALUES), np.array(START), "median")
    with pytest.raises(ConfigError, match="shape"):
        chunk_advantage(np.array(VALUES), np.array([0.0]))
    with pytest.raises(ConfigError, match="K >= 1"):
        chunk_advantage(np.zeros((2, 0)), np.zeros(2))
