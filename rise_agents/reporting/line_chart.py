"""Line charts as SVG text: no plotting library, and colours that follow the page (see report.css)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rise_env.errors import ConfigError

__all__ = ["STYLES", "Curve", "axis_ticks", "line_chart"]

_WIDTH, _HEIGHT = 560, 280
_RIGHT, _TOP, _BOTTOM = 24, 28, 44
_LEAST_LEFT, _LETTER = 58, 7  # the digits of the vertical axis need so much each
_MARKED = 40  # lines of more points have no dots: they would touch
#: Line styles of the style sheet, `line-0` to `line-5`: further lines begin again.
STYLES = 6


@dataclass(frozen=True)
class Curve:
    """One chart.

    Attributes:
        title: What it shows.
        x_label: What runs to the right, with its unit.
        y_label: What runs up, with its unit.
        lines: Points (x, y) of every line, by name.
        reading: How to read it, in a sentence or two; shown below the chart.

    Raises:
        ConfigError: If there is nothing to draw, or a number is not finite.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    reading: str = ""

    def __post_init__(self) -> None:
        if not self.lines:
            raise ConfigError(f"curve {self.title!r} has no lines; leave it out")
        for name, points in self.lines.items():
            if len(points) == 0:
                raise ConfigError(f"curve {self.title!r}: line {name!r} has no points; leave it out")
            for point in points:
                if len(point) != 2 or not all(math.isfinite(number) for number in point):
                    raise ConfigError(f"curve {self.title!r}: line {name!r} has the point {point}, expected (x, y)")


def line_chart(curve: Curve) -> str:
    """An `<svg>` that fills its container's width; colours and dashes come from the classes `line-0`, `line-1`, ..."""
    x_low, x_high = _span([x for points in curve.lines.values() for x, _ in points])
    heights = [y for points in curve.lines.values() for _, y in points]
    # Whole steps upwards, so that no line runs along the frame between two labels.
    y_low, y_high, labels = axis_ticks(min(heights), max(heights))
    left = max(_LEAST_LEFT, 12 + _LETTER * max(len(text) for _, text in labels))

    def right(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (_WIDTH - left - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for y, text in labels:
        parts.append(f'<line class="rule" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{text}</text>')
    foot = _HEIGHT - _BOTTOM
    for x, text in _ticks(x_low, x_high, _step(x_high - x_low)):
        parts.append(f'<line class="tick" x1="{right(x):.1f}" x2="{right(x):.1f}" y1="{foot}" y2="{foot + 5}"/>')
        parts.append(f'<text x="{right(x):.1f}" y="{foot + 18}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    parts.append(f'<text class="label" x="0" y="14">{escape(curve.y_label)}</text>')
    parts.append(
        f'<text class="label" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{escape(curve.x_label)}</text>'
    )
    for number, (name, points) in enumerate(curve.lines.items()):
        style = f"line-{number % STYLES}"
        path = " ".join(f"{right(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="{style}" points="{path}"/>')
        for x, y in points if len(points) <= _MARKED else points[-1:]:
            said = f"{name}: {x:.6g}, {y:.6g}"
            parts.append(
                f'<circle class="{style}" cx="{right(x):.1f}" cy="{up(y):.1f}" r="3">'
                f"<title>{escape(said)}</title></circle>"
            )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_in_words(curve))}">'
        f"{''.join(parts)}</svg>"
    )


def axis_ticks(low: float, high: float) -> tuple[float, float, list[tuple[float, str]]]:
    """Limits in whole steps around two numbers, and the places with their labels between them.

    Example:
        >>> axis_ticks(0.1, 0.9)[:2]
        (0.0, 1.0)
    """
    low, high = _span([low, high])
    step = _step(high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high, _ticks(low, high, step)


def _in_words(curve: Curve) -> str:
    """What a person hears who does not see the chart."""
    lines = [
        f"{name}: {len(points)} points, from {points[0][1]:.4g} at {points[0][0]:.4g} "
        f"to {points[-1][1]:.4g} at {points[-1][0]:.4g}"
        for name, points in curve.lines.items()
    ]
    return f"{curve.title}. {curve.y_label} over {curve.x_label}. {'; '.join(lines)}."


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Least and largest value, or some room around them where they are the same."""
    low, high = float(min(values)), float(max(values))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 10 or 0.5
        return low - room, high + room
    return low, high


def _step(length: float) -> float:
    """Distance of labels, 1, 2 or 5 times a power of ten, so that three to seven fit."""
    power = 10.0 ** math.floor(math.log10(length / 5))
    return next((factor * power for factor in (1, 2, 5) if factor * power * 5 >= length), 10 * power)


def _ticks(low: float, high: float, step: float) -> list[tuple[float, str]]:
    """Multiples of `step` from low to high, and what is written there."""
    digits = max(0, -math.floor(math.log10(step)))
    ticks = []
    # A little room: a limit that is a multiple of the step must not be lost to rounding.
    for multiple in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        value = multiple * step
        plain = digits <= 6 and abs(value) < 1e7
        text = f"{value:,.{digits}f}".replace(",", "\u202f") if plain else f"{value:.4g}"
        ticks.append((value, text.replace("-", "\u2212")))
    return ticks
