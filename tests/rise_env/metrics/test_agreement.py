"""Agreement metrics against scipy-free references and edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_env.metrics import area_under_roc, outcome_recognition, rank_correlation, within_group_correlation
from rise_env.metrics.agreement import bootstrap, kendall


def test_rank_correlation_with_ties_by_hand() -> None:
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    assert rank_correlation([1, 1, 2, 3], [10, 20, 30, 40]) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=20, unique=True))
def test_rank_correlation_sees_order_alone(values: list[int]) -> None:
    array = np.array(values, float)
    assert rank_correlation(array, array**3) == pytest.approx(1.0)
    assert rank_correlation(array, -array) == pytest.approx(-1.0)


def test_rank_correlation_without_variation_is_undefined() -> None:
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(rank_correlation([1], [2]))


def test_within_group_ignores_differences_between_groups() -> None:
    group = np.repeat([0, 1], 3)
    truth = np.array([1, 2, 3, 101, 102, 103.0])
    reversed_inside = np.array([3, 2, 1, 103, 102, 101.0])
    assert rank_correlation(reversed_inside, truth) > 0.5
    assert within_group_correlation(reversed_inside, truth, group) == (pytest.approx(-1.0), 2)


def test_groups_without_a_true_order_do_not_count_but_blind_imagination_does() -> None:
    group = np.repeat([0, 1, 2], 3)
    truth = np.array([1, 2, 3, 5, 5, 5, 1, 2, 3.0])
    imagined = np.array([1, 2, 3, 1, 2, 3, 7, 7, 7.0])
    assert within_group_correlation(imagined, truth, group) == (pytest.approx(0.5), 2)


def test_a_bootstrap_draws_whole_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    alike = np.repeat(rng.normal(size=30), 4)
    found = bootstrap(lambda rows: float(alike[rows].mean()), group)
    assert (found.mean, found.groups) == (pytest.approx(alike.mean()), 30)
    # As wide as thirty numbers make it; taken for 120 numbers it would be half of that.
    assert found.high - found.low == pytest.approx(2 * 1.96 * alike.std() / np.sqrt(30), rel=0.2)
    assert bootstrap(lambda rows: float(alike[rows].mean()), group) == found
    assert np.isinf(bootstrap(lambda rows: 1.0, np.zeros(5)).high)
    assert np.isinf(bootstrap(lambda rows: float("nan"), group).low)


def test_kendall() -> None:
    assert kendall(np.array([1, 2, 3]), np.array([3, 2, 1])) == -1.0
    assert kendall(np.array([1, 2, 2]), np.array([1, 2, 3])) == pytest.approx(2 / np.sqrt(2 * 3))
    assert np.isnan(kendall(np.array([1, 1]), np.array([1, 2])))


def test_area_under_roc() -> None:
    assert area_under_roc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.75)
    assert area_under_roc([1, 1, 1, 1], [False, True, False, True]) == pytest.approx(0.5)
    assert np.isnan(area_under_roc([1, 2], [True, True]))


def test_outcomes_are_recognised_by_what_moves() -> None:
    start = np.full((1, 8, 8, 3), 50, np.uint8)
    true = np.repeat(start[:, None], 4, axis=1)
    for chunk in range(4):
        true[0, chunk, 2 * chunk] = 200
    assert outcome_recognition(true, true, start) == 1.0
    shifted = np.roll(true, 1, axis=1)
    assert outcome_recognition(shifted, true, start) == 0.0
    brighter_background = np.where(true == 50, 90, true).astype(np.uint8)
    assert outcome_recognition(brighter_background, true, start) == 1.0
