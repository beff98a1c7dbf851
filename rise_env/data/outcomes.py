"""Outcomes of episodes: what counts as one, and `meta/episode_success.parquet`, a sidecar for datasets without any.

LeRobot's own column is `next.success`: whether the task is solved after each frame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.parquet import read_parquet, to_numpy
from rise_env.errors import ConfigError, DatasetError
from rise_env.files import atomic_path

__all__ = [
    "OUTCOMES_PATH",
    "SUCCESS_COLUMNS",
    "as_outcomes",
    "parse_outcome",
    "parse_outcomes",
    "parse_steps",
    "read_outcomes",
    "write_outcomes",
]

OUTCOMES_PATH = Path("meta/episode_success.parquet")
#: Columns that tell outcomes: ours, the same over an episode, and LeRobot's (`lerobot.utils.constants.SUCCESS`).
SUCCESS_COLUMNS = ("episode_success", "next.success")

_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "success", "successful", "succeeded", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "fail", "failed", "failure", "unsuccessful", "0"), False),
}


def parse_outcome(value: Any, where: Any) -> bool:
    """An explicit outcome as bool: True and False, 1 and 0, or a word for them such as "success", "fail", "no".

    Args:
        value: As it was read: a bool, number, text or bytes, or an array with one of them.
        where: What the error names.

    Raises:
        DatasetError: If it is anything else, NaN for example; an outcome is never guessed.

    Example:
        >>> parse_outcome(b"fail", "episode.hdf5")
        False
    """
    plain = np.asarray(value).reshape(-1)
    one = plain[0].item() if plain.size == 1 and hasattr(plain[0], "item") else plain[0] if plain.size == 1 else value
    if isinstance(one, bytes):
        one = one.decode("utf-8", "replace")
    if isinstance(one, str) and one.strip().lower() in _WORDS:
        return _WORDS[one.strip().lower()]
    if isinstance(one, bool | int | float) and not math.isnan(one) and one in (0, 1):
        return bool(one)
    raise DatasetError(
        f"{where}: episode_success is {one!r:.80}, expected True or False (or 1, 0, 'success', 'failure', 'yes', 'no')"
    )


def parse_steps(values: Any, where: Any) -> bool:
    """The outcome of an episode as it stands once for all, or at every step of it.

    A success that begins at some step and lasts to the end is one. What ends before is not decided here.

    Args:
        values: What `parse_outcome` takes, or an array of it, in order.
        where: What the error names.

    Raises:
        DatasetError: If `parse_outcome` refuses a value, there is none, or a success does not last to the end.

    Example:
        >>> parse_steps([b"no", b"no", b"yes"], "episode.hdf5")
        True
    """
    plain = np.asarray(values).reshape(-1)
    if plain.size < 2:
        return parse_outcome(values, where)
    changes = 1 + np.flatnonzero(plain[1:] != plain[:-1])
    outcomes = {step: parse_outcome(plain[step], f"{where}, step {step}") for step in (0, *changes.tolist())}
    last = outcomes[max(outcomes)]
    if not last and any(outcomes.values()):
        raise DatasetError(
            f"{where}: success ends at step {max(outcomes)} of {plain.size}. Did the episode succeed? Write one value, "
            "or say how episodes ended: `rise label --outcome`, `rise convert hdf5 --success` or `--failure`."
        )
    return last


def as_outcomes(values: Iterable[Any], where: Any) -> np.ndarray:
    """Outcomes as bool (n,); see `parse_outcome`."""
    if isinstance(values, np.ndarray) and values.dtype == bool:
        return values
    return np.array([parse_outcome(value, f"{where}, row {i}") for i, value in enumerate(values)], bool)


def parse_outcomes(given: Sequence[str], count: int) -> np.ndarray:
    """Outcomes of `count` episodes, bool, from texts such as "success" (all) or "3,7-9=failure"; later ones win.

    Raises:
        ConfigError: If a text is not of this form, names an episode that does not exist, or one has no outcome.

    Example:
        >>> parse_outcomes(["success", "1,3-4=failure"], 5).tolist()
        [True, False, True, False, False]
    """
    outcomes: list[bool | None] = [None] * count
    for text in given:
        episodes, equals, word = text.rpartition("=")
        try:
            outcome = parse_outcome(word, f"--outcome {text}")
        except DatasetError as error:
            raise ConfigError(str(error)) from None
        for part in episodes.split(",") if equals else [f"0-{count - 1}"]:
            match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
            if not first <= last < count:
                expected = f"episodes such as 3 or 7-9, from 0 to {count - 1}"
                raise ConfigError(f"--outcome {text}: {part!r} is wrong, expected {expected}")
            outcomes[first : last + 1] = [outcome] * (last + 1 - first)
    if None in outcomes:
        raise ConfigError(f"--outcome: episode {outcomes.index(None)} of {count} has none")
    return np.array(outcomes, bool)


def write_outcomes(root: Path, outcomes: np.ndarray) -> Path:
    """Write the sidecar of the dataset in `root`, outcomes bool (E,), in one step; its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"episode_index": np.arange(len(outcomes)), "episode_success": np.asarray(outcomes, bool)})
    path = root / OUTCOMES_PATH
    try:
        with atomic_path(path) as aside:
            pq.write_table(table, aside)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}. Copy the dataset first.") from error
    return path


def read_outcomes(root: Path, count: int) -> np.ndarray | None:
    """Bool (E,) of the sidecar of a dataset with `count` episodes; None where there is none.

    Raises:
        DatasetError: If it does not hold every episode once.
    """
    path = root / OUTCOMES_PATH
    if not path.is_file():
        return None
    table = read_parquet(path, ["episode_index", "episode_success"])
    episodes, outcomes = (to_numpy(table[name], f"{path}, column {name!r}") for name in table.schema.names[:2])
    if not np.array_equal(np.sort(episodes), np.arange(count)):
        raise DatasetError(
            f"{path} has {len(episodes)} outcomes, the dataset has {count} episodes. It has changed since: write them "
            f"again with `rise label {root} --replace --outcome ...`, or delete the file."
        )
    return as_outcomes(outcomes[np.argsort(episodes)], path)
