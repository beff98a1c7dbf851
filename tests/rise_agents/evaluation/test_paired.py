"""Paired changes agree with published examples and with what pairing means."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.evaluation.paired import paired_change
from rise_agents.evaluation.results import Episode, EvaluationResult, summarise
from rise_env.errors import ConfigError


def result(outcomes: list[bool], first_seed: int = 0) -> EvaluationResult:
    episodes = [
        Episode(first_seed + i, success, 10.0 * success, "none" if success else "timeout", 5.0, 3)
        for i, success in enumerate(outcomes)
    ]
    return summarise(episodes, 1.0)


def pair(both: int, gained: int, lost: int, neither: int) -> tuple[EvaluationResult, EvaluationResult]:
    base = [True] * both + [False] * gained + [True] * lost + [False] * neither
    improved = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return result(base), result(improved)


@pytest.mark.parametrize(
    ("table", "interval"),
    [
        # Altman et al., Statistics with Confidence (2nd ed., 2000), table 6.2
        ((14, 5, 0, 22), (1.1, 22.6)),
        # Fagerland et al., Statistics in Medicine 33 (2014): airway hyper-responsiveness
        ((1, 1, 7, 12), (-50.7, -2.6)),
    ],
)
def test_interval_of_published_examples(table: tuple[int, int, int, int], interval: tuple[float, float]) -> None:
    assert paired_change(*pair(*table)).interval == pytest.approx(interval, abs=0.05)


def test_p_value_of_a_published_example() -> None:
    # Armitage and Berry (1994), p. 127: two media for tubercle bacilli; exact two-sided p = 0.0129
    assert paired_change(*pair(20, 12, 2, 16)).p_value == pytest.approx(0.0129, abs=5e-5)


def test_episodes_are_paired_by_seed_not_by_place() -> None:
    base, improved = pair(3, 5, 2, 4)
    shuffled = dataclasses.replace(improved, details=improved.details[::-1])
    change = paired_change(base, shuffled)
    assert (change.both, change.gained, change.lost, change.neither) == (3, 5, 2, 4)
    assert change.gain == pytest.approx(100 * 3 / 14)
    assert change == paired_change(base, improved)


counts = st.integers(0, 40)


@given(counts, counts, counts, counts)
def test_the_other_way_round_is_the_negative(both: int, gained: int, lost: int, neither: int) -> None:
    if both + gained + lost + neither == 0:
        return
    base, improved = pair(both, gained, lost, neither)
    there, back = paired_change(base, improved), paired_change(improved, base)
    assert there.gain == -back.gain
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.p_value == back.p_value
    assert there.direction == -back.direction
    low, high = there.interval
    assert -100 <= low <= there.gain + 1e-9
    assert there.gain - 1e-9 <= high <= 100
    assert 0 < there.p_value <= 1


def test_agreement_narrows_the_interval() -> None:
    def width(*table: int) -> float:
        low, high = paired_change(*pair(*table)).interval
        return high - low

    # Equal rates (50 and 60 of 100); what differs is whether the same episodes succeed.
    assert width(50, 10, 0, 40) < 0.75 * width(30, 30, 20, 20)


@pytest.mark.parametrize(("table", "direction"), [((30, 30, 5, 35), 1), ((30, 5, 30, 35), -1), ((30, 9, 8, 53), 0)])
def test_direction_is_zero_while_the_interval_holds_zero(table: tuple[int, int, int, int], direction: int) -> None:
    change = paired_change(*pair(*table))
    assert change.direction == direction
    assert (change.interval[0] <= 0 <= change.interval[1]) == (direction == 0)


def test_a_thousand_discordant_pairs_do_not_overflow() -> None:
    change = paired_change(*pair(0, 1400, 600, 0))
    assert 0 < change.p_value < 1e-60
    assert math.isfinite(change.interval[0])


def test_other_seeds_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"same seeds.*3 are only in the base's 5, 3 only in the improved one's 5"):
        paired_change(result([True] * 5), result([True] * 5, first_seed=3))


def test_a_seed_twice_is_an_error() -> None:
    base, improved = pair(1, 1, 1, 1)
    twice = dataclasses.replace(improved, details=(*improved.details[:3], improved.details[0]))
    with pytest.raises(ConfigError, match="4 episodes but 3 seeds"):
        paired_change(base, twice)


def test_no_episodes_are_an_error() -> None:
    base, improved = pair(1, 1, 1, 1)
    with pytest.raises(ConfigError, match="base evaluation has no episodes"):
        paired_change(dataclasses.replace(base, details=()), improved)
