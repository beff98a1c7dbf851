"""Sidecars: what goes in comes out, every frame once, and the dataset is not touched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rise_env.data import (
    Dataset,
    DatasetError,
    label_tags,
    open_dataset,
    read_advantages,
    read_values,
    write_advantages,
    write_values,
)
from rise_env.tasks import TaskSpec

Make = Callable[..., Path]
Spec = Callable[..., TaskSpec]


@pytest.fixture
def root(new_dataset: Make) -> Path:
    return new_dataset(images_in_parquet=True)


@pytest.fixture
def dataset(root: Path, spec: Spec) -> Dataset:
    return open_dataset(root, spec())


def write(dataset: Dataset | Path, tag: str = "v1", **changes: object) -> list[Path]:
    values = np.linspace(0, 1, 28)
    columns = {"positive": values > 0.5, "value_current": values, "value_next": values + 1, **changes}
    return write_advantages(dataset, tag, values - 0.5, **columns)


def digest(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_values_round_trip(dataset: Dataset, root: Path) -> None:
    before = digest(root)
    values = np.random.default_rng(0).random(28)
    (path,) = write_values(dataset, "v1", values, spread=values / 2)
    assert path == root / "meta/returns_v1.parquet"
    assert pq.read_schema(path).names == ["episode_index", "frame_index", "return", "reward", "prompt", "spread"]
    for where in (dataset, root):
        columns = read_values(where, "v1")
        np.testing.assert_array_equal(columns["return"], values.astype(np.float32))
        assert columns["reward"].dtype == np.float32
        assert columns["prompt"].tolist() == dataset.prompts(np.arange(28))
        np.testing.assert_array_equal(columns["episode_index"], dataset.column("episode_index"))
    assert {k: v for k, v in digest(root).items() if k != str(path)} == before
    assert label_tags(dataset, "returns") == ["v1"]
    assert label_tags(root) == []


def test_advantages_round_trip(dataset: Dataset, root: Path) -> None:
    write(dataset)
    write(root, "other")
    columns = read_advantages(dataset, "v1")
    assert columns["advantage"].dtype == bool
    assert columns["advantage"].sum() == 14
    np.testing.assert_allclose(columns["advantage_continuous"], np.linspace(-0.5, 0.5, 28), rtol=1e-6)
    np.testing.assert_allclose(columns["value_next"] - columns["value_current"], 1)
    assert label_tags(dataset) == ["other", "v1"]
    with pytest.raises(DatasetError, match=r"no advantages with the tag 'v2'\. Its tags: other, v1"):
        read_advantages(dataset, "v2")


def test_joined_datasets_keep_their_own_files(dataset: Dataset, new_dataset: Make, spec: Spec) -> None:
    other = new_dataset("other", lengths=(4,), success=(True,), images_in_parquet=True)
    joined = open_dataset([dataset.root, other], spec())
    values = np.arange(32, dtype=np.float32)
    assert len(write_values(joined, "j", values)) == 2
    columns = read_values(joined, "j")
    np.testing.assert_array_equal(columns["return"], values)
    assert columns["episode_index"][-1] == 3
    np.testing.assert_array_equal(read_values(other, "j")["return"], values[28:])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"value_current": np.zeros(27)}, r"'value_current' has shape \(27,\), expected one value per frame"),
        ({"value_next": np.full(28, np.nan)}, "'value_next' is nan at episode 0, frame 0"),
        ({"positive": np.zeros(28)}, "'advantage' is float64, expected bool"),
        ({"tag": "../x"}, "tag '../x' must consist of"),
    ],
)
def test_wrong_labels_are_not_written(dataset: Dataset, root: Path, changes: dict, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        write(dataset, **changes)
    assert not list(root.rglob("advantages_*"))


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([*range(27)], r"episode 2, frame 8 is labelled 0 times, expected once \(1 such frames\)"),
        ([0, *range(28)], "episode 0, frame 0 is labelled 2 times"),
    ],
)
def test_every_frame_once(dataset: Dataset, rows: list[int], match: str) -> None:
    (path,) = write(dataset)
    pq.write_table(pq.read_table(path).take(rows), path)
    with pytest.raises(DatasetError, match=match):
        read_advantages(dataset, "v1")


def test_read_checks_columns_frames_and_order(dataset: Dataset) -> None:
    (path,) = write(dataset)
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(28)), path)
    np.testing.assert_allclose(read_advantages(dataset, "v1")["value_current"], np.linspace(0, 1, 28), rtol=1e-6)
    pq.write_table(table.set_column(1, "frame_index", pa.array(np.arange(28))), path)
    with pytest.raises(DatasetError, match=r"labels episode 1, frame 12, which .* does not have"):
        read_advantages(dataset, "v1")
    pq.write_table(table.drop_columns(["value_next"]), path)
    with pytest.raises(DatasetError, match="lacks the column 'value_next'"):
        read_advantages(dataset, "v1")
    path.write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        read_advantages(dataset, "v1")


def test_another_directory(dataset: Dataset, tmp_path: Path) -> None:
    (path,) = write(dataset, directory=tmp_path / "labels")
    assert path.parent == tmp_path / "labels"
    assert len(read_advantages(dataset, "v1", directory=tmp_path / "labels")["advantage"]) == 28
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written"):
        write(dataset, directory=tmp_path / "file" / "below")
