"""Speed of learning: what is counted adds up, and an agent that learns otherwise is refused."""

from __future__ import annotations

import argparse

import gymnasium
import pytest

import rise_env  # noqa: F401  (registers the environments)
from benchmarks.learning import add_arguments, measure, run
from rise_agents import make_agent
from rise_agents.policies.reach import reach_policy
from rise_env.errors import ConfigError


def test_chunks_and_updates_are_counted_from_the_first_update_on() -> None:
    envs = gymnasium.make_vec("RISE-Reach-v0", num_envs=8, autoreset_mode="disabled").unwrapped
    settings = {"scored_starts": 16, "advantage_threshold": 1.0, "min_advantage_gap": 0.0, "batch_size": 16}
    agent = make_agent("selective_rise", envs, reach_policy(updates=2), **settings)
    found = measure(agent, 100)  # type: ignore[arg-type]
    assert found["chunks"] == 128  # rounds of 8 states with 8 candidates
    assert 0 < found["updates"] == agent.learner.num_updates - found["updates_before"]  # type: ignore[attr-defined]
    assert agent.num_timesteps > found["chunks"]
    assert found["chunks_per_second"] == pytest.approx(found["chunks"] / found["seconds"])
    assert found["seconds_per_update"] * found["updates"] <= found["seconds"]


def test_other_agents_are_refused() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ConfigError, match="learns in another way"):
        run(parser.parse_args(["--agent", "dsrl"]))
