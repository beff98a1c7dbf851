"""Charts are well-formed, to scale, and refuse what cannot be drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.reporting.line_chart import STYLES, Curve, line_chart
from rise_env.errors import ConfigError


def drawn(lines: dict[str, Sequence[tuple[float, float]]], **texts: str) -> ElementTree.Element:
    labels = {"title": "t", "x_label": "x", "y_label": "y", **texts}
    return ElementTree.fromstring(line_chart(Curve(**labels, lines=lines)))


def places(chart: ElementTree.Element, number: int = 0) -> list[tuple[float, float]]:
    path = chart.findall("polyline")[number].get("points", "")
    return [(float(x), float(y)) for x, y in (point.split(",") for point in path.split())]


def labels(chart: ElementTree.Element, anchor: str) -> dict[float, float]:
    """Number -> place of the labels below (anchor middle) or on the left (anchor end) of the chart."""
    return {
        float((text.text or "").replace("\u2212", "-").replace("\u202f", "")): float(
            text.get("x" if anchor == "middle" else "y", "nan")
        )
        for text in chart.iter("text")
        if text.get("text-anchor") == anchor and text.get("class") is None
    }


def test_points_lie_where_the_labels_say() -> None:
    chart = drawn({"a": [(0, -1.0), (500, 0.25), (1000, 2.0)]})
    x_labels, y_labels = labels(chart, "middle"), labels(chart, "end")
    (x0, y0), (x1, y1), (x2, y2) = places(chart)
    assert x_labels[0] == pytest.approx(x0, abs=0.1)
    assert x_labels[1000] == pytest.approx(x2, abs=0.1)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    below_text = y_labels[-1] - y0
    assert y_labels[2] - y2 == pytest.approx(below_text, abs=0.1)
    assert y1 == pytest.approx(y0 + (y2 - y0) * 1.25 / 3, abs=0.1)
    assert y2 < y0


def test_lines_share_one_scale() -> None:
    chart = drawn({"low": [(0, 0.0), (1, 1.0)], "high": [(0, 1.0), (2, 10.0)]})
    assert places(chart, 0)[1][1] == pytest.approx(places(chart, 1)[0][1])
    assert places(chart, 0)[1][0] < places(chart, 1)[1][0]


numbers = st.floats(-1e6, 1e6).map(lambda number: round(number, 6))


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_everything_is_inside_the_picture(points: list[tuple[float, float]]) -> None:
    chart = drawn({"line": points})
    _, _, width, height = (float(number) for number in chart.get("viewBox", "").split())
    assert len(places(chart)) == len(points)
    for x, y in places(chart):
        assert 0 <= x <= width
        assert 0 <= y <= height
    for anchor in ("middle", "end"):
        assert 2 <= len(labels(chart, anchor)) <= 8


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-7, 12345.0])
def test_a_constant_line_is_drawn_in_the_middle(value: float) -> None:
    chart = drawn({"a": [(0, value), (1, value)]})
    values = labels(chart, "end")
    assert min(values) < value < max(values)
    assert min(values.values()) < places(chart)[0][1] < max(values.values())


def test_long_labels_fit() -> None:
    chart = drawn({"a": [(0, 1.00001), (1, 1.00003)]})
    texts = [text for text in chart.iter("text") if text.get("text-anchor") == "end" and text.get("class") is None]
    longest = max(texts, key=lambda text: len(text.text or ""))
    assert len(longest.text or "") >= 8
    assert float(longest.get("x", "nan")) >= 6 * len(longest.text or "")
    assert min(x for x, _ in places(chart)) > float(longest.get("x", "nan"))


def test_a_single_point_can_be_seen() -> None:
    chart = drawn({"a": [(3, 4)]})
    (dot,) = chart.findall("circle")
    assert (float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))) == places(chart)[0]
    assert dot.findtext("title") == "a: 3, 4"


def test_long_lines_have_one_dot_at_the_end() -> None:
    chart = drawn({"a": [(x, x * x) for x in range(500)]})
    (dot,) = chart.findall("circle")
    assert float(dot.get("cx", "nan")) == places(chart)[-1][0]


def test_styles_begin_again() -> None:
    chart = drawn({f"line {n}": [(0, n), (1, n)] for n in range(STYLES + 1)})
    styles = [line.get("class") for line in chart.findall("polyline")]
    assert len(set(styles)) == STYLES
    assert styles[0] == styles[-1]


def test_strange_texts_stay_texts() -> None:
    strange = "<b>\"&' </text>"
    chart = drawn({strange: [(0, 1), (1, 2)]}, title=strange, x_label=strange, y_label=strange)
    assert chart.find(".//b") is None
    assert [text.text for text in chart.findall("text[@class='label']")] == [strange, strange]
    assert strange in chart.get("aria-label", "")
    assert "2 points, from 1 at 0 to 2 at 1" in chart.get("aria-label", "")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({}, "has no lines"),
        ({"a": []}, "line 'a' has no points"),
        ({"a": [(0, 1), (1, float("nan"))]}, r"line 'a' has the point \(1, nan\)"),
        ({"a": [(float("inf"), 1)]}, r"the point \(inf, 1\)"),
        ({"a": [(0, 1, 2)]}, r"expected \(x, y\)"),
    ],
)
def test_what_cannot_be_drawn(lines: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"curve 'loss'.*{message}"):
        Curve("loss", "updates", "loss", lines)
