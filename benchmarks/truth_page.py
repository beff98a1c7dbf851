"""The truth report as a page, made of what its JSON holds, and of films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.truth_ladder import said
from rise_agents.reporting.interval_chart import IntervalChart, interval_figure
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import chart_figures, framed, table, write_page

__all__ = ["write_truth_page"]

_SPACE = "\N{NO-BREAK SPACE}"
_CLASSES = {True: "better", False: "worse", None: "same"}
_LINKS = (
    (
        "The evaluation ladder for world models whose headings these are (arXiv 2606.15032)",
        "https://arxiv.org/abs/2606.15032",
    ),
    ("RISE: policies that improve in imagination (arXiv 2602.11075)", "https://arxiv.org/abs/2602.11075"),
)


def write_truth_page(
    path: Path,
    result: Mapping[str, Any],
    films: Mapping[str, Sequence[Film]],
    provenance: Mapping[str, Any],
    commands: Sequence[str],
) -> Path:
    """Write the page, in one step.

    Args:
        path: HTML file to make or replace.
        result: What the benchmark gives: `ladder`, `about`, `policies`.
        films: By the key of a heading.
        provenance: Where this comes from.
        commands: What to type to get it again.
    """
    ladder = result["ladder"]
    good = [one["title"].lower() for one in ladder if one["good"] is True]
    bad = [one["title"].lower() for one in ladder if one["good"] is False]
    open_ = [one["title"].lower() for one in ladder if one["good"] is None]
    parts = [
        f"{name}: {', '.join(which)}"
        for name, which in (("holds", good), ("does not hold", bad), ("not shown", open_))
        if which
    ]
    summary = f"How far this imagination can be believed, {len(ladder)} questions. {'; '.join(parts).capitalize()}."
    if not result.get("unseen", True):
        summary += " The world model may have been trained on these recordings: then all of this looks too good."
    return write_page(
        path,
        f"The truth about an imagination: {result['task'].replace('_', ' ')}",
        summary,
        _numbers(ladder),
        [
            ("What this is", "".join(f'<p class="about">{escape(text)}</p>' for text in result["about"])),
            ("Seven questions", _overview(ladder)),
            *((one["title"], _heading(one, result)) for one in ladder),
        ],
        films_below={one["title"]: films.get(one["key"], ()) for one in ladder},
        provenance=provenance,
        commands=commands,
        links=_LINKS,
    )


def _numbers(ladder: Sequence[Mapping[str, Any]]) -> str:
    """The first figure of every heading that has one, at most four: what is read first."""
    first = [(one, one["figures"][0]) for one in ladder if one["figures"]]
    order = (
        "policy_ranking",
        "exploitability",
        "reward_and_value_prediction",
        "counterfactual_action_fidelity",
        "closed_loop_validity",
        "uncertainty_calibration",
    )
    chosen = sorted((pair for pair in first if pair[0]["key"] in order), key=lambda pair: order.index(pair[0]["key"]))[
        :4
    ]
    parts = [
        f'<div class="figure {_CLASSES[one["good"]]}"><dt>{escape(one["title"])}</dt>'
        f"<dd><b>{escape(_value(figure))}</b>"
        f"<span>{escape(figure['name'])}; {escape(_limits(figure))}</span></dd></div>"
        for one, figure in chosen
    ]
    return f'<dl class="figures">{"".join(parts)}</dl>'


def _overview(ladder: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="#{"-".join(one["title"].lower().split())}">{escape(one["title"])}</a></th>'
        f"<td>{escape(one['question'])}</td>"
        f'<td><strong class="{_CLASSES[one["good"]]}">{escape(one["answer"])}</strong></td></tr>'
        for one in ladder
    )
    return framed("Seven questions", ["Heading", "Question", "Answer"], rows)


def _heading(one: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    parts = [
        f'<p class="question">{escape(one["question"])}</p>',
        f'<p class="verdict"><strong class="{_CLASSES[one["good"]]}">{escape(_capital(one["answer"]))}.</strong> '
        f"{escape(one['verdict'])}</p>",
    ]
    if one["figures"]:
        heads = ["Figure", "Value", "95 % interval", "What it means"]
        rows = [(figure["name"], _value(figure), _limits(figure), figure["note"]) for figure in one["figures"]]
        parts.append(table(heads, rows))
    if one["key"] == "policy_ranking" and result.get("policies"):
        parts.append(_policies(result["policies"]))
    parts.append(_charts(one["charts"]))
    parts += [f'<p class="about">{escape(note)}</p>' for note in one["notes"]]
    if one["figures"]:
        parts.append(f'<p class="about"><strong>How to read it.</strong> {escape(one["reading"])}</p>')
        parts.append(f'<p class="about"><strong>What it cannot say.</strong> {escape(one["cannot_say"])}</p>')
    return "".join(parts)


def _policies(policies: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in sorted(policies, key=lambda row: -row["true"]["end"]["mean"]):
        cells = [
            text
            for world in ("imagined", "true")
            for text in (
                _mean(one[world]["end"]),
                f"{one[world]['success_rate']:.0%} ({one[world]['success_interval'][0]:.0%}{_SPACE}to{_SPACE}"
                f"{one[world]['success_interval'][1]:.0%})",
            )
        ]
        rows.append((one["policy"], one["about"], *cells))
    heads = [
        "Policy",
        "What it does",
        "Imagined value at the end",
        "Imagined success",
        "True progress at the end",
        "True success",
    ]
    return table(heads, rows)


def _charts(charts: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for one in charts:
        if one["kind"] == "intervals":
            rows = {
                name: {series: (numbers[0], numbers[1], numbers[2]) for series, numbers in row.items()}
                for name, row in one["rows"].items()
            }
            figures.append(interval_figure(IntervalChart(one["title"], one["label"], rows, one["reading"])))
        elif one["lines"]:
            curve = Curve(one["title"], one["x_label"], one["y_label"], one["lines"], one["reading"])
            figures.append(chart_figures([curve]).removeprefix('<div class="grid">').removesuffix("</div>"))
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _value(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not measured"
    unit = f"{_SPACE}{figure['unit']}" if figure["unit"] else ""
    return f"{said(figure['value'], figure['digits'])}{unit}"


def _limits(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return ""
    if figure["low"] is None or figure["high"] is None:
        return f"no interval ({figure['groups']} {figure['of']})"
    low, high = (said(figure[name], figure["digits"]) for name in ("low", "high"))
    return f"{low}{_SPACE}to{_SPACE}{high} ({figure['groups']}{_SPACE}{figure['of']})"


def _mean(found: Mapping[str, float]) -> str:
    return f"{said(found['mean'])} ({said(found['low'])}{_SPACE}to{_SPACE}{said(found['high'])})"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
