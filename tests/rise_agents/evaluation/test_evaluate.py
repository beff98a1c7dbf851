"""Evaluation: paired seeds, intervals, and the outcome of real episodes in the cell."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rise_env  # noqa: F401  (registers the environments)
from rise_agents.cli.main import main
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.results import Episode, summarise, wilson_interval
from rise_agents.policies.resolve import resolve_actor
from rise_agents.policies.scripted import RandomPolicy
from rise_env.errors import ConfigError

ENV = "RISE-BrickSorting-Cell-v0"
TINY = {"preset": "tiny", "num_workers": 0}


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (200, 200, 0.9812, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval_has_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_episodes_do_not_depend_on_the_number_of_environments() -> None:
    alone = evaluate(ENV, resolve_actor("operator"), 5, 30, num_envs=1, env_kwargs=TINY)
    together = evaluate(ENV, resolve_actor("operator"), 5, 30, num_envs=3, env_kwargs=TINY)
    assert alone.details == together.details
    assert [episode.seed for episode in alone.details] == [30, 31, 32, 33, 34]


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ("RISE-Reach-v0", {}, "tells no score, failure_mode, seconds, as an imagination cannot.*-Cell-v0"),
        ("RISE-BrickSortin-Cell-v0", {}, "RISE-BrickSortin-Cell-v0"),
        ("nowhere:RISE-Reach-v0", {}, "nowhere"),
        ("CartPole-v1", {}, "'CartPole-v1' (cannot be made|tells no)"),
        ("RISE-Reach-v0", {"presett": "tiny"}, "presett"),
    ],
)
def test_environments_that_tell_no_success_are_one_clear_error(env: str, kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(env, resolve_actor("random"), 1, env_kwargs=kwargs, num_envs=1)


def test_expert_succeeds_and_random_fails() -> None:
    expert = evaluate(ENV, resolve_actor("expert"), 4, 0, num_envs=4, env_kwargs=TINY)
    assert expert.success_rate == 1.0
    assert expert.score_mean == 10.0
    assert expert.failure_modes == {}
    random = evaluate(ENV, resolve_actor("random"), 2, 0, num_envs=2, env_kwargs=TINY)
    assert random.success_rate == 0.0
    assert sum(random.failure_modes.values()) == 2


def test_every_finished_episode_is_reported_once() -> None:
    seen: list[int] = []
    evaluate(
        ENV,
        resolve_actor("expert"),
        5,
        7,
        num_envs=2,
        env_kwargs=TINY,
        on_episode=lambda episode: seen.append(episode.seed),
    )
    assert sorted(seen) == [7, 8, 9, 10, 11]


def test_unknown_policies_and_no_episodes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown policy 'exprt'.*expert.*corrected"):
        evaluate(ENV, resolve_actor("exprt"), 1, env_kwargs=TINY)
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(ENV, resolve_actor("expert"), 0)


def test_random_policy_depends_on_the_seed_alone() -> None:
    policy = RandomPolicy(gymnasium.spaces.Box(-1, 1, (4, 2)))
    policy.reset([5, 6], np.array([True, True]))
    first = policy.act({})
    policy.reset([6, 9], np.array([True, False]))
    assert np.array_equal(policy.act({})[0], first[1])
    assert first.dtype == np.float32
    policy.reset([6], np.array([True]))  # in another number of environments
    assert np.array_equal(policy.act({}), first[1:])


def test_summary_counts_failures_by_mode() -> None:
    episodes = [Episode(1, False, 2.0, "miss", 8.0, 9), Episode(0, True, 10.0, "none", 2.0, 2)]
    result = summarise(episodes, 3.0)
    assert (result.success_rate, result.score_mean, result.episode_seconds) == (0.5, 6.0, 5.0)
    assert result.failure_modes == {"miss": 1}
    assert [episode.seed for episode in result.details] == [0, 1]


def test_command_writes_json_and_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    arguments = ["--policy", "expert", "--episodes", "2", "--preset", "tiny", "--num-envs", "1", "--json", str(out)]
    assert main(["evaluate", *arguments, "--videos", str(tmp_path / "videos"), "--num-videos", "1"]) == 0
    content = json.loads(out.read_text())
    assert content["success_rate"] == 1.0
    assert set(content) >= {"success_interval", "score_mean", "episodes", "failure_modes", "seconds", "provenance"}
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["episode-0-success.mp4"]
    assert "100.0%" in capsys.readouterr().out
