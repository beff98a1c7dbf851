"""One HTML file that shows what an improvement brought: numbers, films, curves, and how to do it again.

The page asks for nothing over the network (its content security policy forbids it) and runs no script. Its style is in
report.css.
"""

from __future__ import annotations

import base64
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rise_agents.evaluation.paired import PairedChange, paired_change
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.reporting.compositions import imagined_film, side_by_side, write_gif
from rise_agents.reporting.line_chart import STYLES, Curve, line_chart
from rise_env.errors import ConfigError
from rise_env.files import atomic_path, to_plain, write_text

__all__ = [
    "Curve",
    "Film",
    "PairedChange",
    "Row",
    "imagined_film",
    "one_sentence",
    "paired_change",
    "side_by_side",
    "write_gif",
    "write_report",
]

_EMBED_BYTES = 15_000_000
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
_PICTURES = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
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


@dataclass(frozen=True)
class Film:
    """A video with a caption.

    Attributes:
        caption: What there is to see; also what a person hears who does not see it.
        path: MP4 (H.264, as `filming.write_video` makes it) or WebM.
    """

    caption: str
    path: Path


def one_sentence(base: Row, improved: Row, minutes: float) -> str:
    """What happened, for the top of the report: "Success rose from 39 % to 71 % ... in 6.2 minutes of imagination".

    It says "rose" or "fell" only where the 95 % interval of the paired change leaves out zero.

    Args:
        base: Before.
        improved: After, on the same seeds.
        minutes: How long was imagined and trained. That no robot was used meanwhile is the caller's to know.

    Raises:
        ConfigError: If the seeds differ or `minutes` is no positive number.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"minutes is {minutes}, expected a positive number")
    change = paired_change(base.result, improved.result)
    verb = {1: "rose from", 0: "did not change measurably, from", -1: "fell from"}[change.direction]
    return (
        f"Success {verb} {_percent(base.result.success_rate)} to {_percent(improved.result.success_rate)} "
        f"({_signed(change.gain)} points, 95{_SPACE}% interval {_range(change.interval)}, {change.episodes} paired "
        f"episodes) in {_number(minutes)} minutes of imagination, with no robot time."
    )


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: str,
    rows: Sequence[Row],
    curves: Sequence[Curve] = (),
    films: Sequence[Film] = (),
    pictures: Sequence[tuple[str, Path]] = (),
    provenance: Mapping[str, Any],
    commands: Sequence[str],
    embed_bytes: int = _EMBED_BYTES,
) -> Path:
    """Write the report, in one step.

    Args:
        path: HTML file to make or replace.
        title: Heading.
        summary: One sentence that says what happened; see `one_sentence`.
        rows: Success table. The first row is what all others are compared with, on the same seeds; the second is what
            the report is about, and is shown large beside the first.
        curves: Learning curves, value curves.
        films: Videos.
        pictures: Caption and file (PNG, JPEG, WebP, GIF) of every picture.
        provenance: Where the numbers come from; see `rise_env.provenance`.
        commands: What to type to get them again.
        embed_bytes: Films and pictures go into the file if they are no larger than this together. Else they are copied
            into the folder `<name>_files` beside it, and both have to be kept together.

    Returns:
        The path.

    Raises:
        ConfigError: If something is empty or missing; nothing is written then.
    """
    path = Path(path)
    for name, text in (("title", title), ("summary", summary)):
        if not text.strip():
            raise ConfigError(f"the report's {name} is empty")
    if not rows:
        raise ConfigError("the report has no rows: give at least the evaluation of one policy")
    changes = [None, *(_change(rows[0], row) for row in rows[1:])]
    files = [_checked(film.path, film.caption, _VIDEOS) for film in films]
    files += [_checked(file, text, _PICTURES) for text, file in pictures]
    embed = sum(file.stat().st_size for file in files) <= embed_bytes
    sources = [_embedded(file) if embed else _beside(path, i, file) for i, file in enumerate(files, start=1)]
    sections = [
        _section("success", "Success", _table(rows, changes)),
        _section("films", "Films", _films(films, sources[: len(films)])),
        _section("pictures", "Pictures", _pictures(pictures, sources[len(films) :])),
        _section("curves", "Curves", _curves(curves)),
        _section("commands", "Run it again", _commands(commands)),
        _section("provenance", "Where this comes from", _provenance(provenance)),
    ]
    allowed = "data:" if embed else "data: file: 'self'"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src {allowed}; media-src {allowed}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{Path(__file__).with_suffix(".css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p class="summary">{escape(summary)}</p>
{_figures(rows, changes)}
</header>
{"".join(sections)}</main>
</body>
</html>
"""
    write_text(path, page)
    return path


# ---------------------------------------------------------------------- sections


def _section(identity: str, heading: str, content: str) -> str:
    """A section, or nothing where there is nothing to show."""
    if not content:
        return ""
    return f'<section aria-labelledby="{identity}">\n<h2 id="{identity}">{heading}</h2>\n{content}\n</section>\n'


def _figures(rows: Sequence[Row], changes: Sequence[PairedChange | None]) -> str:
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
            f"<span>{_verdict(change)}</span></dd></div>"
        )
    return f'<dl class="figures">{"".join(parts)}</dl>'


def _table(rows: Sequence[Row], changes: Sequence[PairedChange | None]) -> str:
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
    items = (f"<li>{escape(str(mode))} <b>{count}</b></li>" for mode, count in result.failure_modes.items())
    return f'<ul class="modes">{"".join(items)}</ul>'


def _films(films: Sequence[Film], sources: Sequence[str]) -> str:
    figures = [
        f'<figure><video controls loop muted playsinline preload="metadata" src="{source}" '
        f'aria-label="{escape(film.caption)}">This browser shows no videos.</video>'
        f"<figcaption>{escape(film.caption)}</figcaption></figure>"
        for film, source in zip(films, sources, strict=True)
    ]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _pictures(pictures: Sequence[tuple[str, Path]], sources: Sequence[str]) -> str:
    return "".join(
        f'<figure class="wide"><img src="{source}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for (text, _), source in zip(pictures, sources, strict=True)
    )


def _curves(curves: Sequence[Curve]) -> str:
    figures = []
    for curve in curves:
        names = "".join(
            f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><line class="line-{number % STYLES}" '
            f'x1="1" x2="27" y1="4" y2="4"/></svg>{escape(name)}</li>'
            for number, name in enumerate(curve.lines)
        )
        legend = f'<ul class="legend">{names}</ul>' if len(curve.lines) > 1 else ""
        figures.append(
            f'<figure class="chart"><figcaption>{escape(curve.title)}</figcaption>{legend}{line_chart(curve)}</figure>'
        )
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _commands(commands: Sequence[str]) -> str:
    return f'<pre tabindex="0"><code>{escape("\n".join(commands))}</code></pre>' if commands else ""


def _provenance(provenance: Mapping[str, Any]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
        for name, text in _flat(to_plain(provenance))
    )
    if not lines:
        return ""
    return (
        "<details><summary>Code, packages, hardware and settings</summary>"
        '<table class="provenance"><thead><tr><th scope="col">What</th><th scope="col">Value</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></details>"
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain values as lines of a table."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name} {key}".lstrip())
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _flat(item, f"{name} {number}")
    elif isinstance(value, list):
        yield name, " ".join(_said(item) for item in value) or "none"
    else:
        yield name, _said(value)


def _said(value: Any) -> str:
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------- numbers


def _change(first: Row, row: Row) -> PairedChange:
    try:
        return paired_change(first.result, row.result)
    except ConfigError as error:
        raise ConfigError(f"row {row.name!r} against {first.name!r}: {error}") from error


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
    return {1: "better", 0: "same", -1: "worse"}[change.direction]


def _verdict(change: PairedChange) -> str:
    return {1: "better", 0: "not told apart by these episodes", -1: "worse"}[change.direction]


# ---------------------------------------------------------------------- films and pictures


def _checked(file: str | Path, text: str, kinds: Mapping[str, str]) -> Path:
    file = Path(file)
    if not text.strip():
        raise ConfigError(f"{file.name} has no caption: say what there is to see")
    if file.suffix.lower() not in kinds:
        raise ConfigError(f"{text!r}: {file.name} is no {', '.join(kinds)} file")
    if not file.is_file():
        raise ConfigError(f"{text!r}: there is no file {file}; write it before the report")
    if file.stat().st_size == 0:
        raise ConfigError(f"{text!r}: the file {file} is empty; write it again")
    return file


def _embedded(file: Path) -> str:
    kind = (_VIDEOS | _PICTURES)[file.suffix.lower()]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _beside(report: Path, number: int, file: Path) -> str:
    """Copy a file into the report's folder; the link to it."""
    target = report.with_name(f"{report.stem}_files") / f"{number:02d}-{file.name}"
    if not (target.exists() and target.samefile(file)):
        with atomic_path(target) as aside:
            shutil.copyfile(file, aside)
    return quote(f"{target.parent.name}/{target.name}")
