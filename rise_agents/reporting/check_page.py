"""The page of `rise check`: verdict, findings, films of recorded episodes, and what cameras and joints did."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from rise_agents.reporting.filming import write_video
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import framed, table, write_page
from rise_env.data.check.cameras import picture_delay
from rise_env.data.check.catalogue import CATALOGUE
from rise_env.data.check.finding import listed
from rise_env.data.check.joints import spans
from rise_env.data.check.pictures import Camera
from rise_env.data.check.reading import Motion
from rise_env.data.check.run import Checked
from rise_env.provenance import provenance

__all__ = ["write_check_page"]

_CLASSES = {"error": "worse", "warning": "warn", "note": "same"}
_LINE_POINTS = 400


def write_check_page(path: Path, checked: Checked, cost: Mapping[str, str], command: str) -> Path:
    """Write the page, in one step.

    Args:
        path: HTML file to make or replace.
        checked: What was found.
        cost: What training will cost, in words, by what.
        command: What to type to check again.
    """
    with tempfile.TemporaryDirectory() as folder:
        return write_page(
            path,
            f"Data check: {checked.name}",
            checked.verdict(),
            _figures(checked),
            [
                ("Findings", _findings(checked)),
                ("What it looks like", _evidence(checked)),
                ("Episodes at a glance", _glances(checked)),
                ("Cost of training", table(["What", "How much"], cost.items())),
                ("Cameras", _cameras(checked)),
                ("Joints", _joints(checked)),
            ],
            films=list(_films(checked, Path(folder))),
            curves=list(_curves(checked)),
            provenance=provenance(),
            commands=[command],
        )


def _figures(checked: Checked) -> str:
    if checked.source is None:
        return ""
    source, good = checked.source, sum(checked.outcomes.values())
    seconds = float(source.lengths.sum() / source.fps)
    looked = "" if len(source.lengths) == checked.total else f"{len(source.lengths)} of them looked at"
    failed, missing = len(checked.outcomes) - good, len(source.lengths) - len(checked.outcomes)
    outcomes = f"{good} successes, {failed} failures" + (f", {missing} unknown" if missing else "")
    shown = [
        ("Episodes", str(checked.total), looked or outcomes),
        ("Minutes", f"{seconds / 60:.1f}", f"{int(source.lengths.sum())} frames at {source.fps:g} Hz"),
        (
            "Cameras",
            str(len(source.cameras)),
            listed([f"{one.name} {one.size[1]}x{one.size[0]}" for one in checked.cameras]),
        ),
        ("Joints", str(len(checked.motion.state_names)) if checked.motion else "-", source.robot_type),
    ]
    parts = (
        f'<div class="figure"><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(note)}</span></dd></div>'
        for name, value, note in shown
    )
    return f'<dl class="figures">{"".join(parts)}</dl>'


def _findings(checked: Checked) -> str:
    if not checked.findings:
        return '<p class="note">None.</p>'
    rows = []
    for one in checked.findings:
        kind = CATALOGUE[one.code]
        episodes = f'<span class="note"> Episodes: {escape(listed(one.episodes, 12))}</span>' if one.episodes else ""
        rows.append(
            f'<tr><th scope="row"><span class="{_CLASSES[one.severity]}">{one.severity}</span> '
            f'<span class="note">{one.code}</span></th>'
            f"<td><b>{escape(kind.title[:1].upper() + kind.title[1:])}.</b> {_marked(one.message)}{episodes}</td>"
            f"<td>{_marked(kind.spoils)}</td><td>{_marked(kind.mends)}</td></tr>"
        )
    return framed("Findings", ["", "Found", "What it spoils", "What mends it"], "".join(rows))


def _marked(text: str) -> str:
    """HTML of a text with names in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _cameras(checked: Checked) -> str:
    motion, rows = checked.motion, []
    for camera in checked.cameras if motion is not None else ():
        assert motion is not None
        delay, likeness, _ = picture_delay(camera, motion, max(4, round(motion.fps / 2)))
        known = np.isfinite(camera.brightness)
        when = f"{delay / motion.fps:+.2f} s (correlation {likeness:.2f})" if likeness >= 0.3 else "cannot be told"
        bright = f"{np.nanmean(camera.brightness):.0f}" if known.any() else "-"
        rows.append((camera.name, f"{camera.size[1]}x{camera.size[0]}", f"{known.mean():.1%}", bright, when))
    heads = ["Camera", "Pixels", "Pictures decoded", "Mean brightness (0 to 255)", "Pictures after joint values by"]
    return table(heads, rows)


def _joints(checked: Checked) -> str:
    motion, lag = checked.motion, checked.lag
    if motion is None:
        return ""
    state = spans(motion.state)
    seconds = lag.seconds(motion.fps) if lag is not None else np.full(len(state), np.nan)
    action = spans(motion.action) if motion.paired else np.full(len(state), np.nan)
    rows = [
        (
            name,
            f"{np.nanmin(motion.state[:, i]):.3f} to {np.nanmax(motion.state[:, i]):.3f}",
            f"{state[i]:.3f}",
            "-" if np.isnan(action[i]) else f"{action[i]:.3f}",
            "-" if np.isnan(seconds[i]) else f"{seconds[i]:.2f} s",
        )
        for i, name in enumerate(motion.state_names)
        if np.isfinite(motion.state[:, i]).any()
    ]
    return table(["Joint", "State", "Range of the state (98 %)", "Range of the action", "State behind action by"], rows)


def _evidence(checked: Checked) -> str:
    """Pictures that show a finding, in the order of their frames."""
    figures = []
    for finding, camera, pictures in checked.evidence:
        motion, rows = checked.motion, sorted(pictures)
        if motion is None or not rows:
            continue
        episodes = np.searchsorted(motion.starts, rows, side="right") - 1
        frames = [
            f"{row - motion.starts[i]} of episode {motion.numbers[i]}" for row, i in zip(rows, episodes, strict=True)
        ]
        text = f"{finding.code}, {camera.name}: frames {', '.join(frames)}."
        figures.append(_picture([pictures[row] for row in rows], text))
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _glances(checked: Checked) -> str:
    """Six frames of every filmed episode, cameras below each other."""
    figures = [
        _picture(
            [frames[i] for i in np.linspace(0, len(frames) - 1, 6).round().astype(int)], f"{text} From left to right."
        )
        for frames, text, _ in _filmed(checked, np.concatenate)
    ]
    return "".join(figures)


def _picture(pictures: Sequence[np.ndarray], text: str) -> str:
    """A figure with pictures beside each other."""
    from PIL import Image

    buffer = io.BytesIO()
    gap = np.full((pictures[0].shape[0], 4, 3), 128, np.uint8)
    strip = np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)
    Image.fromarray(_enlarged(strip)).save(buffer, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'


def _films(checked: Checked, folder: Path) -> Iterator[Film]:
    for number, (frames, text, fps) in enumerate(_filmed(checked, _abreast)):
        film = np.stack([_enlarged(frame) for frame in frames])
        yield Film(f"{text} Cameras from left to right.", write_video(folder / f"{number}.mp4", film, fps))


def _filmed(
    checked: Checked, joined: Callable[[Sequence[np.ndarray]], np.ndarray]
) -> Iterator[tuple[list[np.ndarray], str, int]]:
    """Episodes of which pictures were kept: frames with all cameras `joined`, what they are, frames per second."""
    motion = checked.motion
    if motion is None or not checked.cameras:
        return
    for episode in sorted(set.intersection(*(set(camera.films) for camera in checked.cameras))):
        number, length = int(motion.numbers[episode]), int(motion.lengths[episode])
        rows = sorted(set.intersection(*(set(camera.films[episode]) for camera in checked.cameras)))
        if len(rows) < 2:
            continue
        frames = [joined(_same_size([camera.films[episode][row] for camera in checked.cameras])) for row in rows]
        outcome = {True: "success", False: "failure", None: "no outcome"}[checked.outcomes.get(number)]
        names = ", ".join(camera.name for camera in checked.cameras)
        text = f"Episode {number} ({outcome}, {length / motion.fps:.1f} s): {names}."
        yield frames, text, max(1, round(motion.fps * len(rows) / length))


def _same_size(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    return [np.pad(p, ((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0))) for p in pictures]


def _abreast(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(pictures, axis=1)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures are not left to the browser to blur."""
    times = max(1, 400 // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _curves(checked: Checked) -> Iterator[Curve]:
    motion = checked.motion
    if motion is None:
        return
    lengths = np.sort(motion.lengths) / motion.fps
    if len(lengths) > 1:
        points = [(i + 1, float(lengths[i])) for i in _thin(len(lengths))]
        yield Curve("Lengths of episodes", "episodes, the shortest first", "s", {"length": points})
    yield from _delays(checked.cameras, motion)
    if motion.paired:
        yield from _traces(motion)
    brightness = {camera.name: _brightness(camera, motion) for camera in checked.cameras}
    if brightness := {name: points for name, points in brightness.items() if points}:
        yield Curve("Brightness of episodes", "episode", "mean grey level", brightness)


def _delays(cameras: Sequence[Camera], motion: Motion) -> Iterator[Curve]:
    farthest = max(4, round(motion.fps / 2))
    lines = {}
    for camera in cameras:
        _, likeness, curve = picture_delay(camera, motion, farthest)
        if likeness >= 0.3:
            lines[camera.name] = [
                (shift / motion.fps, float(curve[shift + farthest])) for shift in range(-farthest, farthest + 1)
            ]
    if lines:
        yield Curve(
            "Motion in pictures against motion of joints (the peak belongs at 0)",
            "pictures later by, s",
            "correlation",
            lines,
        )


def _traces(motion: Motion) -> Iterator[Curve]:
    """Commanded and measured, of the three joints that move most, in the episode in the middle."""
    episode = len(motion.lengths) // 2
    rows = list(motion.rows())[episode]
    for joint in np.argsort(-spans(motion.state))[:3].tolist():
        lines = {}
        for name, values in (("action", motion.action), ("state", motion.state)):
            trace = values[rows, joint]
            lines[name] = [(i / motion.fps, float(trace[i])) for i in _thin(len(trace)) if np.isfinite(trace[i])]
        if all(lines.values()):
            yield Curve(f"{motion.state_names[joint]} in episode {motion.numbers[episode]}", "s", "value", lines)


def _brightness(camera: Camera, motion: Motion) -> list[tuple[float, float]]:
    pairs = [
        (float(number), camera.brightness[rows]) for number, rows in zip(motion.numbers, motion.rows(), strict=True)
    ]
    return [(number, float(np.nanmean(values))) for number, values in pairs if np.isfinite(values).any()]


def _thin(count: int) -> list[int]:
    """At most `_LINE_POINTS` of so many indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, _LINE_POINTS)).round().astype(int)).tolist()
