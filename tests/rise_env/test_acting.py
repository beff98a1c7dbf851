"""The history of observations: the right moment for every environment and lag, bounded memory, own copies."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.acting import ObservationHistory
from rise_env.errors import ConfigError


def seen(*values: float) -> dict[str, np.ndarray]:
    return {"state": np.array(values)[:, None]}


def lagged(history: ObservationHistory, lag: int) -> list[float]:
    return list(history.observe()[f"state_lag{lag}"][:, 0])


def test_the_past_is_exact_and_begins_with_the_first_observation() -> None:
    history = ObservationHistory((3, 1), 2)
    for step in range(10):
        history.push(seen(step, 100 + step))
        found = history.observe()
        assert list(found) == ["state", "state_lag3", "state_lag1"]
        assert list(found["state"][:, 0]) == [step, 100 + step]
        for lag in (1, 3):
            then = max(0, step - lag)
            assert lagged(history, lag) == [then, 100 + then]


def test_a_reset_concerns_its_own_environment_alone() -> None:
    history = ObservationHistory((2,), 2)
    for step in range(5):
        history.push(seen(step, step))
    history.reset(np.array([False, True]))
    with pytest.raises(ConfigError, match="no observation of it was pushed"):
        history.observe()
    history.push(seen(-1, 50), mask=np.array([False, True]))  # the neighbour did not move on
    assert list(history.observe()["state"][:, 0]) == [4, 50]
    assert lagged(history, 2) == [2, 50]
    history.push(seen(5, 51))
    history.push(seen(6, 52))
    assert lagged(history, 2) == [4, 50]
    history.reset()
    history.push(seen(7, 8))
    assert lagged(history, 2) == [7, 8]


def test_only_the_moments_that_count_may_be_pushed() -> None:
    history = ObservationHistory((6,))
    history.push(seen(0))
    history.push(seen(10), elapsed=10)
    history.push(seen(16), elapsed=6)
    assert lagged(history, 6) == [10]
    np.testing.assert_array_equal(history.ages(), [[6.0]])


def test_irregular_observations_give_the_nearest() -> None:
    history = ObservationHistory((6,))
    for moment, elapsed in ((0.0, 0.0), (5.1, 5.1), (9.7, 4.6), (12.0, 2.3)):
        history.push(seen(moment), elapsed=elapsed)
    assert lagged(history, 6) == [5.1]
    assert history.ages()[0, 0] == pytest.approx(6.9)
    history.push(seen(100.0), elapsed=88.0)  # whatever was before is further away than the present
    assert lagged(history, 6) == [100.0]


def test_a_fast_stream_keeps_memory_bounded() -> None:
    history = ObservationHistory((4,))
    for step in range(1000):
        history.push(seen(step / 100), elapsed=0.01)
    assert lagged(history, 4)[0] == pytest.approx(9.99 - 4, abs=0.51)
    assert len(history._kept[0]) <= 12
    steady = ObservationHistory((4,))
    for step in range(100):
        steady.push(seen(step))
    assert len(steady._kept[0]) == 5


def test_what_was_pushed_is_a_copy() -> None:
    history, buffer = ObservationHistory((1,)), seen(1)
    history.push(buffer)
    buffer["state"][:] = 2
    history.push(buffer)
    assert lagged(history, 1) == [1]


def test_the_number_of_environments_must_fit() -> None:
    with pytest.raises(ConfigError, match="'state' is of 3 environments, the history of 2"):
        ObservationHistory((1,), 2).push(seen(1, 2, 3))
