"""Recording of the offline data: several sets side by side, labelled by the value model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rise_agents.pipelines.config import Recording
from rise_env.tasks import TaskSpec

__all__ = ["label", "record"]

#: Sets that are recorded at a time, each in a process of its own with one thread.
_PROCESSES = 2


def record(
    root: Path, recordings: Sequence[Recording], task: str, preset: str = "small", policy: str | None = None
) -> list[Path]:
    """Record sets of episodes in a task's work cell, each in a directory below `root`, or go on where they stand.

    In `recordings`, "base" stands for the policy at the path `policy`. Gives the directories back.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    folders = [root / f"{one.policy}-{one.seed}" for one in recordings]
    record_one = functools.partial(_record, task=task, preset=preset, policy=policy)
    # Processes of their own: OpenGL and threads do not survive a fork. The lock keeps their bars apart.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(_PROCESSES, spawn, tqdm.set_lock, (spawn.RLock(),)) as pool:
        list(pool.map(record_one, itertools.count(), folders, recordings))
    return folders


def _record(number: int, folder: Path, one: Recording, *, task: str, preset: str, policy: str | None) -> None:
    import torch

    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.loading import load_policy
    from rise_agents.progress import advance, bar
    from rise_robot.cell.collect import collect
    from rise_robot.cell.config import load_cell

    torch.set_num_threads(1)
    spec, config = load_cell(task, preset)
    actor = PolicyActor(load_policy(policy)) if one.policy == "base" and policy else None
    with bar(one.episodes, f"recording {one.policy}", "episodes", position=number) as progress:

        def on_episode(saved: int, _: str | None) -> None:
            advance(progress, saved)

        collect(spec, config, one.policy, one.episodes, one.seed, folder, actor=actor, on_episode=on_episode)


def label(folders: Sequence[Path], tag: str, value: Any, spec: TaskSpec) -> None:
    """Label the datasets in `folders` that have no labels of this tag yet, by a value model."""
    from rise_agents.progress import advance, bar
    from rise_env.data import label_tags, open_dataset
    from rise_env.value.labelling import label_frames, write_labels

    for folder in folders:
        if tag in label_tags(folder):
            continue
        dataset = open_dataset(folder, spec)
        with bar(dataset.num_frames, f"labelling {folder.name}", "frames") as progress:
            found = label_frames(value, dataset, spec.chunk, on_frames=functools.partial(advance, progress))
        write_labels(dataset, tag, found)
