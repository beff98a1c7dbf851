"""Dots with intervals: where they lie, what is heard of them, and what is no chart."""

from __future__ import annotations

import re

import pytest

from rise_agents.reporting.interval_chart import IntervalChart, interval_figure
from rise_env.errors import ConfigError

ROWS = {"expert": {"imagined": (0.9, 0.8, 1.0), "true": (1.0, 1.0, 1.0)}, "a<b": {"true": (0.0, 0.0, 0.5)}}


def test_every_number_has_its_place() -> None:
    page = interval_figure(IntervalChart("Both worlds", "progress", ROWS, "Read it so."))
    dots = [float(x) for x in re.findall(r'<circle class="line-\d" cx="([\d.]+)" cy="[\d.]+" r="4"/>', page)]
    assert len(dots) == 3
    assert dots[2] < dots[0] < dots[1]
    assert dots[1] == 536.0  # 1 is where the axis ends
    ends = re.findall(r'solid" x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+"/><circle', page)
    assert float(ends[-1][1]) == pytest.approx((dots[2] + dots[1]) / 2, abs=0.1)
    assert "a&lt;b, true: 0 (0 to 0.5)" in page
    assert "Both worlds. expert: imagined 0.9, true 1; a&lt;b: true 0." in page
    assert "Read it so." in page


def test_what_is_no_chart() -> None:
    with pytest.raises(ConfigError, match="no rows"):
        IntervalChart("Empty", "", {})
    with pytest.raises(ConfigError, match="expected a value and two limits"):
        IntervalChart("Odd", "", {"a": {"true": (0.0, float("-inf"), 1.0)}})
