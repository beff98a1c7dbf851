"""A value model that ranks nothing, or the wrong way round, is told from one that does."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.value.evaluation import ranking_of, ranking_problem

LENGTHS = np.array([5, 4, 6, 5, 4, 6])
OUTCOMES = [True, False, True, False, True, False]


def values(rising: float, won_ends: float, lost_ends: float) -> np.ndarray:
    """Values that move by `rising` over an episode, and where episodes end."""
    return np.concatenate([
        (won_ends if won else lost_ends) - rising * np.linspace(1, 0, length)
        for length, won in zip(LENGTHS, OUTCOMES, strict=True)
    ])  # fmt: skip


def test_values_that_rise_and_tell_outcomes_apart_are_fine() -> None:
    assert ranking_problem(values(0.8, 0.9, 0.4), LENGTHS, OUTCOMES) is None
    assert ranking_problem(values(0.8, 0.9, 0.4), LENGTHS, [None] * 6) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (values(-0.8, 0.9, 0.4), "rank correlation with time is -1.00"),
        (values(0.0, 0.5, 0.5), "it does not vary"),
        (values(0.8, 0.4, 0.9), "in 0% of the pairs"),
    ],
)
def test_others_are_named_with_numbers_and_what_helps(found: np.ndarray, words: str) -> None:
    problem = ranking_problem(found, LENGTHS, OUTCOMES)
    assert problem is not None
    assert words in problem
    assert "What helps" in problem


def test_outcomes_that_are_unknown_are_not_compared() -> None:
    problem = ranking_problem(values(-0.8, 0.9, 0.4), LENGTHS, [None] * 6)
    assert problem is not None
    assert "within episodes" in problem
    assert "pairs" not in problem


def test_few_outcomes_are_no_problem_of_the_value() -> None:
    few = [True, False, True, None, None, None]
    assert ranking_of(values(0.8, 0.4, 0.9), LENGTHS, OUTCOMES).separation == 0
    assert ranking_of(values(0.8, 0.4, 0.9), LENGTHS, few).separation == 0
    assert ranking_problem(values(0.8, 0.4, 0.9), LENGTHS, few) is None
