"""Dots with their intervals, row by row, as SVG text: several series of the same things side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from rise_agents.reporting.line_chart import STYLES, axis_ticks
from rise_agents.reporting.media import aid
from rise_env.errors import ConfigError

__all__ = ["IntervalChart", "interval_figure"]

_WIDTH, _RIGHT, _TOP, _BOTTOM = 560, 24, 12, 46
_LINE, _GAP, _LETTER = 14, 10, 6.6


@dataclass(frozen=True)
class IntervalChart:
    """One chart.

    Attributes:
        title: What it shows.
        label: What runs to the right, with its unit.
        rows: By name of the row and of the series: value, lower and upper limit.
        reading: How to read it, in a sentence or two; shown below the chart.

    Raises:
        ConfigError: If there is nothing to draw, or a number is not finite.
    """

    title: str
    label: str
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]]
    reading: str = ""

    def __post_init__(self) -> None:
        if not any(self.rows.values()):
            raise ConfigError(f"chart {self.title!r} has no rows; leave it out")
        for name, row in self.rows.items():
            for series, numbers in row.items():
                if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
                    raise ConfigError(
                        f"chart {self.title!r}: {name!r}, {series!r} is {numbers}, expected a value and two limits"
                    )


def interval_figure(chart: IntervalChart) -> str:
    """HTML of a chart with its title, legend and reading aid."""
    series = list(dict.fromkeys(name for row in chart.rows.values() for name in row))
    legend = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><line class="line-{number % STYLES} solid" x1="1" x2="27" '
        f'y1="4" y2="4"/><circle class="line-{number % STYLES}" cx="14" cy="4" r="3.5"/></svg>{escape(name)}</li>'
        for number, name in enumerate(series)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption><ul class="legend">{legend}</ul>'
        f"{_svg(chart, series)}{aid(chart.reading)}</figure>"
    )


def _svg(chart: IntervalChart, series: list[str]) -> str:
    numbers = [number for row in chart.rows.values() for values in row.values() for number in values]
    low, high, ticks = axis_ticks(min(numbers), max(numbers))
    left = 12 + _LETTER * max(len(name) for name in chart.rows)
    block = _LINE * len(series) + _GAP
    foot = _TOP + block * len(chart.rows)

    def right(x: float) -> float:
        return left + (x - low) / (high - low) * (_WIDTH - left - _RIGHT)

    parts = []
    for x, text in ticks:
        parts.append(f'<line class="rule" x1="{right(x):.1f}" x2="{right(x):.1f}" y1="{_TOP}" y2="{foot}"/>')
        parts.append(f'<text x="{right(x):.1f}" y="{foot + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    parts.append(
        f'<text class="label" x="{_WIDTH - _RIGHT}" y="{foot + 38}" text-anchor="end">{escape(chart.label)}</text>'
    )
    for place, (name, row) in enumerate(chart.rows.items()):
        top = _TOP + place * block
        middle = top + block / 2 + 4
        parts.append(f'<text x="{left - 8:.1f}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for number, one in enumerate(series):
            if one not in row:
                continue
            value, lower, upper = row[one]
            y, style = top + _GAP / 2 + _LINE * (number + 0.5), f"line-{number % STYLES}"
            said = f"{name}, {one}: {value:.4g} ({lower:.4g} to {upper:.4g})"
            parts.append(
                f'<g><title>{escape(said)}</title><line class="{style} solid" x1="{right(lower):.1f}" '
                f'x2="{right(upper):.1f}" y1="{y}" y2="{y}"/>'
                f'<circle class="{style}" cx="{right(value):.1f}" cy="{y}" r="4"/></g>'
            )
    words = "; ".join(
        f"{name}: {', '.join(f'{one} {values[0]:.3g}' for one, values in row.items())}"
        for name, row in chart.rows.items()
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {foot + _BOTTOM}" role="img" aria-label="{escape(f"{chart.title}. {words}.")}">'
        f"{''.join(parts)}</svg>"
    )
