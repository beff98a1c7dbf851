"""The mixer: ratios, and which samples are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from rise_agents.algorithms.mixing import ConstantRatio, PacedRatio, Selector, split_batch
from rise_env.errors import ConfigError


def test_the_paced_ratio_falls_with_the_statistic() -> None:
    pace = PacedRatio(most=0.3, kappa=2.0, power=2.0)
    assert pace(0.0) == pytest.approx(0.3)
    assert pace(1.0) == pytest.approx(0.1)
    assert pace(3.0) == pytest.approx(0.3 / 19)
    assert pace(-1.0) == pytest.approx(0.3)
    assert ConstantRatio(0.6)(123.0) == 0.6


def test_a_batch_is_split_sample_by_sample_as_before_there_was_a_mixer() -> None:
    """What RISE draws must stay what it was, to the bit."""
    mine, theirs = np.random.default_rng([0, 3, 1]), np.random.default_rng([0, 3, 1])
    selector = Selector(500)
    for _ in range(5):
        count = split_batch(128, ConstantRatio(0.6)(), mine)
        assert count == int((theirs.random(128) < 0.6).sum())
        np.testing.assert_array_equal(selector.draw(count, mine), theirs.integers(500, size=count))
    assert split_batch(10, 1.0, mine) == 10
    assert split_batch(10, 0.0, mine) == 0


def test_masks_and_weights_decide_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    mask = np.array([False, True, False, True, True])
    assert set(Selector(5, mask=mask).draw(200, rng).tolist()) == {1, 3, 4}
    weights = np.array([0.0, 3.0, 7.0, 1.0, 0.0])
    found = np.bincount(Selector(5, mask=mask, weights=weights).draw(4000, rng), minlength=5) / 4000
    np.testing.assert_allclose(found, [0, 0.75, 0, 0.25, 0], atol=0.03)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ConstantRatio(1.5), "ratio"),
        (lambda: PacedRatio(most=2.0), "most"),
        (lambda: PacedRatio(kappa=-1.0), "kappa"),
        (lambda: PacedRatio(power=0.0), "power"),
        (lambda: Selector(3, mask=np.zeros(3, bool)), "no sample"),
        (lambda: Selector(3, weights=np.zeros(3)), "weight above 0"),
        (lambda: Selector(3, weights=np.array([1.0, -1.0, 1.0])), "at least 0"),
        (lambda: Selector(3, mask=np.ones(2, bool)), "shape"),
    ],
)
def test_nonsense_is_refused(make: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()  # type: ignore[operator]
