"""The environment whose optimum is known: it keeps the rules, and the optimum is one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import rise_env  # noqa: F401  (registers the environment)
from rise_env.checks import CHECKS, check_vector_env
from rise_env.envs.reach import (
    mean_return,
    optimal_chunks,
    optimal_return,
    reach_batch,
    reach_recordings,
)
from rise_env.errors import ConfigError

ID = "RISE-Reach-v0"


def make(num_envs: int = 16, **kwargs: Any) -> Any:
    return gymnasium.make_vec(ID, num_envs=num_envs, **{"autoreset_mode": "disabled", **kwargs}).unwrapped


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_it_keeps_the_rules(mode: str) -> None:
    report = check_vector_env(gymnasium.make_vec(ID, num_envs=3, autoreset_mode=mode, observation_lags=[2]))
    assert report.passed == list(CHECKS)


@pytest.mark.parametrize("max_chunks", [1, 2])
def test_the_expert_reaches_the_optimum_and_nothing_more(max_chunks: int) -> None:
    envs = make(max_chunks=max_chunks)
    assert mean_return(envs, optimal_chunks, episodes=64) == pytest.approx(1.0, abs=5e-3)
    assert optimal_return(max_chunks) == pytest.approx(0.25 * max_chunks)
    observations, _ = envs.reset(seed=0)
    best, rng = optimal_chunks(observations), np.random.default_rng(0)
    others = best[:, None] + rng.normal(0, 0.2, (16, 64, 8, 1)) * rng.normal(0, 1, (16, 64, 1, 2))
    advantages = envs.evaluate_candidates(np.concatenate([best[:, None], others], axis=1)).advantage
    assert (advantages[:, :1] >= advantages[:, 1:] - 2e-3).all()
    # Beyond an angle of about 20 degrees less than 90 % are left.
    turned = {angle: mean_return(envs, lambda seen, a=angle: turn(optimal_chunks(seen), seen, a), 64)
              for angle in (15, 25)}  # fmt: skip
    assert turned[15] > 0.9 > turned[25]


def turn(chunks: np.ndarray, seen: dict[str, Any], degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    start = seen["state"][:, None]
    return (start + (chunks - start) @ matrix.T).astype(np.float32)


def test_success_takes_two_good_chunks() -> None:
    envs = make(64)
    observations, _ = envs.reset(seed=0)
    for count in (1, 2):
        observations, _, terminated, truncated, infos = envs.step(optimal_chunks(observations))
        assert (infos["is_success"] == (count == 2)).all()
    assert terminated.all()
    assert not truncated.any()
    observations, _ = envs.reset(seed=0)
    for _ in range(2):
        observations, _, terminated, truncated, _ = envs.step(turn(optimal_chunks(observations), observations, 60))
    assert truncated.all()
    assert not terminated.any()


def test_the_speed_is_limited_and_states_are_measured() -> None:
    envs = make()
    before, _ = envs.reset(seed=0)
    after, *_ = envs.step(np.full((16, 8, 2), 1.2, np.float32))
    moved = np.linalg.norm(after["state"] - before["state"], axis=1)
    np.testing.assert_allclose(moved, 8 * 0.045, atol=1e-5)


def test_recordings_and_batches_miss_by_the_angle() -> None:
    expert, other = (reach_recordings(64, offset=offset, spread=5.0) for offset in (0.0, 60.0))
    assert expert.outcomes is not None
    assert other.outcomes is not None
    assert expert.outcomes.all()
    assert not other.outcomes.any()
    assert set(expert.lengths) == {16}
    assert set(other.lengths) == {24}
    envs, rng = make(64, max_chunks=1), np.random.default_rng(0)
    seen, chunks = reach_batch(64, 0.0, 0.0, rng)
    assert {key: (value.shape[1:], value.dtype) for key, value in seen.items()} == {
        key: (space.shape, space.dtype) for key, space in envs.single_observation_space.items()
    }
    np.testing.assert_allclose(chunks, optimal_chunks(seen), atol=5e-3)
    np.testing.assert_array_equal(expert.frames([8])[0, 0], expert.frames(np.array([8]))[0, 0])
    first = expert.starts[:8]
    best = optimal_chunks({"image_top": expert.frames(first)[:, 0], "state": expert.state[first]})
    assert np.abs(best - np.stack([expert.action[start : start + 8] for start in first])).max() < 0.1


def test_more_chunks_than_are_solved_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_chunks is 3"):
        make(max_chunks=3)


def test_one_environment() -> None:
    env = gymnasium.make(ID)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    batch = {key: value[None] for key, value in observation.items()}
    assert env.step(optimal_chunks(batch)[0])[1] == pytest.approx(0.25, abs=2e-3)
    env.close()
