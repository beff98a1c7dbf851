"""Returns, targets and advantages of RECAP against numbers worked out by hand or by another formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from rise_env.errors import ConfigError
from rise_env.value.returns import bin_targets, episode_returns, n_step_advantages, return_scales


def test_a_step_costs_one_and_failure_a_fixed_cost_at_the_end() -> None:
    lengths, success = np.array([3, 2]), np.array([True, False])
    scales = return_scales(lengths, ["a", "a"], failure_cost=5)
    assert scales == {"a": 3 - 1 + 5}
    found = episode_returns(lengths, success, 5, np.array([7.0, 7.0]))
    np.testing.assert_allclose(found, [-2 / 7, -1 / 7, 0, -6 / 7, -5 / 7], rtol=1e-6)


def test_the_longest_failure_begins_at_minus_one_whatever_its_task() -> None:
    lengths, tasks = np.array([40, 11, 200, 31]), ["short", "short", "long", "long"]
    scales = return_scales(lengths, tasks, failure_cost=50)
    assert scales == {"long": 249.0, "short": 89.0}
    by_episode = np.array([scales[task] for task in tasks])
    found = episode_returns(lengths, np.array([False, True, False, True]), 50, by_episode)
    assert found[0] == -1
    assert found[40] == np.float32(-10 / 89)
    assert found[51] == -1
    assert found.min() >= -1
    assert found.max() == 0


def test_a_percentile_spares_the_value_from_one_long_episode() -> None:
    lengths = np.array([10, 20, 30, 40, 110])
    scales = return_scales(lengths, ["a"] * 5, failure_cost=50, percentile=75)
    assert scales == {"a": 40 - 1 + 50}
    found = episode_returns(lengths, np.array([True] * 4 + [False]), 50, np.full(5, 89.0))
    assert (found[100:171] == -1).all()  # of the long one, cut off: 109 + 50 down to 39 + 50
    assert found[171] == np.float32(-88 / 89)


def test_one_hot_targets_are_the_nearest_bin() -> None:
    found = bin_targets(torch.tensor([0.0, -1.0, -0.5, -0.0026, -0.0024]), 201, "one_hot")
    assert found.argmax(-1).tolist() == [200, 0, 100, 199, 200]
    assert (found.sum(-1) == 1).all()


def test_hl_gauss_integrates_a_normal_distribution_over_every_bin() -> None:
    returns, width = np.array([-0.5, -0.3371, -0.001, 0.0, -1.0]), 1 / 200
    found = bin_targets(torch.from_numpy(returns), 201, "hl_gauss").numpy()
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    edges = np.linspace(-1 - width / 2, width / 2, 202)
    sigma = 0.75 * width
    for row, mean in zip(found, returns, strict=True):
        low, high = (edges[0] - mean) / sigma, (edges[-1] - mean) / sigma
        np.testing.assert_allclose(row, np.diff(truncnorm.cdf(edges, low, high, mean, sigma)), atol=5e-6)
    centers = np.linspace(-1, 0, 201)
    np.testing.assert_allclose((found @ centers)[:2], returns[:2], atol=1e-6)
    assert found[0, 100] == pytest.approx(0.4950, abs=1e-4)  # P(|z| < 0.5 / 0.75)


def test_the_outcome_itself_is_certain() -> None:
    returns = torch.tensor([0.0, 0.0])
    found = bin_targets(returns, 201, "hl_gauss", torch.tensor([True, False]))
    assert found[0, 200] == 1
    assert 0.5 < found[1, 200] < 1


def test_targets_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave"):
        bin_targets(torch.tensor([0.1]), 201, "one_hot")
    with pytest.raises(ConfigError, match="two_hot"):
        bin_targets(torch.tensor([0.0]), 201, "two_hot")


def test_n_step_advantages_by_hand() -> None:
    lengths, scales = np.array([4, 3]), np.array([10.0, 10.0])
    values = np.array([-0.4, -0.35, -0.2, -0.1, -0.9, -0.6, -0.5])
    returns = episode_returns(lengths, np.array([True, False]), 6, scales)  # -.3 -.2 -.1 0, -.8 -.7 -.6
    ended = np.array([True, True])
    one = n_step_advantages(values, returns, lengths, ended, scales, 1)
    np.testing.assert_allclose(
        one,
        [
            -0.1 - 0.35 + 0.4, -0.1 - 0.2 + 0.35, -0.1 + 0.2, 0 + 0.1,  # the third reaches the outcome
            -0.1 - 0.6 + 0.9, -0.7 + 0.6, -0.6 + 0.5,
        ],
        atol=1e-6,
    )  # fmt: skip
    two = n_step_advantages(values, returns, lengths, ended, scales, 2)
    np.testing.assert_allclose(two[0], -0.2 - 0.2 + 0.4, atol=1e-6)
    for steps in (0, 50):  # the episode ends before
        found = n_step_advantages(values, returns, lengths, ended, scales, steps)
        np.testing.assert_allclose(found, returns - values, atol=1e-6)


def test_an_episode_that_was_cut_off_has_no_outcome() -> None:
    lengths, scales = np.array([3]), np.array([10.0])
    values = np.array([-0.9, -0.7, -0.4])
    returns = episode_returns(lengths, np.array([False]), 6, scales)
    found = n_step_advantages(values, returns, lengths, np.array([False]), scales, 0)
    np.testing.assert_allclose(found, [-0.2 - 0.4 + 0.9, -0.1 - 0.4 + 0.7, 0], atol=1e-6)


def test_the_advantage_of_a_perfect_value_is_zero() -> None:
    lengths, success = np.array([12, 30, 7]), np.array([True, False, True])
    scales = np.full(3, return_scales(lengths, ["a"] * 3, 50)["a"])
    returns = episode_returns(lengths, success, 50, scales)
    for steps in (0, 1, 5, 50):
        found = n_step_advantages(returns, returns, lengths, np.ones(3, bool), scales, steps)
        np.testing.assert_allclose(found, 0, atol=1e-6)
