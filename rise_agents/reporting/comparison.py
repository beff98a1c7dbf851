"""A comparison for people: its table in HTML and in Markdown, and the section of a documentation page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rise_agents.evaluation.comparison import CompareRow
from rise_agents.evaluation.paired import Gain
from rise_env.errors import ConfigError
from rise_env.files import write_text

__all__ = ["comparison_numbers", "comparison_summary", "comparison_table", "docs_section", "markdown_table",
           "not_run_table", "replace_section"]  # fmt: skip

_MINUS = "\u2212"
_HEADS = (
    "agent", "success (95\u00a0% interval)", "gain in success, points", "gain in imagination", "what that says",
    "score (0 to 10)", "failures", "imagined chunks", "real control steps", "minutes of training",
)  # fmt: skip


def best_row(rows: Sequence[CompareRow]) -> CompareRow | None:
    """The row with the highest success of those that are compared with something."""
    return max((row for row in rows if row.gain is not None), key=lambda row: row.success, default=None)


def comparison_summary(rows: Sequence[CompareRow]) -> str:
    """One sentence on who is ahead, for the top of the report."""
    best = best_row(rows)
    if best is None or best.gain is None:
        return f"{len(rows)} rows, nothing to compare yet."
    better = sum(row.gain is not None and row.gain.direction > 0 for row in rows)
    alone = sum(row.verdict.startswith(("in imagination only", "better in imagination")) for row in rows)
    several = len({row.task for row in rows}) > 1
    return (
        f"{better} of {sum(row.gain is not None for row in rows)} rows improve the policy they are compared with in "
        f"the cell; {best.name}{f' ({best.task})' if several else ''} is ahead with {best.success:.1%} success "
        f"({_signed(best.gain.mean)} points, 95\u00a0% interval {_range(best.gain)}). {alone} gain in imagination and "
        "not in the cell."
    )


def comparison_numbers(rows: Sequence[CompareRow]) -> str:
    """HTML of the numbers that are read first: the base, the best, and the change."""
    best = best_row(rows)
    if best is None or best.gain is None:
        return ""
    base = next((row for row in rows if (row.task, row.name) == (best.task, best.against)), None)
    parts = [
        f'<div class="figure{place}"><dt>{escape(row.name)}</dt><dd><b>{row.success:.1%}</b>{_bar(row)}'
        f"<span>{round(row.success * row.episodes)} of {row.episodes} episodes succeeded</span></dd></div>"
        for row, place in ((base, ""), (best, " after"))
        if row is not None
    ]
    parts.append(
        f'<div class="figure {_class(best.gain)}"><dt>change</dt><dd><b>{_signed(best.gain.mean)}</b>'
        f"<span>points; 95\u00a0% interval {_range(best.gain)}</span></dd></div>"
    )
    return f'<dl class="figures">{"".join(parts)}</dl>'


def comparison_table(rows: Sequence[CompareRow]) -> str:
    """HTML table of all rows."""
    lines = []
    for row in rows:
        note = f'<span class="note">{escape(row.note)}</span>' if row.note else ""
        each = ", ".join(f"{one:.1%}" for one in row.each)
        seeds = f"{len(row.seeds)} training seeds: {each}" if len(row.seeds) > 1 else ""
        modes = "".join(f"<li>{escape(mode)} <b>{count}</b></li>" for mode, count in row.failures.items())
        cells = [
            f'<strong>{row.success:.1%}</strong>{_bar(row)}<span class="note">{_interval(row)}</span>'
            f'<span class="note">{row.episodes} episodes</span><span class="note">{seeds}</span>',
            _gain_cell(row.gain, 1, row),
            _gain_cell(row.imagined_gain, 3, row)
            + f'<span class="note">return {_signed(row.imagined, 3)}</span><strong class="{_verdict_class(row)}">'
            f"{row.verdict}</strong>",
            f"{row.score:.2f}",
            f'<ul class="modes">{modes}</ul>' if modes else '<span class="note">none</span>',
            f'{_chunks(row)}<span class="note">{_minutes(row)} minutes</span>',
            f"{row.cost['real_steps']:,.0f}",
        ]
        lines.append(f'<tr><th scope="row">{escape(row.name)}{note}</th>'
                     f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")  # fmt: skip
    heads = [text for text in _HEADS if text not in ("what that says", "minutes of training")]  # in the cells beside
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        '<div class="scroll" tabindex="0" role="region"><table class="success"><caption>'
        "Bars: success rate with its 95\u00a0% Wilson interval. Gains are paired: the same episodes, and in "
        "imagination the same recorded states of held-out episodes under the same noise; grey where the 95\u00a0% "
        "interval holds zero. Chunks, steps and minutes are means over the training seeds; minutes are those of one "
        f"process beside others.</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def not_run_table(not_run: Mapping[str, str]) -> str:
    """HTML table of what could not be run, and why."""
    lines = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(why)}</td></tr>'
                    for name, why in not_run.items())  # fmt: skip
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>' if lines else ""


def markdown_table(rows: Sequence[CompareRow]) -> str:
    """Markdown table of all rows."""
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + " --- |" * len(_HEADS)]
    for row in rows:
        each = f" ({', '.join(f'{one:.1%}' for one in row.each)})" if len(row.each) > 1 else ""
        cells = [
            row.name,
            f"{row.success:.1%} ({_interval(row)}){each}",
            "" if row.gain is None else f"{_signed(row.gain.mean)} ({_range(row.gain)})",
            ""
            if row.imagined_gain is None
            else f"{_signed(row.imagined_gain.mean, 3)} ({_range(row.imagined_gain, 3)})",
            row.verdict,
            f"{row.score:.2f}",
            ", ".join(f"{mode} {count}" for mode, count in row.failures.items()) or "none",
            _chunks(row),
            f"{row.cost['real_steps']:,.0f}",
            _minutes(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace(_MINUS, "-").replace("\u00a0", " ") + "\n"


def docs_section(content: Mapping[str, Any], rows: Sequence[CompareRow]) -> str:
    """Markdown of a comparison: what was run, tables by task, notes, and where it comes from."""
    source, config = content["provenance"], content["config"]
    git, machine = source["git"] or {"revision": "unknown", "modified": False}, source["hardware"]
    first = config["first_episode"]
    parts = [
        f"{config['episodes']} episodes per run (seeds {first} to {first + config['episodes'] - 1}), training seeds "
        f"{', '.join(map(str, config['seeds']))}, {config['chunks']:,} imagined chunks per run (or "
        f"{config['real_steps']:,} control steps in the cell) where the table does not say otherwise. "
        f"{content['minutes']:.0f} minutes in all on {machine['cpu_count']} cores "
        f"({machine['cpu']}), revision {git['revision'][:7]}{' with changes' if git['modified'] else ''}.",
    ]
    tasks = list(dict.fromkeys(row.task for row in rows))
    for task in tasks:
        parts += [f"**{task}**"] if len(tasks) > 1 else []
        parts.append(markdown_table([row for row in rows if row.task == task]).rstrip())
    if notes := {row.name: row.note for row in rows if row.note}:
        parts.append("\n".join(f"* `{name}`: {note}" for name, note in notes.items()))
    if not_run := {**config["not_run"], **content["failed"]}:
        parts.append("Not run:\n\n" + "\n".join(f"* `{name}`: {why}" for name, why in not_run.items()))
    parts.append(f"```bash\n{content['command']}\n```")
    return "\n\n".join(parts)


def replace_section(page: Path, name: str, text: str) -> None:
    """Put text between the lines `<!-- comparison NAME -->` and `<!-- end of comparison NAME -->` of a page.

    Raises:
        ConfigError: If the page has no such lines, or they stand more than once or in another order.
    """
    begin, end = f"<!-- comparison {name} -->", f"<!-- end of comparison {name} -->"
    content = page.read_text(encoding="utf-8")
    found = re.findall(f"{re.escape(begin)}\n.*?{re.escape(end)}", content, re.DOTALL)
    if len(found) != 1 or content.count(begin) != 1 or content.count(end) != 1:
        raise ConfigError(f"{page} must hold the lines {begin} and {end} once, in this order")
    write_text(page, content.replace(found[0], f"{begin}\n\n{text}\n\n{end}"))


def _gain_cell(gain: Gain | None, decimals: int, row: CompareRow) -> str:
    if gain is None:
        return '<span class="note">reference</span>'
    against = f'<span class="note">against {escape(row.against or "")}</span>'
    return (
        f'<strong class="{_class(gain)}">{_signed(gain.mean, decimals)}</strong>'
        f'<span class="note">{_range(gain, decimals)}</span>{against if decimals == 1 else ""}'
    )


def _verdict_class(row: CompareRow) -> str:
    if row.gain is None or row.imagined_gain is None:
        return "note"
    only = row.imagined_gain.direction > 0 and row.gain.direction <= 0
    return "worse" if only else _class(row.gain)


def _bar(row: CompareRow) -> str:
    low, high = row.interval
    places = f"--rate:{100 * row.success:.2f}%;--low:{100 * low:.2f}%;--high:{100 * high:.2f}%"
    return f'<span class="bar" role="img" aria-label="{row.success:.1%}" style="{places}"><i></i></span>'


def _chunks(row: CompareRow) -> str:
    if recorded := row.cost["recorded_chunks"]:
        return f"0 ({recorded:,.0f} recorded)"
    return f"{row.cost['imagined_chunks']:,.0f}"


def _minutes(row: CompareRow) -> str:
    return f"{row.cost['train_seconds'] / 60:.1f}" if row.cost["train_seconds"] else "-"


def _interval(row: CompareRow) -> str:
    return f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}\u00a0%"


def _range(gain: Gain, decimals: int = 1) -> str:
    return f"{_signed(gain.low, decimals)} to {_signed(gain.high, decimals)}"


def _signed(value: float, decimals: int = 1) -> str:
    return f"{value:+.{decimals}f}".replace("-", _MINUS)


def _class(gain: Gain) -> str:
    return {1: "better", 0: "same", -1: "worse"}[gain.direction]
