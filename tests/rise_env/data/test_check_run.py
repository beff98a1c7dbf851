"""`rise check` on datasets on disk: whatever is wrong is a finding, and a page and a JSON file say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rise_agents.cli.main import main
from rise_env.data.check import CATALOGUE, Checked, catalogue_table, check_dataset
from rise_env.data.check.catalogue import ROOMS, SEVERITIES
from rise_env.errors import ConfigError, DatasetError
from rise_env.tasks import TaskSpec
from rise_env.training.cost import time_training
from rise_env.training.setup import TrainingSetup

DOCS = Path(__file__).resolve().parents[3] / "docs"


def codes(checked: Checked) -> dict[str, str]:
    return {one.code: one.severity for one in checked.findings}


def edit_rows(file: Path, **columns: np.ndarray) -> None:
    table = pq.read_table(file)
    for name, values in columns.items():
        array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        table = table.set_column(table.schema.get_field_index(name), name, array)
    pq.write_table(table, file)


def test_both_versions_and_a_sample(v3_root: Path, v2_root: Path, spec: Callable[..., TaskSpec]) -> None:
    v3, v2 = (check_dataset(root, spec()) for root in (v3_root, v2_root))
    assert codes(v3) == codes(v2)
    assert v3.errors == 0
    assert {one.name for one in v3.cameras} == {"top.head", "wrist"}
    brightness = v3.cameras[0].brightness
    assert np.isfinite(brightness).all()
    np.testing.assert_allclose(brightness[:7], v2.cameras[0].brightness[:7], atol=2)
    assert (np.diff(brightness[:7]) > 1).all()  # the pictures get brighter from frame to frame
    assert v3.plain()["facts"]["outcomes"] == {"success": 2, "failure": 1, "missing": 0}
    part = check_dataset(v3_root, spec(), episodes=2)
    assert part.motion is not None
    assert part.motion.numbers.tolist() == [0, 2]
    assert (part.total, part.outcomes) == (3, {0: True, 2: True})
    np.testing.assert_array_equal(part.cameras[1].brightness[7:], v3.cameras[1].brightness[19:])
    with pytest.raises(ConfigError, match="episodes is 0"):
        check_dataset(v3_root, episodes=0)


def test_images_in_tables(new_dataset: Callable[..., Path], spec: Callable[..., TaskSpec], v3_root: Path) -> None:
    images, videos = (check_dataset(root, spec()) for root in (new_dataset(images_in_parquet=True), v3_root))
    assert codes(images) == codes(videos)
    np.testing.assert_allclose(images.cameras[1].brightness, videos.cameras[1].brightness, atol=1)


def test_faults_of_files_are_findings(new_dataset: Callable[..., Path], spec: Callable[..., TaskSpec]) -> None:
    root = new_dataset(lengths=(20, 22, 24, 21), success=(True, False, True, True))
    assert codes(check_dataset(root)).get("unit_unlikely") == "warning"  # no task: values beyond three turns
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet")
    state = np.array(rows["observation.state"].to_pylist(), np.float32)
    state[25, 0] = np.nan
    edit_rows(root / "data/chunk-000/file-000.parquet", **{"observation.state": state})
    (root / "videos/observation.images.wrist/chunk-000/file-001.mp4").unlink()
    checked = check_dataset(root, spec())
    found = {one.code: one for one in checked.findings}
    assert found["not_finite"].episodes == (1,)
    assert found["damaged_pictures"].episodes == (2, 3)
    assert found["damaged_pictures"].subjects == ("wrist",)
    assert checked.findings[0].severity == "error"
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"no parquet")
    checked = check_dataset(root, spec())
    found = {one.code: one for one in checked.findings}
    assert found["damaged_rows"].episodes == (0, 1)
    assert checked.motion is not None
    assert checked.motion.numbers.tolist() == [2, 3]
    (root / "meta/info.json").write_text("{}")
    assert codes(check_dataset(root)) == {"metadata": "error"}
    with pytest.raises(DatasetError, match="does not exist"):
        check_dataset(root / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "task", "code"),
    [
        ({"cameras": ()}, {}, "no_cameras"),
        ({}, {"fps": 30}, "task_mismatch"),
        ({"names": ["a", "b", "c"]}, {}, "task_mismatch"),
        ({}, {"state_key": "observation.velocity"}, "joints_differ"),
        ({"tasks": ("",)}, {}, "no_instruction"),
        ({"success": None}, {}, "outcomes_missing"),
        ({"lengths": (7,)}, {}, "one_episode"),
        ({}, {"chunk": 100}, "too_short"),
    ],
)
def test_datasets_that_do_not_fit(
    changes: dict[str, object], task: dict[str, object], code: str, new_dataset: Callable[..., Path],
    spec: Callable[..., TaskSpec],
) -> None:  # fmt: skip
    assert code in codes(check_dataset(new_dataset(**changes), spec(**task), pictures=False))


def test_the_command(v3_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, file = tmp_path / "page.html", tmp_path / "check.json"
    assert main(["check", str(v3_root), "--page", str(page), "--json", str(file)]) == 1
    told = json.loads(file.read_text())
    assert told["errors"] >= 1
    assert told["findings"][0]["code"] == "too_short"
    assert set(told["findings"][0]) == {
        "code", "severity", "room", "message", "spoils", "mends", "subjects", "episodes"
    }  # fmt: skip
    assert told["facts"]["lag_seconds"]["gripper"] == 0.0
    text = page.read_text()
    assert "Not ready for training: " in text
    assert CATALOGUE["too_short"].mends in text.replace("&#x27;", "'")
    assert text.count("<video") == 3
    assert "error: too_short: 3 of 3 episodes have less than 17 frames" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nothing"), "--page", str(page)]) == 2


def test_training_is_timed() -> None:
    timed = time_training(TrainingSetup([], "brick_sorting", "tiny", device="cpu"), seconds=0.05)
    assert list(timed) == ["autoencoder", "transformer", "value"]
    assert all(count > 0 and 0 < each < 60 for count, each in timed.values())


def test_timing_needs_a_task(v3_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(v3_root), "--time-training"]) == 2
    assert "give --task" in capsys.readouterr().err


def test_a_dataset_without_the_cameras_of_the_task_is_checked(
    v3_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(v3_root), "--task", "brick_sorting", "--page", str(tmp_path / "page.html")]) == 1
    assert "error: " in capsys.readouterr().out


def test_several_datasets_are_checked_one_by_one(v3_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(v3_root), "data/tuesday", "data/a wednesday"]) == 2
    assert "run `rise check` again for data/tuesday 'data/a wednesday'" in capsys.readouterr().err


def test_the_catalogue_is_complete_and_documented() -> None:
    for code, kind in CATALOGUE.items():
        assert kind.room in ROOMS, code
        assert set(kind.severities) <= set(SEVERITIES), code
        assert kind.spoils.endswith("."), code
        assert kind.mends.endswith("."), code
    assert catalogue_table() in (DOCS / "check.md").read_text(encoding="utf-8"), (
        "docs/check.md: put there what rise_env.data.check.catalogue_table() gives"
    )
