"""Observations of the past in the cell."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.env import CellEnv
from rise_robot.cell.vector import CellVectorEnv


def every_step(seed: int, steps: int) -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
    """Observations after every single control step of an operator, and its chunks."""
    env = CellEnv(preset="tiny", execute=1)
    seen, chunks = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        chunk = env.scripted_chunk("operator", 1)
        chunks.append(chunk)
        seen.append(env.step(chunk)[0])
    env.close()
    return seen, chunks


def test_a_lagged_observation_is_the_observation_of_that_moment() -> None:
    seen, chunks = every_step(seed=3, steps=12)
    for execute, lags in ((4, (2, 4)), (3, (4, 1)), (2, (4, 6))):
        env = CellEnv(preset="tiny", execute=execute, observation_lags=lags)
        observation, _ = env.reset(seed=3)
        for lag in lags:  # before the start there is nothing but the start
            np.testing.assert_array_equal(observation[f"image_head_lag{lag}"], observation["image_head"])
        for start in range(0, 12, execute):
            steps = np.stack([chunk[0] for chunk in chunks[start : start + execute]])
            action = np.concatenate([steps, np.repeat(steps[-1:], env.task.chunk - execute, axis=0)])
            observation = env.step(action)[0]
            now = start + execute
            assert env.observation_space.contains(observation)
            for lag in lags:
                for key in ("image_head", "image_left_wrist", "state"):
                    if now - lag >= 0 or now == execute:
                        expected = seen[max(0, now - lag)][key]
                        np.testing.assert_array_equal(observation[f"{key}_lag{lag}"], expected)
        env.close()


def test_a_vector_of_cells_has_them_too() -> None:
    envs = CellVectorEnv(2, num_workers=0, preset="tiny", observation_lags=[2], autoreset_mode="disabled")
    observations, _ = envs.reset(seed=0)
    observations = envs.step(envs.scripted_chunks("expert"))[0]
    assert envs.observation_space.contains(observations)
    assert (observations["image_head_lag2"] != observations["image_head"]).any()
    envs.close()


@pytest.mark.parametrize("lags", [[0], [-2], [100], [2, 2]])
def test_a_lag_beyond_what_imagination_gives_is_refused(lags: list[int]) -> None:
    with pytest.raises(ConfigError, match="observation_lags"):
        CellEnv(preset="tiny", observation_lags=lags)
