"""What `rise init-task` does: a folder of presets for a recorded dataset, which say what they were guessed from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from rise_agents.policies.config import load_policy_config
from rise_env.data import Dataset
from rise_env.data.source import Source, read_source
from rise_env.data.task_guess import (
    JointGuess,
    TimeGuess,
    guess_image_size,
    guess_joints,
    guess_progress,
    guess_times,
    unlike_targets,
)
from rise_env.dynamics.config import load_dynamics_config
from rise_env.errors import ConfigError
from rise_env.files import atomic_directory, refuse_existing
from rise_env.tasks import load_task
from rise_env.value.config import load_value_config

__all__ = ["NewTask", "task_name", "write_task"]

_TEMPLATES = Path(__file__).parent / "new_task"
#: Presets that are written.
_PRESETS = ("small", "tiny")
#: Frames from which on the larger transformer is worth its time.
_MANY_FRAMES = 50_000


@dataclass(frozen=True)
class NewTask:
    """A task that was written.

    Attributes:
        folder: Its folder, to be given as `--task`.
        name: Name of the task.
        guesses: What was guessed and matters most, in words.
    """

    folder: Path
    name: str
    guesses: tuple[str, ...]


def task_name(text: str) -> str:
    """A name of a task from that of a directory or robot: an identifier in lower case.

    Example:
        >>> task_name("so101-Pick & Place"), task_name("2024 runs")
        ('so101_pick_place', 'task_2024_runs')
    """
    name = re.sub(r"\W+", "_", text).strip("_").lower() or "task"
    return name if name.isidentifier() else f"task_{name}"


def write_task(dataset: Dataset, out: Path, name: str) -> NewTask:
    """Write the folder of a task that fits a dataset.

    Args:
        dataset: Opened without a task.
        out: Folder to make.
        name: Name of the task.

    Raises:
        ConfigError: If `out` exists, or the name is no identifier.
        DatasetError: If no action chunk fits into the episodes.
    """
    if not name.isidentifier():
        raise ConfigError(f"task name {name!r} must be an identifier such as {task_name(name)!r} (--name)")
    refuse_existing(out)
    source, joints, times = read_source(dataset.root), guess_joints(dataset), guess_times(dataset)
    values = {
        **_facts(dataset, source, name), **_joints(joints), **_times(dataset, times), **_outcomes(dataset),
        **_sizes(dataset, source),
    }  # fmt: skip
    with atomic_directory(out, "_base.yaml") as aside:
        for template in sorted(_TEMPLATES.rglob("*.yaml")):
            file = aside / template.relative_to(_TEMPLATES)
            file.parent.mkdir(exist_ok=True)
            text = Template(template.read_text(encoding="utf-8")).substitute(values)
            file.write_text(re.sub(r"\n\n+", "\n", text), encoding="utf-8")
        for preset in _PRESETS:  # whatever the dataset: what is written can be read
            for load in (load_task, load_dynamics_config, load_value_config, load_policy_config):
                load(str(aside), preset)
    return NewTask(out, name, tuple(_most_doubtful(dataset, joints, times, str(values["outcome"]))))


def _facts(dataset: Dataset, source: Source, name: str) -> dict[str, Any]:
    spec, prompts = dataset.spec, [text for text in dataset.tasks.values() if text.strip()]
    sizes = {camera: source.features[key].image_size for camera, key in spec.cameras.items()}
    unnamed = any(not source.features[key].names for key in (spec.state_key, spec.action_key))
    told = f"{dataset.num_episodes} episodes, {dataset.num_frames} frames at {source.fps:g} Hz"
    if not prompts:
        why = "GUESSED: the dataset has no instruction. Write one; pi0.5 and language-conditioned models read it"
    elif len(prompts) > 1:
        why = f"the first of the dataset's {len(prompts)} instructions; recorded frames keep their own"
    else:
        why = "the dataset's instruction"
    rate = "that of the dataset" if source.fps == spec.fps else f"the dataset's {source.fps:g} Hz, rounded"
    return {
        "name": _text(name), "name_said": name, "where_said": _comment(f"{dataset.name}: {told}"),
        "prompt": _text(prompts[0] if prompts else spec.name.replace("_", " ")), "prompt_why": why,
        "cameras": _lines(f"    {_text(camera)}: {_text(key)} # {sizes[camera][0]} x {sizes[camera][1]} pixels"
                          for camera, key in spec.cameras.items()),
        "fps": spec.fps, "fps_why": rate, "max_seconds": float(math.ceil(1.25 * dataset.lengths.max() / spec.fps)),
        "state_key": _text(spec.state_key), "action_key": _text(spec.action_key), "robot": _text(spec.layout.name),
        "trust": "  trust_layout: true # the dataset does not name its joints: their number must do" if unnamed else "",
        "image_size": list(guess_image_size(list(sizes.values()))),
        "sizes": ", ".join(dict.fromkeys(f"{height} x {width}" for height, width in sizes.values())),
    }  # fmt: skip


def _joints(joints: Sequence[JointGuess]) -> dict[str, str]:
    def column(values: Iterable[tuple[Any, str]]) -> str:
        said = (f"  - {value} # {note}" for value, note in values)
        return _lines(said)

    return {
        "names": _lines(f"  - {_text(joint.name)}" for joint in joints),
        "units": column((joint.unit, f"{_comment(joint.name)}: {joint.why}") for joint in joints),
        "lower": column((joint.lower, f"{_comment(joint.name)} ({joint.least:.4g})") for joint in joints),
        "upper": column((joint.upper, f"{_comment(joint.name)} ({joint.most:.4g})") for joint in joints),
    }


def _times(dataset: Dataset, times: TimeGuess) -> dict[str, Any]:
    fps, lag = dataset.spec.fps, times.lag
    shown = f"joints follow their commands by up to {lag:.2f} s" if lag > 0 else "joints show no lag behind commands"
    looks = ", ".join(f"{steps / fps:.2f} s" for steps in times.lags)
    return {
        "chunk": times.chunk, "stride": times.stride, "execute": times.execute, "lags": list(times.lags),
        "chunk_seconds": f"{times.chunk / fps:.2f}", "imagined": times.chunk // times.stride,
        "chunk_why": f"GUESSED; {shown}, the shortest episode has {int(dataset.lengths.min())} frames",
        "lags_why": f"{looks}; a multiple of the stride, up to (history - 1) x stride" if looks else "none fits",
    }  # fmt: skip


def _outcomes(dataset: Dataset) -> dict[str, Any]:
    known = [episode.success for episode in dataset.episodes]
    failed, unknown = known.count(False), known.count(None)
    told = f"{known.count(True)} successes, {failed} failures"
    if unknown == len(known):
        outcome = "success"
        why = ("GUESSED: the dataset does not say how episodes ended. If some failed, say so by\n"
               "    # `rise label DATASET --outcome success 3,7-9=failure`, and write `recorded`")  # fmt: skip
    elif unknown:
        outcome, why = "recorded", (f"{told}, but {unknown} episodes without an outcome: give it by "
                                    "`rise label DATASET --outcome ...` before you train")  # fmt: skip
    else:
        outcome, why = "recorded", f"the dataset says it: {told}"
    both = outcome == "recorded" and failed > 0
    progress, progress_why = guess_progress(dataset)
    return {
        "outcome": outcome, "outcome_why": why, "progress": progress, "progress_why": progress_why,
        "heads_of_value": "[progress, td, success]" if both else "[progress]",
        "heads_why": "what is learned" if both else "without failures there is no success or return to learn",
    }  # fmt: skip


def _sizes(dataset: Dataset, source: Source) -> dict[str, Any]:
    frames, episodes = dataset.num_frames, dataset.num_episodes
    failed = any(episode.success is False for episode in dataset.episodes)

    def updates(count: float, least: int, most: int) -> int:
        return int(np.clip(50 * round(count / 50), least, most))

    progress = updates(500 + frames / 50, 500, 2500)
    large = frames >= _MANY_FRAMES
    return {
        "frames": frames, "many_frames": _MANY_FRAMES, "episodes": episodes,
        "held_out": max(0.1, round(min(2 / episodes, 0.34), 2)),
        "width": 288 if large else 128, "depth": 6 if large else 4, "heads": 6 if large else 4,
        "autoencoder_steps": updates(frames / 5, 800, 4000), "dynamics_steps": updates(frames / 5, 600, 6000),
        "progress_steps": progress, "td_steps": updates(0.6 * progress, 300, 1500) if failed else 0,
        "tiny_td_steps": 10 if failed else 0, "policy_steps": updates(frames / 8, 1000, 4000),
        "start_states": min(4096, frames),
    }  # fmt: skip


def _most_doubtful(dataset: Dataset, joints: Sequence[JointGuess], times: TimeGuess, outcome: str) -> Iterable[str]:
    counts = {unit: sum(joint.unit == unit for joint in joints) for unit in dict.fromkeys(j.unit for j in joints)}
    if strange := unlike_targets(dataset):
        shown = ", ".join(strange[:4]) + (", ..." if len(strange) > 4 else "")
        yield (f"WRONG? {len(strange)} of {len(joints)} commands are unlike the measured joints ({shown}): RISE needs "
               "absolute targets, no velocities or changes; --action-key names another feature")  # fmt: skip
    yield f"units: {', '.join(f'{count} joints {unit}' for unit, count in counts.items())}"
    still = [joint.name for joint in joints if joint.most - joint.least == 0]
    if still:
        yield f"{len(still)} joints never move ({', '.join(still[:4])}{', ...' if len(still) > 4 else ''})"
    fps = dataset.spec.fps
    yield f"chunk {times.chunk} steps ({times.chunk / fps:.2f} s), stride {times.stride}, lags {list(times.lags)}"
    progress, why = guess_progress(dataset)
    if progress == "dense" or "progress" in dataset.columns:
        yield f"value.labels.progress {progress}: {why}"
    if outcome == "success":
        yield "every episode counts as a success: the dataset does not say how they ended"
    if dataset.num_episodes < 2:
        yield "one episode is too few to train: one is kept aside to measure on"
    elif dataset.num_episodes < 10:
        yield f"{dataset.num_episodes} episodes are few: value and dynamics learn them by heart"


def _text(value: str) -> str:
    """A text as YAML, on one line, in quotes where it needs them."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
        .removesuffix("\n...\n")
        .rstrip()
    )


def _comment(text: str) -> str:
    """A text from a dataset for a comment: without line breaks, it stays one."""
    return " ".join(re.sub(r"[^\w\s()\[\]{}.,:;+*/'-]", "?", text).split())[:300]


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
