"""One HTML file that shows what an improvement brought: numbers, films, curves, and how to do it again.

The page asks for nothing over the network (its content security policy forbids it) and runs no script. Its style is in
report.css.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rise_agents.reporting.line_chart import STYLES, Curve, line_chart
from rise_agents.reporting.media import Film, aid, checked_files, film_figures, placed
from rise_agents.reporting.success_table import Row, changes_of, headline, success_table
from rise_env.errors import ConfigError
from rise_env.files import to_plain, write_text

__all__ = ["chart_figures", "framed", "table", "write_page", "write_report"]

_EMBED_BYTES = 15_000_000


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: str,
    rows: Sequence[Row],
    curves: Sequence[Curve] = (),
    films: Sequence[Film] = (),
    provenance: Mapping[str, Any],
    commands: Sequence[str],
    embed_bytes: int = _EMBED_BYTES,
    about: Sequence[str] = (),
    tables: Sequence[tuple[str, str]] = (),
    links: Sequence[tuple[str, str]] = (),
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
        provenance: Where the numbers come from; see `rise_env.provenance`.
        commands: What to type to get them again.
        embed_bytes: Films go into the file if they are no larger than this together. Else they are copied into the
            folder `<name>_files` beside it, and both have to be kept together.
        about: Paragraphs for somebody who is handed this page alone: what it is about.
        tables: Further tables below that of success: headings and HTML.
        links: Where to read on: texts and addresses (https).

    Returns:
        The path.

    Raises:
        ConfigError: If something is empty or missing; nothing is written then.
    """
    for name, text in (("title", title), ("summary", summary)):
        if not text.strip():
            raise ConfigError(f"the report's {name} is empty")
    if not rows:
        raise ConfigError("the report has no rows: give at least the evaluation of one policy")
    changes = changes_of(rows)
    return write_page(
        Path(path), title, summary, headline(rows, changes),
        [("What this is", _paragraphs(about)), ("Success", success_table(rows, changes)), *tables],
        curves=curves, films=films, provenance=provenance, commands=commands,
        embed_bytes=embed_bytes, links=links,
    )  # fmt: skip


def write_page(
    path: Path,
    title: str,
    summary: str,
    numbers: str,
    tables: Sequence[tuple[str, str]],
    *,
    curves: Sequence[Curve] = (),
    films: Sequence[Film] = (),
    provenance: Mapping[str, Any],
    commands: Sequence[str],
    embed_bytes: int = _EMBED_BYTES,
    links: Sequence[tuple[str, str]] = (),
    films_below: Mapping[str, Sequence[Film]] = MappingProxyType({}),
) -> Path:
    """Write a page whose numbers (what is read first) and tables are HTML; all else is as in `write_report`.

    A table is a heading and what stands below it; those that are empty are left out. `films_below` are films that
    stand below the table of a heading, all others have a section of their own.
    """
    shown = [*films, *(film for heading, _ in tables for film in films_below.get(heading, ()))]
    files = checked_files(shown)
    embed = sum(file.stat().st_size for file in files) <= embed_bytes
    sources = iter(placed(path, files, embed))
    below = film_figures(films, list(itertools.islice(sources, len(films))))
    sections = [
        *(
            _section(_anchor(heading), heading, table + film_figures(some, list(itertools.islice(sources, len(some)))))
            for heading, table in tables
            for some in (films_below.get(heading, ()),)
        ),
        _section("films", "Films", below),
        _section("curves", "Curves", chart_figures(curves)),
        _section("commands", "Run it again", _commands(commands)),
        _section("links", "Read on", _links(links)),
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
{numbers}
</header>
{"".join(sections)}</main>
</body>
</html>
"""
    write_text(path, page)
    return path


def _anchor(heading: str) -> str:
    return "-".join(heading.lower().split())


def _section(name: str, heading: str, content: str) -> str:
    """A section, or nothing where there is nothing to show."""
    text = f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{content}\n</section>\n'
    return text if content else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """HTML table of plain cells; the first cell of a row names it, and the table scrolls where it is wide."""
    lines = [
        "".join([f'<th scope="row">{escape(str(first))}</th>', *(f"<td>{escape(str(cell))}</td>" for cell in rest)])
        for first, *rest in rows
    ]
    return framed(heads[0], heads, "".join(f"<tr>{line}</tr>" for line in lines)) if lines else ""


def framed(name: str, heads: Sequence[str], body: str) -> str:
    """HTML table with a name that is heard; `body` is HTML."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def chart_figures(curves: Sequence[Curve]) -> str:
    """HTML of charts."""
    figures = []
    for curve in curves:
        names = "".join(
            f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><line class="line-{number % STYLES}" '
            f'x1="1" x2="27" y1="4" y2="4"/></svg>{escape(name)}</li>'
            for number, name in enumerate(curve.lines)
        )
        legend = f'<ul class="legend">{names}</ul>' if len(curve.lines) > 1 else ""
        figures.append(
            f'<figure class="chart"><figcaption>{escape(curve.title)}</figcaption>{legend}{line_chart(curve)}'
            f"{aid(curve.reading)}</figure>"
        )
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _commands(commands: Sequence[str]) -> str:
    return f'<pre tabindex="0"><code>{escape("\n".join(commands))}</code></pre>' if commands else ""


def _paragraphs(texts: Sequence[str]) -> str:
    return "".join(f'<p class="about">{escape(text)}</p>' for text in texts)


def _links(links: Sequence[tuple[str, str]]) -> str:
    """Links that open elsewhere, and tell nothing of where they were followed from."""
    if wrong := [address for _, address in links if not address.startswith("https://")]:
        raise ConfigError(f"the report links to {wrong[0]!r}, expected an address that begins with https://")
    items = "".join(f'<li><a href="{escape(to)}" rel="noreferrer">{escape(text)}</a></li>' for text, to in links)
    return f"<ul>{items}</ul>" if items else ""


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
