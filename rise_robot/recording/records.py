"""Facts about whole episodes, in the sidecar `meta/rise_episodes.parquet` so that the dataset itself stays plain."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rise_env.errors import ConfigError, RiseError
from rise_env.files import atomic_path

__all__ = [
    "SIDECAR_PATH",
    "EpisodeRecord",
    "RecordingError",
    "check_continues",
    "read_episode_records",
    "write_episode_records",
]

SIDECAR_PATH = Path("meta/rise_episodes.parquet")
_TAG = {b"rise": b"rise_episodes", b"rise_version": b"1"}


class RecordingError(RiseError, ValueError):
    """A frame, an episode or a recorded dataset is not what the recorder expects."""


@dataclass(frozen=True)
class EpisodeRecord:
    """What is known of one recorded episode beyond its frames.

    Attributes:
        episode_index: Index of the episode in its dataset.
        num_frames: Number of frames.
        success: Whether the task was solved.
        failure_mode: Why it was not, in the words of the recording side; whatever it passed for a success.
        seed: Seed that the episode was reset with.
        operator: Who acted, e.g. "expert", "operator" or a person's name.
        num_intervention_frames: Frames during which a human or expert had taken over.
    """

    episode_index: int
    num_frames: int
    success: bool
    failure_mode: str
    seed: int
    operator: str
    num_intervention_frames: int


_TYPES = {"int": pa.int64(), "bool": pa.bool_(), "str": pa.string()}
_SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in dataclasses.fields(EpisodeRecord)], _TAG)


def read_episode_records(root: str | Path) -> list[EpisodeRecord]:
    """Read the sidecar of a recorded dataset, in episode order.

    A dataset that was edited with lerobot's tools (delete, split, merge) has lost it. Number of frames, outcome and
    interventions are then taken from the dataset itself; a warning says what is lost: `failure_mode` and `operator` are
    "unknown", `seed` is -1.

    Raises:
        RecordingError: If there is no sidecar and the dataset does not say these things, or the file is not one of
            ours.

    Example:
        >>> [r.episode_index for r in read_episode_records("data/bricks") if r.success]  # doctest: +SKIP
        [0, 2, 3]
    """
    path = Path(root) / SIDECAR_PATH
    if not path.is_file() and (Path(root) / "meta/info.json").is_file():
        return _rebuilt(Path(root))
    if not path.is_file():
        raise RecordingError(
            f"{path} does not exist: {root} was not recorded by EpisodeRecorder, or its process was killed before the "
            "first commit. In the second case open it once with EpisodeRecorder(root, spec) and close it."
        )
    schema = pq.read_schema(path)
    found, wanted = (schema.metadata or {}).get(b"rise_version"), _TAG[b"rise_version"]
    if found != wanted or schema.names != _SCHEMA.names:
        expected = f"version {wanted!r} and columns {_SCHEMA.names}"
        raise RecordingError(f"{path} has version {found!r} and columns {schema.names}, expected {expected}")
    return [EpisodeRecord(**row) for row in pq.read_table(path).to_pylist()]


def _rebuilt(root: Path) -> list[EpisodeRecord]:
    """What the dataset itself says of its episodes."""
    files = sorted((root / "data").glob("*/*.parquet"))
    names = ["episode_index", "episode_success", "is_intervention"]
    lost = f"{root / SIDECAR_PATH} does not exist: the dataset was edited or copied without it."
    try:
        table = pa.concat_tables(pq.read_table(path, columns=names) for path in files)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RecordingError(
            f"{lost} Nor can it be made again, because the data files do not hold {', '.join(names)}: {error}. The "
            "dataset was not recorded by EpisodeRecorder, or lost these features as well."
        ) from error
    warnings.warn(  # always from this line: one process says it once, however many read it
        f"{lost} Its facts are taken from the dataset; seeds (now -1), operators and reasons of failures (now "
        "'unknown') are lost.",
        stacklevel=1,
    )
    episodes, success, corrected = (table[name].to_numpy() for name in names)
    records = []
    for episode in range(int(episodes.max(initial=-1)) + 1):
        rows = episodes == episode
        won = bool(success[rows].all())
        mode = "" if won else "unknown"
        records.append(EpisodeRecord(episode, int(rows.sum()), won, mode, -1, "unknown", int(corrected[rows].sum())))
    return records


def write_episode_records(root: str | Path, records: Iterable[EpisodeRecord]) -> None:
    """Write the sidecar below `root`, replacing it in one step."""
    path = Path(root) / SIDECAR_PATH
    with atomic_path(path) as aside:
        pq.write_table(pa.Table.from_pylist([dataclasses.asdict(r) for r in records], _SCHEMA), aside)


def check_continues(root: str | Path, policy: str, seed: int, found: int) -> None:
    """Check that a dataset can be gone on with: that its episodes are those of a policy from a seed on.

    Args:
        root: The dataset.
        policy: Name of who acts in them.
        seed: Seed of the first one.
        found: Episodes that it has; 0 where there is none yet.

    Raises:
        ConfigError: If they are others, or nobody knows any more.
    """
    if not found:
        return
    for index, record in enumerate(read_episode_records(root)):
        if record.operator == "unknown" and record.seed == -1:
            raise ConfigError(
                f"{root} was edited: seed and policy of its episode {index} are lost, so that a recording cannot go on "
                "where it stands. Record into another --out, and give both to the command that trains: --data A B."
            )
        if record.seed != seed + index or record.operator.split("/")[0] != policy:
            raise ConfigError(
                f"{root} holds {found} episodes; number {index} is of policy {record.operator!r} with seed "
                f"{record.seed}, not {policy!r} with seed {seed + index}. Choose another --out, or the policy and seed "
                "it was begun with."
            )
