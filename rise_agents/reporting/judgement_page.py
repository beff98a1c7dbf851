"""The page that `rise improve` ends with: verdict, held-out recordings, the policy before and after, films."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.evaluation.recorded import ChunkErrors
from rise_agents.evaluation.verdict import Statement, interval, mean_of, signed
from rise_agents.reporting.compositions import side_by_side
from rise_agents.reporting.filming import caption, write_video
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import chart_figures, framed, table, write_page
from rise_env.envs.drawing import picture
from rise_env.metrics.agreement import Mean
from rise_env.training.held_out import Sample

__all__ = ["Imagination", "Judgement", "policy_films", "sample_films", "write_judgement_page"]

#: Width of a picture, in its heights, from which films go below each other.
_WIDE = 2.5
_CLASSES = {True: "better", False: "worse", None: "same"}


@dataclass(frozen=True)
class Imagination:
    """The policies before and after, from the same states under the same noise.

    Attributes:
        source: Which states, in words.
        states: Their number.
        chunks: Chunks imagined in a row from each.
        seconds: Time that these take.
        before: Mean return of the policy before.
        after: Of the policy after.
        change: After minus before, state by state, with an interval over episodes.
        better: Part of the states from which the return rose.
        values_before: Mean value at the start and after each chunk.
        values_after: The same of the policy after.
    """

    source: str
    states: int
    chunks: int
    seconds: float
    before: float
    after: float
    change: Mean
    better: float
    values_before: list[float]
    values_after: list[float]


@dataclass(frozen=True)
class Judgement:
    """What the page shows, and the JSON beside it.

    Attributes:
        task: Name of the task.
        summary: One sentence or two.
        verdict: Questions and answers.
        cannot_say: What is not known from this page, and how to find out.
        warnings: What the user was told of and went on.
        held_out_source: Where `held_out` comes from, or what is missing, in words.
        held_out: `HeldOut.figures`.
        start_states: `evaluate_on_starts`, where there are no held-out recordings.
        imagination: Before and after.
        recorded_source: What `recorded` compares with, or what is missing, in words.
        recorded: Distances of proposed from recorded chunks.
        run: What was run: settings, chunks, seconds.
    """

    task: str
    summary: str
    verdict: list[Statement]
    cannot_say: list[str]
    warnings: list[str]
    held_out_source: str
    held_out: Mapping[str, Any] | None
    start_states: Mapping[str, Any] | None
    imagination: Imagination
    recorded_source: str
    recorded: list[ChunkErrors] | None
    run: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; intervals are mappings with `mean`, `low`, `high` and `groups` (episodes)."""
        content = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        imagination = {**vars(self.imagination), "change": self.imagination.change._asdict()}
        errors = [{**vars(one), "change": one.change._asdict()} for one in self.recorded or ()]
        recorded = None if self.recorded is None else errors
        return {**content, "imagination": imagination, "recorded": recorded}


def write_judgement_page(
    path: Path,
    found: Judgement,
    films: Sequence[Film],
    learning: Sequence[Curve],
    provenance: Mapping[str, Any],
    commands: Sequence[str],
) -> Path:
    """Write the page, in one step.

    Args:
        path: HTML file to make or replace.
        found: What was found.
        films: Of `policy_films` and `sample_films`.
        learning: Curves of the training.
        provenance: Where this comes from.
        commands: What to type to get it again.
    """
    return write_page(
        path,
        f"RISE: {found.task.replace('_', ' ')}, judged in imagination and on recordings",
        found.summary,
        _numbers(found),
        [
            ("Verdict", _verdict(found)),
            ("What this page cannot say", _sentences(found.cannot_say)),
            ("Held-out recordings", _held_out(found)),
            ("Before and after in imagination", _imagination(found.imagination)),
            ("Before and after against recorded successes", _recorded(found)),
        ],
        films=films,
        curves=learning,
        provenance={"run": found.run, **provenance},
        commands=commands,
    )


def policy_films(folder: Path, shots: Sequence[tuple[str, np.ndarray, np.ndarray]], fps: int) -> Iterator[Film]:
    """Films of imagination: before beside after, or above it where several cameras make the pictures wide.

    Args:
        folder: Where to write them.
        shots: Caption, and pictures uint8 (T, H, W, 3) of both policies, from the same state.
        fps: Pictures per second.
    """
    for number, (text, before, after) in enumerate(shots):
        wide = _wide(before[0])
        joined = _above(before, after) if wide else side_by_side(before, after, ("before", "after"))
        where = "before above, after below" if wide else "before on the left, after on the right"
        yield Film(f"Imagined, {where}. {text}", write_video(folder / f"policy-{number}.mp4", joined, fps))


def _wide(image: np.ndarray) -> bool:
    return image.shape[1] > _WIDE * image.shape[0]


def _joined(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size beside each other, or below each other where they are wide."""
    return np.concatenate(pictures, axis=0 if _wide(pictures[0]) else 1)


def _above(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two films in one, below each other; the shorter stays on its last picture."""
    films = [[caption(frame, name) for frame in film] for name, film in (("before", before), ("after", after))]
    length = max(map(len, films))
    return np.stack([np.concatenate([film[min(t, len(film) - 1)] for film in films]) for t in range(length)])


def sample_films(folder: Path, samples: Sequence[Sample], cameras: Sequence[str], fps: int) -> Iterator[Film]:
    """Films of held-out chunks: real, imagined, and imagined with another moment's actions."""
    for number, one in enumerate(samples):
        frames = [
            _joined([
                picture(real, ["real", f"frame {k + 1} of {len(one.real)}"]),
                picture(imagined, ["imagined", f"value {value:.2f}"], value),
                picture(other, ["imagined,", "other actions"]),
            ])
            for k, (real, imagined, other, value) in enumerate(
                zip(one.real, one.imagined, one.other, one.values, strict=True)
            )
        ]  # fmt: skip
        text = (
            f"Held-out episode {one.episode}, from frame {one.frame}: real, imagined with the recorded actions, and "
            f"imagined with those of another moment. Cameras: {', '.join(cameras)}."
        )
        yield Film(text, write_video(folder / f"held-out-{number}.mp4", np.stack(frames), fps))


def _numbers(found: Judgement) -> str:
    """What is read first: change in imagination, ranking, dynamics against a copy."""
    change = found.imagination.change
    policy = _CLASSES[found.verdict[0].good]
    shown = [("Change of the imagined return", signed(change.mean), interval(change), policy)]
    if (figures := found.held_out) is not None:
        correlation = figures["value"]["correlation"]
        good = figures["value"]["problem"] is None
        text = "value and time within held-out episodes; 1 is right, 0 chance"
        number = "-" if correlation is None else signed(correlation, 2)
        shown.append(("Rank correlation of the value", number, text, _CLASSES[good]))
        if (dynamics := figures["dynamics"]) is not None:
            quality, better = dynamics["psnr"], _good(mean_of(dynamics["psnr"]["gain"]))
            gain = f"{signed(quality['gain']['mean'], 1)} dB"
            text = f"{quality['imagined']:.1f} dB at chunk end; {quality['copy']:.1f} dB if the last picture is copied"
            shown.append(("Imagination above a copy", gain, text, _CLASSES[better]))
    else:
        shown.append(("Held-out recordings", "-", "not measured: see below", "same"))
    parts = (
        f'<div class="figure {kind}"><dt>{escape(name)}</dt><dd><b>{escape(number)}</b><span>{escape(text)}</span></dd>'
        "</div>"
        for name, number, text, kind in shown
    )
    return f'<dl class="figures">{"".join(parts)}</dl>'


def _good(change: Mean) -> bool | None:
    return {1: True, 0: None, -1: False}[change.direction]


def _verdict(found: Judgement) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(one.question)}</th><td><strong class="{_CLASSES[one.good]}">{escape(one.answer)}'
        f"</strong></td><td>{escape(one.text)}</td></tr>"
        for one in found.verdict
    )
    warned = "".join(f'<p class="warn">{escape(text)}</p>' for text in found.warnings)
    return warned + framed("Verdict", ["Question", "Answer", "Why"], rows)


def _sentences(texts: Sequence[str]) -> str:
    items = "".join(
        f"<li>{f'<code>{escape(text[2:])}</code>' if text.startswith('$ ') else escape(text)}</li>" for text in texts
    )
    return f"<ul>{items}</ul>" if items else ""


def _held_out(found: Judgement) -> str:
    parts = [f"<p>{escape(found.held_out_source)}</p>"]
    if (figures := found.held_out) is None:
        return "".join(parts)
    value, missing = figures["value"], figures["not_measured"]
    heads = ["At the end of a chunk", "imagined", "copy of the last picture", "imagined with another moment's actions"]
    rows = []
    dynamics = figures["dynamics"] or {}
    for name, key, digits in (
        ("PSNR, dB (higher is nearer)", "psnr", 1),
        ("PSNR where something moved, dB", "psnr_moved", 1),
        ("SSIM (1 is the same)", "ssim", 3),
        ("End-point error of the optical flow, pixels (lower is nearer)", "flow_error", 2),
    ):
        numbers = dynamics.get(key) or {}
        why = missing.get(f"dynamics.{key}") or missing.get("dynamics")
        cells = [numbers.get(kind) for kind in ("imagined", "copy", "other_actions")]
        shown = ["not measured" if one is None else f"{one:.{digits}f}" for one in cells]
        rows.append([name, *shown] if why is None else [f"{name}: {why}", *shown])
    parts.append(table(heads, rows))
    if views := (dynamics.get("psnr") or {}).get("by_camera"):
        text = ", ".join(f"{camera} {number:.1f}" for camera, number in views.items())
        parts.append(f'<p class="note">PSNR by camera, dB: {escape(text)}.</p>')
    parts.append(table(["Value", "Number", "What it means"], _value_rows(value, missing)))
    charts = []
    if (calibration := value["calibration"]) is not None:
        bins = calibration["bins"]
        lines = {
            "held-out frames": [(one["value"], one["truth"]) for one in bins],
            "exact": [(0.0, 0.0), (1.0, 1.0)],
        }
        charts.append(Curve("Calibration of the value (the nearer to the diagonal, the better)", "value",
                            f"mean of {calibration['against']}", lines))  # fmt: skip
    if value["curves"]:
        charts.append(Curve("Value over the course of held-out episodes", "part of the episode", "mean value",
                            value["curves"]))  # fmt: skip
    return "".join([*parts, chart_figures(charts)])


def _value_rows(value: Mapping[str, Any], missing: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    def said(number: float | None, text: str = "{:+.2f}") -> str:
        return "not measured" if number is None else text.format(number)

    yield (
        "Rank correlation with time", said(value["correlation"]),
        f"mean within {value['episodes']} episodes (successes where they are known); 1 is right, 0 chance, below "
        f"{value['least_correlation']:+.2f} rise improve stops",
    )  # fmt: skip
    yield (
        "Successes above failures", said(value["separation"], "{:.0%}"),
        missing.get("value.separation") or "pairs in which the success ends with the higher value; 50 % is chance",
    )  # fmt: skip
    calibration = value["calibration"]
    yield (
        "Calibration error", said(calibration and calibration["error"], "{:.2f}"),
        missing.get("value.calibration") or f"mean distance from {calibration['against']}",
    )  # fmt: skip
    imagined = value["imagined"] or {}
    yield (
        "Advantages, imagined against real pictures", said(imagined.get("advantage_correlation")),
        missing.get("dynamics") or "rank correlation over recorded chunks: what imagination adds or loses",
    )  # fmt: skip
    yield (
        "Bias of imagined advantages", said(imagined.get("advantage_bias"), "{:+.3f}"),
        missing.get("dynamics") or "imagined less real, on recorded chunks; above zero imagination flatters",
    )  # fmt: skip


def _imagination(found: Imagination) -> str:
    rows = [
        ("before", f"{signed(found.before)}", ""),
        ("after", f"{signed(found.after)}", f"{interval(found.change)}; higher from {found.better:.0%} of the states"),
    ]
    times = np.linspace(0, found.seconds, found.chunks + 1).tolist()
    lines = {
        "before": list(zip(times, found.values_before, strict=True)),
        "after": list(zip(times, found.values_after, strict=True)),
    }
    curve = Curve("Mean value on the way", "seconds imagined", "value", lines)
    return "".join([
        f"<p>{escape(found.source)}</p>",
        table(["Policy", f"Return of {found.chunks} chunks", "Change, state by state"], rows),
        chart_figures([curve]),
    ])  # fmt: skip


def _recorded(found: Judgement) -> str:
    source = f"<p>{escape(found.recorded_source)}</p>"
    if found.recorded is None:
        return source
    rows = [
        (f"{one.group}{f', {one.unit}' if one.unit else ''}", f"{one.before:.4g}", f"{one.after:.4g}",
         interval(one.change), f"{one.hold:.4g}")
        for one in found.recorded
    ]  # fmt: skip
    heads = ["Mean distance from the recorded chunk", "before", "after", "change", "holding still"]
    return source + table(heads, rows)
