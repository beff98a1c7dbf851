"""Rows of a comparison: seeds pooled, gains paired, and what the two gains say together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rise_agents.evaluation.comparison import CompareRow, RunResult, compare_rows
from rise_agents.evaluation.paired import Gain, mean_gain, paired_change, success_gain
from rise_agents.evaluation.results import Episode, EvaluationResult, summarise, wilson_interval
from rise_env.errors import ConfigError


def result(wins: list[int], first: int = 0) -> EvaluationResult:
    episodes = [
        Episode(first + i, bool(win), 10.0 * win, "none" if win else "missed", 1.0, 2) for i, win in enumerate(wins)
    ]
    return summarise(episodes, 1.0)


def run(wins: list[int], returns: list[float], seed: int = 0, **cost: float) -> RunResult:
    costs = {"imagined_chunks": 0.0, "recorded_chunks": 0.0, "real_steps": 0.0, "rounds": 0.0, "train_seconds": 0.0}
    return RunResult(seed, result(wins), np.array(returns), {**costs, **cost})


def rows(runs: dict[str, list[RunResult]], **against: str) -> dict[str, CompareRow]:
    compared = {name: against.get(name, "base") for name in runs}
    found = compare_rows("bricks", runs, compared, dict.fromkeys(runs, "a note"), "base")
    return {row.name: row for row in found}


def test_seeds_are_pooled_and_gains_are_paired() -> None:
    found = rows({
        "base": [run([1, 0, 0, 0], [0.1, 0.3])],
        "rise": [
            run([1, 1, 1, 0], [0.2, 0.5], 0, imagined_chunks=100.0, train_seconds=60.0),
            run([1, 1, 0, 0], [0.4, 0.5], 1, imagined_chunks=200.0, train_seconds=120.0),
        ],
        "nothing": [],
    })  # fmt: skip
    assert list(found) == ["base", "rise"]
    base, rise = found["base"], found["rise"]
    assert (base.gain, base.imagined_gain, base.verdict, base.seeds) == (None, None, "reference", ())
    assert (rise.success, rise.each, rise.seeds, rise.episodes) == (0.625, (0.75, 0.5), (0, 1), 8)
    assert rise.interval == wilson_interval(5, 8)
    assert rise.failures == {"missed": 3}
    assert rise.score == 6.25
    assert rise.cost["imagined_chunks"] == 150.0
    # Gains of 0, 100, 50 and 0 points by episode; 0.2 and 0.2 by state.
    assert rise.gain is not None
    assert rise.gain == pytest.approx((37.5, -9.41, 84.41), abs=0.01)
    assert rise.imagined_gain == pytest.approx((0.2, 0.2, 0.2))
    written = rise.to_dict()
    assert written["gain"] == {"mean": 37.5, "low": rise.gain.low, "high": rise.gain.high}


def test_one_seed_has_newcombes_interval() -> None:
    base, improved = result([1, 0, 0, 0, 1]), result([1, 1, 1, 0, 0])
    change = paired_change(base, improved)
    assert success_gain(base, [improved]) == (change.gain, *change.interval)
    with pytest.raises(ConfigError, match="same seeds"):
        success_gain(base, [result([1] * 5, first=7)])


def test_order_of_the_episodes_does_not_matter() -> None:
    shuffled = EvaluationResult(**{**vars(result([1, 1, 0])), "details": tuple(result([1, 1, 0]).details[::-1])})
    assert success_gain(result([0, 1, 0]), [result([1, 1, 0])] * 2) == success_gain(result([0, 1, 0]), [shuffled] * 2)
    assert mean_gain([1.0, 2.0], [[2.0, 4.0]]) == pytest.approx((1.5, 1.5 - 0.98, 1.5 + 0.98), abs=0.001)


@pytest.mark.parametrize(
    ("cell", "imagined", "verdict"),
    [
        (1, 1, "better"),
        (1, 0, "better, unseen by imagination"),
        (0, 1, "in imagination only"),
        (-1, 1, "better in imagination, worse in the cell"),
        (-1, 0, "worse"),
        (0, 0, "no difference"),
    ],
)
def test_a_gain_in_imagination_alone_is_told(cell: int, imagined: int, verdict: str) -> None:
    def gain(direction: int) -> Gain:
        return Gain(2.0 * direction, 2.0 * direction - 1, 2.0 * direction + 1)

    changes: dict[str, Any] = {"gain": gain(cell), "imagined_gain": gain(imagined)}
    row = rows({"base": [run([1, 0], [0.0, 0.0])], "rise": [run([1, 0], [0.0, 0.0])]})["rise"]
    assert CompareRow(**{**vars(row), **changes}).verdict == verdict


def test_other_rows_may_be_compared_with() -> None:
    noisy = [run([0, 0], [0.0, 0.0])]
    found = rows({"base": [run([1, 1], [1.0, 1.0])], "noisy": noisy, "best": [run([1, 0], [0.5, 0.5])]}, best="noisy")
    assert found["best"].against == "noisy"
    assert found["best"].gain is not None
    assert found["best"].gain.mean == 50.0
    alone = rows({"best": [run([1, 0], [0.5])]}, best="noisy")["best"]
    assert alone.gain is None
    with pytest.raises(ConfigError, match="different states"):
        rows({"base": noisy, "rise": [run([1, 0], [0.5])]})
