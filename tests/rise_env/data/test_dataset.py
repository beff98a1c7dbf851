"""open_dataset: both formats give the same arrays, and what is wrong is said."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rise_env.data import Dataset, DatasetError, interventions, open_dataset
from rise_env.errors import LayoutError
from rise_env.tasks import TaskSpec

Make = Callable[..., Path]
Spec = Callable[..., TaskSpec]


@pytest.fixture(params=["v3.0", "v2.1"])
def dataset(request: pytest.FixtureRequest, v3_root: Path, v2_root: Path, spec: Spec) -> Dataset:
    return open_dataset(v3_root if request.param == "v3.0" else v2_root, spec())


def test_global_frame_order(dataset: Dataset) -> None:
    assert (dataset.num_episodes, dataset.num_frames, len(dataset)) == (3, 28, 28)
    assert dataset.lengths.tolist() == [7, 12, 9]
    assert dataset.starts.tolist() == [0, 7, 19]
    assert dataset.column("episode_index").tolist() == [0] * 7 + [1] * 12 + [2] * 9
    assert dataset.column("index").tolist() == list(range(28))
    assert dataset.column("progress").dtype == np.float32
    assert dataset.column("is_intervention").dtype == bool
    assert interventions(dataset).sum() == dataset.column("is_intervention").sum() == 9
    assert dataset.locate(19) == (2, 0)
    assert dataset.episode_of(np.array([[0, 6], [7, 27]])).tolist() == [[0, 0], [1, 2]]


def test_state_and_action(dataset: Dataset) -> None:
    for episode, start in enumerate(dataset.starts):
        rows = dataset.state[start : start + dataset.lengths[episode]]
        assert rows.dtype == np.float32
        assert rows.shape[1] == 3
        np.testing.assert_array_equal(rows[:, 0], np.arange(len(rows)))
        np.testing.assert_array_equal(rows[:, 1], episode)
    np.testing.assert_array_equal(dataset.action, dataset.state + np.float32(0.5))
    with pytest.raises(ValueError, match="read-only"):
        dataset.state[0] = 0


def test_episodes_keep_their_own_task_and_outcome(dataset: Dataset) -> None:
    assert [e.task for e in dataset.episodes] == ["Do it.", "Undo it.", "Do it."]
    assert [e.success for e in dataset.episodes] == [True, False, True]
    assert dataset.success.tolist() == [True, False, True]
    assert dataset.prompts([0, 7, 27]) == ["Do it.", "Undo it.", "Do it."]


def test_derived_spec(v3_root: Path, v2_root: Path) -> None:
    spec = open_dataset(v3_root).spec
    assert spec.cameras == {"top_head": "observation.images.top.head", "wrist": "observation.images.wrist"}
    assert (spec.fps, spec.image_size, spec.prompt) == (10, (16, 24), "Do it.")
    assert spec.layout.names == ("left", "right", "gripper")
    derived = open_dataset(v2_root)
    assert derived.spec.image_size == (44, 64)
    assert (derived.state >= derived.spec.layout.low).all()
    assert (derived.action <= derived.spec.layout.high).all()


def test_layout_mismatch_prints_both(v3_root: Path, spec: Spec) -> None:
    swapped = dataclasses.replace(spec().layout, name="swapped", names=("right", "left", "gripper"))
    with pytest.raises(LayoutError) as error:
        open_dataset(v3_root, spec(layout=swapped))
    assert "left, right, gripper" in str(error.value)
    assert "right, left, gripper" in str(error.value)


def test_unnamed_joints_need_trust(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset(names=None)
    with pytest.raises(LayoutError, match="trust_layout=True"):
        open_dataset(root, spec())
    assert open_dataset(root, spec(), trust_layout=True).state.shape == (28, 3)
    assert open_dataset(root).spec.layout.names == ("joint_0", "joint_1", "joint_2")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"fps": 30}, "recorded at 10 Hz, task 'toy' runs at 30 Hz"),
        ({"cameras": {"head": "observation.images.absent"}}, r"Its cameras: observation\.images\.top\.head"),
    ],
)
def test_spec_that_does_not_fit(v3_root: Path, spec: Spec, changes: dict, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        open_dataset(v3_root, spec(**changes))


def test_missing_success_is_never_guessed(new_dataset: Make, spec: Spec) -> None:
    dataset = open_dataset(new_dataset("failures_only", success=None), spec())
    assert [e.success for e in dataset.episodes] == [None] * 3
    for ask in (lambda: dataset.column("episode_success"), lambda: dataset.success):
        with pytest.raises(DatasetError, match="labelled explicitly"):
            ask()


def test_success_in_the_episode_table(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset(version="v2.1", success=None)
    path = root / "meta/episodes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    words = ["success", "failure", "success"]
    path.write_text("\n".join(json.dumps({**r, "episode_success": w}) for r, w in zip(rows, words, strict=True)))
    assert open_dataset(root, spec()).success.tolist() == [True, False, True]
    path.write_text("\n".join(json.dumps({**r, "episode_success": "maybe"}) for r in rows))
    with pytest.raises(DatasetError, match="episode_success is 'maybe'"):
        _ = open_dataset(root, spec()).success


def test_unknown_column(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"no column 'advantage'\. Its columns: .*progress"):
        dataset.column("advantage")


def test_renaming_the_directory_changes_nothing(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset("expert_success")
    before = open_dataset(root, spec())
    frames, success = before.frames(np.arange(28)), before.success
    root = root.rename(root.with_name("failure_eval"))
    after = open_dataset(root, spec())
    np.testing.assert_array_equal(after.success, success)
    np.testing.assert_array_equal(after.state, before.state)
    np.testing.assert_array_equal(after.frames(np.arange(28)), frames)


def test_rows_in_another_order(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset()
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), path)
    assert open_dataset(root, spec()).column("index").tolist() == list(range(28))


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_nan_names_file_episode_frame_joint(new_dataset: Make, spec: Spec, version: str) -> None:
    root = new_dataset(version=version)
    path = sorted((root / "data/chunk-000").iterdir())[-1]
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[4]["action"][1] = float("nan")
    pq.write_table(table.from_pylist(rows, table.schema), path)
    with pytest.raises(DatasetError, match=rf"{path.name}, episode 2, frame 4: action of 'right' is nan, expected"):
        open_dataset(root, spec())


def test_missing_rows(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset()
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 18), path)
    with pytest.raises(DatasetError, match=r"file-000.parquet \(episodes 0, 1\) has 18 rows, .* says 19"):
        open_dataset(root, spec()).column("progress")


def test_repeated_rows(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset()
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([0, 0, *range(2, 19)]), path)
    with pytest.raises(DatasetError, match="frames are missing or repeated"):
        open_dataset(root, spec()).column("progress")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("data/chunk-000/file-001.parquet", b"PAR1", "cannot be read as parquet"),
        ("data/chunk-000/file-001.parquet", None, "file-001.parquet is missing"),
        ("meta/tasks.parquet", None, "tasks.parquet is missing"),
        ("meta/info.json", b"{", "not valid JSON"),
        ("meta/info.json", b'{"codebase_version": "v1.6"}', "LeRobot format v1.6, expected v3.0, v2.1"),
        ("meta/info.json", b'{"codebase_version": "v3.0", "features": {}}', "lack the key"),
    ],
)
def test_damaged_files(new_dataset: Make, spec: Spec, name: str, content: bytes | None, match: str) -> None:
    root = new_dataset()
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=match):
        open_dataset(root, spec()).column("progress")


def test_totals_must_agree(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset(version="v2.1")
    path = root / "meta/episodes.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:2]))
    with pytest.raises(DatasetError, match="total_episodes 3, the episode table has 2"):
        open_dataset(root, spec())


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"meta/info\.json is missing"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match="empty list"):
        open_dataset([])


def test_hub_is_asked_for_what_is_not_local(
    monkeypatch: pytest.MonkeyPatch, v3_root: Path, spec: Spec, tmp_path: Path
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot(repo: str, **options: object) -> str:
        asked.append((repo, options))
        if repo != "user/toy":
            raise LocalEntryNotFoundError("offline")
        return str(v3_root)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    assert open_dataset("user/toy", spec(), revision="v1").num_frames == 28
    assert asked == [("user/toy", {"repo_type": "dataset", "revision": "v1"})]
    with pytest.raises(DatasetError, match="no local directory and cannot be had from the Hugging Face hub: offline"):
        open_dataset("user/other", spec())


def test_limits_of_one_dataset_are_no_limits_of_the_next(new_dataset: Make) -> None:
    """Without a task: neither a warning, nor values outside the limits that are derived."""
    small = {"lengths": (7, 8), "success": None, "images_in_parquet": True}
    paths = [new_dataset("short", **small), new_dataset("long", **{**small, "lengths": (30,)})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined = open_dataset(paths)
        assert open_dataset([new_dataset(f"{i}", **small, names=None) for i in range(2)]).num_episodes == 4
    assert joined.spec.layout.high[0] > 29
    assert joined.spec.layout.furthest_outside(joined.state) is None
    with pytest.raises(LayoutError, match="without names"):
        open_dataset([paths[0], new_dataset("unnamed", **small, names=None)])


def test_joined_datasets(v3_root: Path, new_dataset: Make, spec: Spec) -> None:
    other = new_dataset("other", lengths=(6, 8), tasks=("Undo it.", "Third."), success=(False, True))
    joined, first, second = open_dataset([v3_root, other], spec()), *(open_dataset(r, spec()) for r in (v3_root, other))
    assert (joined.num_episodes, joined.num_frames) == (5, 42)
    assert [e.episode_index for e in joined.episodes] == list(range(5))
    assert joined.success.tolist() == [True, False, True, False, True]
    assert joined.prompts(joined.starts) == ["Do it.", "Undo it.", "Do it.", "Undo it.", "Third."]
    assert joined.column("episode_index").tolist() == np.repeat(np.arange(5), joined.lengths).tolist()
    np.testing.assert_array_equal(joined.state, np.concatenate([first.state, second.state]))
    index = np.array([[41, 0], [28, 27]])
    one_by_one = [second.frames(13), first.frames(0), second.frames(0), first.frames(27)]
    np.testing.assert_array_equal(joined.frames(index).reshape(4, 2, 16, 24, 3), np.stack(one_by_one))


def test_pickle_does_not_carry_frames(dataset: Dataset) -> None:
    frames = dataset.frames([3])
    content = pickle.dumps(dataset)
    assert len(content) < 100_000
    np.testing.assert_array_equal(pickle.loads(content).frames([3]), frames)
