"""Success rates in a report: the large numbers, the table, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rise_agents.evaluation.paired import PairedChange, paired_change
from rise_agents.evaluation.results import EvaluationResult
from rise_env.errors import ConfigError

__all__ = ["Row", "changes_of", "headline", "one_sentence", "success_table"]

_SPACE, _MINUS = "\u00a0", "\u2212"


@dataclass(frozen=True)
class Row:
    """One line of the success table.

    Attributes:
        name: What was evaluated: "base", "RISE", "control: offline only", ...
        result: How it did.
        note: A few words on what it is.

    Raises:
        ConfigError: If there are no episodes, or a number is not finite.
    """

    name: str
    result: EvaluationResult
    note: str = ""

    def __post_init__(self) -> None:
        result = self.result
        if result.episodes < 1 or len(result.details) != result.episodes:
            raise ConfigError(
                f"row {self.name!r} has {result.episodes} episodes and the details of {len(result.details)}, expected "
                "at least one, and the details of every one"
            )
        for name in ("success_rate", "success_interval", "score_mean", "episode_seconds"):
            value = getattr(result, name)
            if not all(math.isfinite(number) for number in (value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"row {self.name!r}: {name} is {value}, expected finite numbers")


def one_sentence(base: Row, improved: Row, minutes: float, of: str = "imagination") -> str:
    """What happened, for the top of the report: "Success rose from 39 % to 71 % ... in 6.2 minutes of imagination".

    It says "rose" or "fell" only where the 95 % interval of the paired change leaves out zero. `minutes` is how long
    was imagined (or what else they were minutes `of`) and trained; that no robot was used meanwhile is the caller's to
    know.

    Raises:
        ConfigError: If the seeds differ or `minutes` is no positive number.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"minutes is {minutes}, expected a positive number")
    change = paired_change(base.result, improved.result)
    further = "" if of == "imagination" else "further "
    verb = {1: "rose from", 0: "did not change measurably, from", -1: "fell from"}[change.direction]
    return (
        f"Success {verb} {_percent(base.result.success_rate)} to {_percent(improved.result.success_rate)} "
        f"({_signed(change.gain)} points, 95{_SPACE}% interval {_range(change.interval)}, {change.episodes} paired "
        f"episodes) in {_number(minutes)} minutes of {of}, with no {further}robot time."
    )


def headline(rows: Sequence[Row], changes: Sequence[PairedChange | None]) -> str:
    """The numbers that are read first: before, after, and the change between them."""
    parts = []
    for number, row in enumerate(rows[:2]):
        wins = sum(episode.success for episode in row.result.details)
        parts.append(
            f'<div class="figure{" after" if number else ""}"><dt>{escape(row.name)}</dt>'
            f"<dd><b>{_percent(row.result.success_rate)}</b>{_bar(row.result)}"
            f"<span>{wins} of {row.result.episodes} episodes succeeded</span></dd></div>"
        )
    if change := next((change for change in changes[1:2] if change), None):
        parts.append(
            f'<div class="figure {_class(change)}"><dt>change</dt><dd><b>{_signed(change.gain)}</b>'
            f"<span>points; 95{_SPACE}% interval {_range(change.interval)}</span>"
            f"<span>{_class(change) if change.direction else 'not told apart by these episodes'}</span></dd></div>"
        )
    return f'<dl class="figures">{"".join(parts)}</dl>'


def success_table(rows: Sequence[Row], changes: Sequence[PairedChange | None]) -> str:
    """HTML table of all rows."""
    paired = len(rows) > 1
    heads = ["Policy", f"Success (95{_SPACE}% interval)"]
    heads += [f"Change against {escape(rows[0].name)}"] if paired else []
    heads += ["Score (0 to 10)", "Seconds per episode", "Failures"]
    lines = []
    for row, change in zip(rows, changes, strict=True):
        result = row.result
        note = f'<span class="note">{escape(row.note)}</span>' if row.note else ""
        cells = [
            f"<strong>{_percent(result.success_rate)}</strong>{_bar(result)}"
            f'<span class="note">{_interval(result)}</span><span class="note">{result.episodes} episodes</span>'
        ]
        cells += [_change_cell(change)] if paired else []
        cells += [f"{result.score_mean:.2f}", f"{result.episode_seconds:.1f}", _failures(result)]
        lines.append(
            f'<tr><th scope="row">{escape(row.name)}{note}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )
    explained = f"Bars: success rate with its 95{_SPACE}% Wilson interval."
    if paired:
        explained += (
            " Changes: percentage points between the same episodes (paired seeds), with Newcombe's "
            f"95{_SPACE}% interval for paired differences and the exact McNemar p{_SPACE}value; grey where that "
            "interval holds zero."
        )
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    # A wide table scrolls inside its frame; a frame that scrolls must be reachable by keyboard and have a name.
    return (
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="success"><table class="success">'
        f"<caption>{explained}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _bar(result: EvaluationResult) -> str:
    low, high = result.success_interval
    places = f"--rate:{100 * result.success_rate:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%"
    said = f"{_percent(result.success_rate)}, 95{_SPACE}% interval {_interval(result)}"
    return f'<span class="bar" role="img" aria-label="{said}" style="{places}"><i></i></span>'


def _change_cell(change: PairedChange | None) -> str:
    if change is None:
        return '<span class="note">reference</span>'
    p_value = "p &lt; 0.001" if change.p_value < 0.001 else f"p = {change.p_value:.3f}"
    return (
        f'<strong class="{_class(change)}">{_signed(change.gain)}</strong>'
        f'<span class="note">{_range(change.interval)}; {p_value}</span>'
        f'<span class="note">gained {change.gained}, lost {change.lost}</span>'
        f'<span class="note">both {change.both}, neither {change.neither}</span>'
    )


def _failures(result: EvaluationResult) -> str:
    if not result.failure_modes:
        return '<span class="note">none</span>'
    items = (f"<li>{escape(mode)} <b>{count}</b></li>" for mode, count in result.failure_modes.items())
    return f'<ul class="modes">{"".join(items)}</ul>'


def changes_of(rows: Sequence[Row]) -> list[PairedChange | None]:
    """Change of every row against the first one, which has none.

    Raises:
        ConfigError: If a row has other seeds.
    """
    changes: list[PairedChange | None] = [None]
    for row in rows[1:]:
        try:
            changes.append(paired_change(rows[0].result, row.result))
        except ConfigError as error:
            raise ConfigError(f"row {row.name!r} against {rows[0].name!r}: {error}") from error
    return changes


def _number(value: float) -> str:
    """With one decimal where it is not zero."""
    return f"{value:.1f}".removesuffix(".0").replace("-", _MINUS)


def _percent(rate: float) -> str:
    return f"{_number(100 * rate)}{_SPACE}%"


def _signed(points: float, decimals: int | None = None) -> str:
    text = _number(points) if decimals is None else f"{points:.{decimals}f}".replace("-", _MINUS)
    if not text.strip(f"0.{_MINUS}"):
        return text.removeprefix(_MINUS)  # nothing has no sign
    return f"+{text}" if points > 0 else text


def _interval(result: EvaluationResult) -> str:
    low, high = result.success_interval
    return f"{100 * low:.1f} to {100 * high:.1f}{_SPACE}%"


def _range(interval: tuple[float, float]) -> str:
    """Limits of a change; always with a decimal, as those of one table stand below each other."""
    return f"{_signed(interval[0], 1)} to {_signed(interval[1], 1)}"


def _class(change: PairedChange) -> str:
    return ("same", "better", "worse")[change.direction]
