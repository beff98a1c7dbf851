"""AdvantageCodec: published bins, fitted thresholds, and nothing without a bin."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.policies.codec import AdvantageCodec
from rise_env.errors import ConfigError

UNSCALED = AdvantageCodec(scale=1.0)
DATA = np.random.default_rng(0).normal(0.01, 0.05, 2001)
CODECS = [
    AdvantageCodec(),
    AdvantageCodec(num_bins=5, scale=2.0),
    AdvantageCodec("binary", num_bins=2).fit(DATA),
    AdvantageCodec("percentile", num_bins=4).fit(DATA),
]


@given(st.floats(-1, 1).filter(lambda value: abs(value * 5 - round(value * 5)) > 1e-4))
def test_bins_are_the_published_ones_between_the_edges(advantage: float) -> None:
    published = np.digitize(advantage, np.linspace(-1, 1, 11)[:-1])  # from 1
    assert UNSCALED.encode(advantage) == published - 1


@pytest.mark.parametrize(
    ("advantage", "bin"),
    [(-1e9, 0), (-1.0, 0), (-0.8, 1), (-0.2, 4), (0.0, 5), (0.2, 6), (0.8, 9), (1.0, 9), (1e9, 9)],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_edge_belongs_to_the_bin_above_it_in_every_precision(advantage: float, bin: int, kind: type) -> None:
    assert UNSCALED.encode(kind(advantage)) == bin
    assert AdvantageCodec().encode(kind(advantage) / kind(5)) == bin


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.form}{codec.num_bins}")
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20))
def test_a_better_advantage_has_no_worse_bin(codec: AdvantageCodec, values: list[float]) -> None:
    bins = codec.encode(np.sort(np.array(values, np.float32)))
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() <= codec.best_bin
    assert bins.dtype == np.int64


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.form}{codec.num_bins}")
def test_every_bin_is_used(codec: AdvantageCodec) -> None:
    assert set(codec.encode(np.linspace(-1, 1, 4001)).tolist()) == set(range(codec.num_bins))
    assert codec.best_bin == codec.num_bins - 1
    assert codec.unconditional == codec.num_bins


def test_bins_have_the_shape_of_the_advantages() -> None:
    assert UNSCALED.encode(np.zeros((3, 4))).shape == (3, 4)
    assert UNSCALED.encode(0.5).shape == ()


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_binary_calls_the_wanted_part_of_the_data_positive(fraction: float) -> None:
    codec = AdvantageCodec("binary", num_bins=2, positive_fraction=fraction).fit(DATA)
    assert codec.encode(DATA).mean() == pytest.approx(fraction, abs=2 / len(DATA))


@pytest.mark.parametrize("count", [2, 4, 10])
def test_percentiles_share_the_data_equally(count: int) -> None:
    codec = AdvantageCodec("percentile", num_bins=count).fit(DATA)
    shares = np.bincount(codec.encode(DATA), minlength=count) / len(DATA)
    np.testing.assert_allclose(shares, 1 / count, atol=2 / len(DATA))


def test_bins_do_not_depend_on_data() -> None:
    assert AdvantageCodec().fit(DATA) == AdvantageCodec()
    assert AdvantageCodec(edges=(0.5,) * 9).edges == AdvantageCodec().edges


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.form}{codec.num_bins}")
def test_json_gives_the_codec_back(codec: AdvantageCodec) -> None:
    assert AdvantageCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "deciles"}, "form is 'deciles', expected one of"),
        ({"num_bins": 1}, "num_bins is 1"),
        ({"form": "binary"}, "'binary' has 2 bins, not 10"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"positive_fraction": 1.0}, "positive_fraction is 1.0"),
        ({"form": "percentile", "num_bins": 4, "edges": (0.0, 1.0)}, "2 edges for 4 bins"),
        ({"form": "percentile", "num_bins": 4, "edges": (0.0, 2.0, 1.0)}, "do not rise"),
    ],
)
def test_wrong_settings_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AdvantageCodec(**arguments)


@pytest.mark.parametrize("form", ["binary", "percentile"])
def test_bins_that_depend_on_data_want_data(form: str) -> None:
    codec = AdvantageCodec(form, num_bins=2)
    with pytest.raises(ConfigError, match="call fit"):
        codec.encode(0.0)
    for useless in ([], [0.0, np.nan]):
        with pytest.raises(ConfigError, match="cannot be fitted"):
            codec.fit(useless)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_bin(value: float) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        AdvantageCodec().encode([0.0, value])


def test_files_of_version_1_are_understood() -> None:
    old = {"form": "percentile", "levels": 3, "scale": 5.0, "positive_fraction": 0.3, "edges": [0.0, 0.5]}
    assert AdvantageCodec.from_dict(old) == AdvantageCodec("percentile", 3, edges=(0.0, 0.5))
