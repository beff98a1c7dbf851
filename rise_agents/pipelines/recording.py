"""Recording of the offline data: several sets side by side, labelled by the value model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rise_agents.pipelines.config import Recording
from rise_agents.pipelines.processes import side_by_side
from rise_env.errors import TrainingError
from rise_env.tasks import TaskSpec

__all__ = ["label", "record"]

#: Sets that are recorded at a time, each in a process of its own with one thread.
_PROCESSES = 2


def record(
    root: Path, recordings: Sequence[Recording], task: str, preset: str = "small", policy: str | None = None
) -> list[Path]:
    """Record sets of episodes in a task's work cell, each in a directory below `root`, or go on where they stand.

    In `recordings`, "base" stands for the policy at the path `policy`. Gives the directories back.

    Raises:
        TrainingError: If a set could not be recorded; finished episodes are kept.
    """
    folders = [root / f"{one.policy}-{one.seed}" for one in recordings]
    pairs = sorted(zip(folders, recordings, strict=True), key=lambda pair: -pair[1].episodes)  # no long one at the end
    work = {folder.name: (folder, one, task, preset, policy) for folder, one in pairs}
    if failed := side_by_side(_record, work, _PROCESSES):
        lines = "".join(f"\n  {name}: {why}" for name, why in failed.items())
        raise TrainingError(f"{len(failed)} of {len(work)} sets were not recorded:{lines}")
    return folders


def _record(what: tuple[Path, Recording, str, str, str | None], report: Callable[[float, str], None]) -> None:
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.loading import load_policy
    from rise_robot.cell.collect import collect
    from rise_robot.cell.config import load_cell

    folder, one, task, preset, policy = what
    spec, config = load_cell(task, preset)
    actor = PolicyActor(load_policy(policy)) if one.policy == "base" and policy else None

    def on_episode(saved: int, _: str | None) -> None:
        report(saved / one.episodes, f"{saved} of {one.episodes} episodes")

    collect(spec, config, one.policy, one.episodes, one.seed, folder, actor=actor, on_episode=on_episode)


def label(folders: Sequence[Path], tag: str, value: Any, spec: TaskSpec) -> None:
    """Label the datasets in `folders` that have no labels of this tag yet, by a value model."""
    from rise_agents.progress import advance, bar, say
    from rise_env.data import label_tags, open_dataset
    from rise_env.value.labelling import label_frames, ranking_problem_of, write_labels

    for folder in folders:
        if tag in label_tags(folder):
            continue
        dataset = open_dataset(folder, spec)
        with bar(dataset.num_frames, f"labelling {folder.name}", "frames") as progress:
            found = label_frames(value, dataset, spec.chunk, on_frames=functools.partial(advance, progress))
        write_labels(dataset, tag, found)
        if problem := ranking_problem_of(dataset, found.value):
            say(f"WARNING: {folder.name}: {problem}")
