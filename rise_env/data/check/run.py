"""check_dataset: is a dataset good enough to train on?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from rise_env.data.check.cameras import camera_findings, scene_findings
from rise_env.data.check.commands import Lag, command_findings, measure_lag
from rise_env.data.check.episodes import (
    coverage_findings,
    episode_findings,
    length_findings,
    outcome_findings,
    text_findings,
)
from rise_env.data.check.finding import Finding, listed, worst_first
from rise_env.data.check.joints import joint_findings
from rise_env.data.check.pictures import Camera, read_camera, read_pictures
from rise_env.data.check.reading import Motion, read_motion
from rise_env.data.source import Source, locate, read_source
from rise_env.data.specs import check_keys, check_spec
from rise_env.errors import DatasetError, LayoutError, requirement
from rise_env.tasks import TaskSpec

__all__ = ["Checked", "check_dataset"]

#: Chunk of a task that is derived from a dataset.
_CHUNK = 16
_FILMS = 3


@dataclass
class Checked:
    """What `check_dataset` found.

    Attributes:
        root: Directory of the dataset.
        name: What it is called: the last part of its path or hub id.
        spec: The task that it was compared with, if any.
        findings: The worst first.
        source: Its metadata, of the episodes that were looked at; None if they cannot be read.
        motion: Joint values; None if none can be read.
        lag: Of joints behind commands; None where state and action have different joints.
        cameras: What cameras recorded; empty if pictures were not looked at.
        outcomes: Recorded outcomes, by number of the episode.
        total: Episodes of the dataset.
        decoding_seconds: How long decoding took.
        evidence: What cameras show, for findings that name rows: the finding, the camera, and pictures by row.
    """

    root: Path
    name: str
    spec: TaskSpec | None
    findings: list[Finding] = field(default_factory=list)
    source: Source | None = None
    motion: Motion | None = None
    lag: Lag | None = None
    cameras: list[Camera] = field(default_factory=list)
    outcomes: dict[int, bool] = field(default_factory=dict)
    total: int = 0
    decoding_seconds: float = 0.0
    evidence: list[tuple[Finding, Camera, dict[int, np.ndarray]]] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Findings that stop a training, or make it learn nonsense."""
        return sum(one.severity == "error" for one in self.findings)

    def verdict(self) -> str:
        """One sentence."""
        count = {name: sum(one.severity == name for one in self.findings) for name in ("error", "warning", "note")}
        told = ", ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in count.items() if number)
        if count["error"]:
            return f"Not ready for training: {told}."
        return f"Good enough to train on: {told or 'nothing to remark'}."

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        source, motion = self.source, self.motion
        successes = sum(self.outcomes.values())
        facts: dict[str, Any] = {}
        if source is not None:
            checked = len(source.lengths)
            facts = {
                "episodes": self.total,
                "episodes_checked": checked,
                "frames": int(source.lengths.sum()),
                "fps": source.fps,
                "minutes": float(source.lengths.sum() / source.fps / 60),
                "robot_type": source.robot_type,
                "cameras": {key: list(source.features[key].image_size) for key in source.cameras},
                "outcomes": {
                    "success": successes,
                    "failure": len(self.outcomes) - successes,
                    "missing": checked - len(self.outcomes),
                },
            }
        if motion is not None:
            facts["joints"] = list(motion.state_names)
            facts["lag_seconds"] = self.lag and dict(zip(motion.state_names, self.lag.seconds(motion.fps), strict=True))
        return {
            "dataset": str(self.root),
            "task": self.spec.name if self.spec else None,
            "verdict": self.verdict(),
            "errors": self.errors,
            "findings": [one.plain() for one in self.findings],
            "facts": facts,
        }


def check_dataset(
    path_or_repo: str | Path,
    spec: TaskSpec | None = None,
    *,
    state_key: str | None = None,
    action_key: str | None = None,
    trust_layout: bool = False,
    all_successes: bool | None = None,
    episodes: int | None = None,
    pictures: bool = True,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Checked:
    """Look for what would spoil a training, without training.

    Args:
        path_or_repo: Directory or hub id of a LeRobot dataset, v3.0 or v2.1.
        spec: Task that it is meant for; without it, units, limits and chunk are not known.
        state_key: Feature that holds the joint state; that of `spec`, or "observation.state", when omitted.
        action_key: Feature that holds the action; that of `spec`, or "action", when omitted.
        trust_layout: Accept the layout of `spec` for a dataset that does not name its joints.
        all_successes: Whether the task's value model takes every episode for a success; None if that is not known.
        episodes: Look at so many episodes only, evenly spread; at all when omitted.
        pictures: Decode the videos. Frames are measured as they come and not kept.
        progress: Called with ("reading" or "decoding", frames done, in all).

    Returns:
        Findings, and what they were found in. Memory grows with the joint values, 8 bytes a dimension and frame, and
        24 bytes a frame and camera; not with the pictures.

    Raises:
        DatasetError: If there is no dataset. Whatever else is wrong with it is a finding.
        ConfigError: If `episodes` is not positive.
    """
    requirement("check_dataset").at_least(1, episodes=episodes)
    root = locate(path_or_repo)
    checked = Checked(root, Path(path_or_repo).name or root.name, spec)
    try:
        source = read_source(root)
    except DatasetError as error:
        checked.findings = [Finding("metadata", str(error))]
        return checked
    checked.total = len(source.lengths)
    if episodes is not None and episodes < checked.total:
        kept = set(np.linspace(0, checked.total - 1, episodes).round().astype(int).tolist())
        source = source.without(set(range(checked.total)) - kept)
    checked.source = source
    keys = {
        "state": state_key or (spec.state_key if spec else "observation.state"),
        "action": action_key or (spec.action_key if spec else "action"),
    }
    findings = checked.findings
    findings += length_findings(
        source.lengths, source.numbers, (spec.chunk if spec else _CHUNK) + 1, source.fps, checked.total
    )
    findings += text_findings(_prompts(source))
    if not source.cameras:
        findings.append(Finding("no_cameras", f"features: {', '.join(source.features)}"))
    try:
        check_keys(source, keys)
    except DatasetError as error:
        findings.append(Finding("joints_differ", str(error)))
    else:
        if spec is not None:
            try:
                check_spec(source, spec, keys, unnamed=trust_layout or spec.trust_layout)
            except (DatasetError, LayoutError) as error:
                findings.append(Finding("task_mismatch", str(error)))
        _joints(checked, source, keys, all_successes, progress)
    if pictures and checked.motion is not None:
        _pictures(checked, source, progress)
    checked.findings = worst_first(findings)
    return checked


def _joints(
    checked: Checked,
    source: Source,
    keys: Mapping[str, str],
    all_successes: bool | None,
    progress: Callable[[str, int, int], None],
) -> None:
    spec, findings, done = checked.spec, checked.findings, 0

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        progress("reading", done, int(source.lengths.sum()))

    read = read_motion(source, keys, advance)
    checked.motion, checked.outcomes = read.motion, read.outcomes
    if read.damaged:
        findings.append(
            Finding(
                "damaged_rows",
                f"{len(read.damaged)} episodes, for example: {next(iter(read.damaged.values()))}",
                episodes=tuple(sorted(read.damaged)),
            )
        )
    readable = [number for number in source.numbers.tolist() if number not in read.damaged]
    findings += outcome_findings(
        readable, read.outcomes, read.unclear, all_successes, len(source.lengths) < checked.total
    )
    motion = read.motion
    if motion is None:
        return
    layout = spec.layout if spec is not None and spec.layout.dim == motion.state.shape[1] else None
    findings += joint_findings(motion, layout)
    findings += episode_findings(motion)
    findings += coverage_findings(motion)
    if not motion.paired:
        findings.append(
            Finding(
                "joints_differ",
                f"{keys['state']} has {listed(motion.state_names)}; {keys['action']} has {listed(motion.action_names)}",
            )
        )
        return
    checked.lag = measure_lag(motion)
    findings += command_findings(motion, checked.lag, spec.chunk / spec.fps if spec else None)


def _pictures(checked: Checked, source: Source, progress: Callable[[str, int, int], None]) -> None:
    motion, spec = checked.motion, checked.spec
    assert motion is not None
    source = source.without(set(np.flatnonzero(~np.isin(source.numbers, motion.numbers)).tolist()))
    keys = [key for key in source.cameras if spec is None or key in spec.cameras.values()]
    total, done = len(keys) * int(motion.lengths.sum()), 0

    def advance(frames: int) -> None:
        nonlocal done
        done += frames
        progress("decoding", done, total)

    began = monotonic()
    filmed = np.unique(np.linspace(0, len(motion.lengths) - 1, _FILMS).round().astype(int)).tolist()
    for key in keys:
        camera = read_camera(source, key, motion, filmed, advance)
        checked.cameras.append(camera)
        checked.findings += camera_findings(camera, motion)
    checked.decoding_seconds = monotonic() - began
    if checked.cameras:
        checked.findings += scene_findings(checked.cameras, motion)
    for finding, camera in itertools.product(checked.findings, checked.cameras):
        if finding.rows and camera.name in finding.subjects:
            checked.evidence.append((finding, camera, read_pictures(source, camera.key, motion, finding.rows)))


def _prompts(source: Source) -> dict[int, str]:
    """Instructions of episodes, where the metadata have them."""
    if source.episode_tasks is None:
        only = next(iter(source.tasks.values()), "") if len(source.tasks) <= 1 else None
        return {} if only is None else dict.fromkeys(source.numbers.tolist(), only)
    firsts = [tasks[0] if isinstance(tasks, list | tuple) and tasks else tasks for tasks in source.episode_tasks]
    return {n: text if isinstance(text, str) else "" for n, text in zip(source.numbers.tolist(), firsts, strict=True)}
