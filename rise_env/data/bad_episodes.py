"""Which episodes of a dataset cannot be used, found in one pass over all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from rise_env.data.cache import IncompleteError
from rise_env.data.limits import impossible
from rise_env.data.parquet import to_numpy
from rise_env.data.recorded import RecordedDataset
from rise_env.data.rows import read_rows
from rise_env.data.source import Source
from rise_env.errors import DatasetError
from rise_env.tasks import JointLayout

__all__ = ["find_bad_episodes"]


def find_bad_episodes(
    source: Source, keys: Mapping[str, str], layout: JointLayout | None, opened: Callable[[Source], RecordedDataset]
) -> dict[int, str]:
    """Episodes whose data file, joint values or pictures are missing, damaged or impossible, with the reason.

    Args:
        source: Dataset.
        keys: Feature of "state" and of "action".
        layout: Joints; None if they are to be derived.
        opened: Opens what is left once the episodes with bad data files are out. Its pictures are decoded.
    """
    bad: dict[int, str] = {}
    for file in source.data_files:
        try:
            table, index = read_rows(source, file, list(keys.values()))
        except DatasetError as error:
            bad |= dict.fromkeys(file.episodes, str(error))
            continue
        for episode, key in itertools.product(file.episodes, keys.values()):
            mine = index["episode_index"] == episode
            where = f"{file.path}, episode {episode}, column {key!r}"
            try:
                values = to_numpy(table[key].filter(mine), where)
            except DatasetError as error:
                bad.setdefault(episode, str(error))
                continue
            if values.dtype.kind not in "fiu" or (layout and values.size != mine.sum() * layout.dim):
                continue  # wrong in all episodes alike: whoever opens the dataset tells
            values = values.reshape(len(values), -1)
            for row in np.flatnonzero(impossible(values, layout).any(1))[:1]:
                frame = index["frame_index"][mine][row]
                bad.setdefault(episode, f"{file.path}, frame {frame}: {key} is {values[row].tolist()!r:.100}")
    left = source.without(bad)
    try:
        opened(left).prepare()
    except IncompleteError as error:
        for problem in error.problems:
            for episode, reason in getattr(problem, "episodes", {}).items():
                bad.setdefault(int(left.numbers[episode]), reason)
    return bad
