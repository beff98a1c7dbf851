"""Whatever is written in metadata, tables or HDF5: an error of ours, or a dataset; never a raw error or a hang."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_env.data import open_dataset
from rise_env.data.hdf5 import hdf5_spec, inspect_episodes
from tests.fuzz.fuzzing import budget, damaged, mutate, survives
from tests.rise_env.data.conftest import Toy


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("fuzz")
    kinds = {"v3.0": folder / "v3", "v2.1": folder / "v2"}
    for version, root in kinds.items():
        Toy(root, version=version, lengths=(3, 4), success=(True, False), images_in_parquet=True).write()
    return kinds


def use(root: Path) -> None:
    dataset = open_dataset(root)
    _ = dataset.episodes, dataset.column("task_index")
    dataset.frames([0])


@given(data=st.data())
@budget(20)
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_info(originals: dict[str, Path], tmp_path: Path, version: str, data: Any) -> None:
    root = tmp_path / "set"
    if not root.exists():
        shutil.copytree(originals[version], root)
    path = root / "meta/info.json"
    path.write_text(json.dumps(mutate(data.draw, json.loads((originals[version] / "meta/info.json").read_text()))))
    survives(lambda: use(root), tmp_path)


@given(data=st.data())
@budget(20)
@pytest.mark.parametrize("name", ["episodes", "tasks"])
def test_json_lines(originals: dict[str, Path], tmp_path: Path, name: str, data: Any) -> None:
    root = tmp_path / "set"
    if not root.exists():
        shutil.copytree(originals["v2.1"], root)
    path = f"meta/{name}.jsonl"
    rows = [json.loads(line) for line in (originals["v2.1"] / path).read_text().splitlines()]
    changed_rows = mutate(data.draw, rows)
    lines = changed_rows if isinstance(changed_rows, list) else [changed_rows]
    (root / path).write_text("\n".join(map(json.dumps, lines)))
    survives(lambda: use(root), tmp_path)


TABLES = ["meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet", "data/chunk-000/file-000.parquet"]
COLUMNS: dict[str, Callable[[int], Any]] = {
    "null": lambda n: pa.nulls(n),
    "text": lambda n: pa.array(["x"] * n),
    "digits": lambda n: pa.array(["0"] * n),
    "nan": lambda n: pa.array([math.nan] * n),
    "some null": lambda n: pa.array([None, *[0] * (n - 1)], pa.int64()),
    "huge": lambda n: pa.array([2**62] * n),
    "large": lambda n: pa.array([10**9] * n),
    "negative": lambda n: pa.array([-1] * n),
    "zero": lambda n: pa.array([0] * n),
    "float": lambda n: pa.array([1e308] * n),
    "ragged": lambda n: pa.array([[0.0] * i for i in range(n)], pa.list_(pa.float64())),
    "holes": lambda n: pa.array([[0.0, None, 1.0]] * n),
    "struct": lambda n: pa.array([{"a": 1}] * n),
    "map": lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "dictionary": lambda n: pa.array(["x"] * n).dictionary_encode(),
    "decimal": lambda n: pa.array([1] * n).cast(pa.decimal128(30, 2)),
    "time": lambda n: pa.array([0] * n, pa.timestamp("us")),
    "bytes": lambda n: pa.array([b"\xff\xd8"] * n),
    "bool": lambda n: pa.array([True] * n),
}


@given(data=st.data())
@budget(20)
@pytest.mark.parametrize("name", TABLES)
def test_tables(originals: dict[str, Path], tmp_path: Path, name: str, data: Any) -> None:
    root = tmp_path / "set"
    if not root.exists():
        shutil.copytree(originals["v3.0"], root)
    table = pq.read_table(originals["v3.0"] / name)
    for _ in range(data.draw(st.integers(1, 2))):
        position = data.draw(st.integers(0, table.num_columns - 1))
        column = table.schema.names[position]
        kind = data.draw(st.sampled_from(["gone", "no rows", *COLUMNS]))
        if kind == "gone" and table.num_columns > 1:
            table = table.remove_column(position)
        elif kind == "no rows":
            table = table.slice(0, data.draw(st.integers(0, 2)))
        elif kind in COLUMNS and table.num_rows:
            table = table.set_column(position, column, COLUMNS[kind](table.num_rows))
    pq.write_table(table, root / name)
    survives(lambda: use(root), tmp_path)


@given(data=st.data())
@budget(20)
@pytest.mark.parametrize("name", ["meta/info.json", *TABLES])
def test_damaged_bytes(originals: dict[str, Path], tmp_path: Path, name: str, data: Any) -> None:
    root = tmp_path / "set"
    if not root.exists():
        shutil.copytree(originals["v3.0"], root)
    (root / name).write_bytes(damaged(data.draw, (originals["v3.0"] / name).read_bytes()))
    survives(lambda: use(root), tmp_path)


def nodes(group: Any, kind: str, key: str) -> None:
    """Write something wrong under a name."""
    import h5py

    if kind == "group":
        group.create_group(key)
    elif kind == "huge":
        group.create_dataset(key, (10**11, 14), "f4", chunks=(1, 14))
    elif kind == "huge pictures":
        group.create_dataset(key, (4, 10**6, 10**6, 3), "u1", chunks=(1, 8, 8, 3))
    elif kind == "link":
        group[key] = h5py.SoftLink("/nowhere")
    elif kind == "empty":
        group[key] = h5py.Empty("f4")
    elif kind == "scalar":
        group[key] = 3.0
    elif kind == "text":
        group[key] = "video.mp4"
    elif kind == "texts":
        group[key] = np.array([b"no/picture.jpg"] * 4)
    elif kind == "compound":
        group[key] = np.zeros(4, [("a", "f4"), ("b", "i4")])
    elif kind == "nan":
        group[key] = np.full((4, 14), np.nan)
    elif kind == "far":
        group[key] = np.full((4, 14), 1e300)
    elif kind == "bools":
        group[key] = np.ones((4, 14), bool)
    elif kind == "short":
        group[key] = np.zeros((2, 14), np.float32)
    elif kind == "none":
        group[key] = np.zeros((0, 14), np.float32)
    elif kind == "bytes":
        group[key] = np.zeros((4, 30), np.uint8)
    elif kind == "deep":
        group[key] = np.zeros((4, 1, 1, 1, 1), np.uint8)


HDF5 = ["gone", "group", "huge", "huge pictures", "link", "empty", "scalar", "text", "texts", "compound", "nan", "far",
        "bools", "short", "none", "bytes", "deep"]  # fmt: skip
OUTCOMES = [None, True, "False", b"fail", "no", math.nan, 2, "maybe", "", [1, 0], []]


@given(data=st.data())
@budget(20)
def test_hdf5(tmp_path: Path, data: Any) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    path = tmp_path / "episode.hdf5"
    with h5py.File(path, "w") as file:
        file["observations/qpos"] = file["action"] = np.zeros((4, 14), np.float32)
        file["observations/images/head"] = np.zeros((4, 8, 8, 3), np.uint8)
        keys = ["observations/qpos", "action", "observations/images/head", "observations/images", "observations"]
        for key in data.draw(st.sets(st.sampled_from(keys), max_size=2)):
            if key in file:
                del file[key]
                nodes(file, data.draw(st.sampled_from(HDF5)), key)
        outcome = data.draw(st.sampled_from(OUTCOMES))
        if outcome is not None:
            file.attrs["success"] = outcome
    if data.draw(st.integers(0, 3)) == 0:
        path.write_bytes(damaged(data.draw, path.read_bytes()))

    def check() -> None:
        options = {"prompt": "Do it.", "layout": "piper_bimanual", "fps": 10}
        spec, sources = hdf5_spec([path], "set", task=None, **options)
        inspect_episodes([path], spec, sources, {}, None)

    survives(check, tmp_path)
