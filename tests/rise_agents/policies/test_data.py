"""Recorded chunks as policies are trained on them."""

from __future__ import annotations

import numpy as np
import pytest

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.data import StartChunks, advantage_bins_of
from rise_env.errors import ConfigError
from rise_env.testing import counting_spec, counting_starts


def test_demonstrations_are_best_and_the_rest_is_as_measured() -> None:
    advantages, forced = np.array([-0.3, 0.0, 0.3, -0.3]), np.array([False, False, False, True])
    bins, codec = advantage_bins_of(advantages, forced, AdvantageCodec(scale=2.0))
    assert bins.tolist() == [2, 5, 8, 9]
    assert codec == AdvantageCodec(scale=2.0)


def test_a_codec_that_needs_data_is_fitted_to_what_was_scored() -> None:
    advantages = np.concatenate([np.linspace(-1, 1, 100), np.full(900, 50.0)])
    forced = np.arange(1000) >= 100
    bins, codec = advantage_bins_of(advantages, forced, AdvantageCodec("binary", 2, positive_fraction=0.3))
    assert codec.edges[0] == pytest.approx(0.4, abs=0.02)  # the demonstrations do not move the threshold
    assert bins[:100].sum() == 30
    assert bins[100:].all()


def test_start_states_know_what_was_done_there_and_what_was_seen_before() -> None:
    spec, starts = counting_spec(), counting_starts(count=24)
    bins = np.arange(len(starts))
    data = StartChunks(starts, spec, [2, 6], bins, split="train")
    assert len(data) == int((starts.split == "train").sum()) < len(starts)
    found = data.batch(np.array([3, 1]))
    rows = starts.rows("train")[[3, 1]]
    assert found.advantage_bins.tolist() == rows.tolist()
    np.testing.assert_array_equal(found.chunks, starts.actions[rows])  # type: ignore[index]
    counters = {lag: found.observations[f"image_head{suffix}"][:, 0, 0, 0].int() for lag, suffix in
                ((0, ""), (2, "_lag2"), (6, "_lag6"))}  # fmt: skip
    assert (counters[0] - counters[2]).tolist() == [2, 2]
    assert (counters[0] - counters[6]).tolist() == [6, 6]
    starts.actions = None
    with pytest.raises(ConfigError, match="recordings"):
        StartChunks(starts, spec, [2], bins)
