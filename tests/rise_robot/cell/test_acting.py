"""An actor asked step by step does what it does chunk by chunk in the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rise_env.acting import Actor
from rise_robot.cell.acting import ActorInCell, ScriptedActor, cell_observation
from rise_robot.cell.collect import episode_rng
from rise_robot.cell.config import load_cell
from rise_robot.cell.env import CellEnv


class Watcher:
    """Moves by what it sees now and saw before, and by its seed."""

    lags = (2, 6)

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        assert mask.tolist() == [True]
        self.seeds += seeds

    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        spec, _ = load_cell("brick_sorting", "tiny")
        pictures = [observations[key].mean() for key in ("image_head", "image_head_lag2", "image_left_wrist_lag6")]
        moved = 0.5 * observations["state"] + 0.3 * observations["state_lag2"] + 0.2 * observations["state_lag6"]
        ramp = np.linspace(0.0, 0.2, spec.chunk)[:, None] * np.sin(np.arange(14) + np.sum(pictures))
        return (moved[:, None] + ramp).astype(np.float32)


def test_it_sees_and_does_the_same_as_in_the_environment() -> None:
    env, actor = CellEnv(preset="tiny", observation_lags=[2, 6]), Watcher()
    assert isinstance(actor, Actor)
    observation, _ = env.reset(seed=4)
    key, expected = env.cell.episode_key, []
    for _ in range(3):
        chunk = actor.act({name: value[None] for name, value in observation.items()})[0]
        expected.append(chunk[: env.task.execute])
        observation, _, terminated, truncated, _ = env.step(chunk)
        assert not terminated
        assert not truncated
    acting = ActorInCell(env.cell, actor, seed=9)
    env.cell.reset(episode_rng(4))
    acting.reset()
    assert actor.seeds == [9 * 1_000_003 + key]
    for target in np.concatenate(expected):
        found = acting.target(lambda: cell_observation(env.cell, env._renderer))
        np.testing.assert_array_equal(found, target)
        env.cell.step(found)
    env.close()


@pytest.mark.parametrize("name", ["expert", "corrected"])
def test_scripted_policies_are_actors_that_look_at_nothing(new_cell, name: str) -> None:
    cell = new_cell(3)
    acting = ActorInCell(cell, ScriptedActor(cell.task.scripted(name, 1)))
    acting.reset()
    assert (acting.kind is not None) == (name == "corrected")
    policy = cell.task.scripted(name, 1)
    policy.reset()

    def look() -> dict[str, np.ndarray]:
        raise AssertionError("the ground truth is enough")

    for _ in range(12):
        target = acting.target(look)
        np.testing.assert_array_equal(target, policy.plan(1)[0])
        assert acting.intervening == policy.intervening
        cell.step(target)
