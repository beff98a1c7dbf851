"""`rise init-task`, and from a stranger's dataset to an improved policy by commands alone."""

from __future__ import annotations

import json
import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from rise_agents.cli.main import main
from rise_agents.pipelines.init_task import task_name
from rise_env.bundle import find_bundle
from rise_env.config import config_root
from rise_env.data import open_dataset
from rise_env.errors import ConfigError
from rise_env.registry import TASKS, Registration, TaskRegistration
from rise_env.tasks import load_task, name_of_task
from rise_env.value.config import load_value_config

JOINTS = ("base", "elbow", "wrist", "gripper")


def write_dataset(root: Path, **changes: Any) -> Path:
    """A LeRobot v2.1 dataset of a one-armed robot at 50 Hz; `changes` are those of its `info.json`, and `success`."""
    success, progress, rng = changes.pop("success", None), changes.pop("progress", None), np.random.default_rng(0)
    lengths = changes.pop("lengths", (48, 60, 52, 56))
    cameras = changes.pop("cameras", ("observation.images.front",))
    joints = {"dtype": "float32", "shape": [4], "names": changes.pop("names", list(JOINTS))}
    features = {"observation.state": joints, "action": joints}
    features |= {
        key: {"dtype": "image", "shape": [32, 48, 3], "names": ["height", "width", "channels"]} for key in cameras
    }
    info = {
        "codebase_version": "v2.1", "fps": 50, "features": features, "chunks_size": 1000, "robot_type": "wobbler",
        "total_episodes": len(lengths), "total_frames": sum(lengths), "video_path": None,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", **changes,
    }  # fmt: skip
    if success is not None:
        features["episode_success"] = {"dtype": "bool", "shape": [1], "names": None}
    if progress is not None:
        features["progress"] = {"dtype": "float32", "shape": [1], "names": None}
    for folder in ("meta", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "tasks": ["Stack: the 'cups' #1"], "length": n} for i, n in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "Stack: the 'cups' #1"}))
    for episode, count in enumerate(lengths):
        action = np.sin(np.linspace(0, 3, count)[:, None] + rng.uniform(0, 1, 4)) * [90, 60, 45, 0] + [0, 0, 0, 1]
        action[:, 3] = np.linspace(2, 98, count)
        columns: dict[str, Any] = {
            "observation.state": np.concatenate([action[:1], action[:-1]]).astype(np.float32).tolist(),
            "action": action.astype(np.float32).tolist(), "frame_index": np.arange(count),
            "episode_index": np.full(count, episode), "index": sum(lengths[:episode]) + np.arange(count),
            "task_index": np.zeros(count, np.int64), "timestamp": np.arange(count, dtype=np.float32) / info["fps"],
        }  # fmt: skip
        if success is not None:
            columns["episode_success"] = np.full(count, success[episode])
        if progress is not None:
            columns["progress"] = (progress * np.linspace(0, 1, count)).astype(np.float32)
        for key in cameras:
            columns[key] = [{"bytes": png(i * 40 // count), "path": None} for i in range(count)]
        pq.write_table(pa.table(columns), root / f"data/chunk-000/episode_{episode:06d}.parquet")
    return root


def png(left: int) -> bytes:
    image = np.full((32, 48, 3), 40, np.uint8)
    image[10:20, left : left + 8] = 220
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody who works there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def improved(data: str, capsys: pytest.CaptureFixture[str]) -> str:
    """From a dataset to an improved policy: only what init-task prints, and sizes. Gives what was printed."""
    assert main(["init-task", data, "--name", "mine"]) == 0
    said = capsys.readouterr().out
    assert f"rise check {shlex.quote(data)} --task tasks/mine\n" in said
    assert "rise improve --task tasks/mine --policy runs/mine-base" in said
    task, some = ["--task", "tasks/mine", "--preset", "tiny"], ["--data", data, "--steps", "2"]
    quick = ["--device", "cpu", "--threads", "1"]
    bundle = ["train", "bundle", *task, *some, "--out", "bundles/mine", "--imagined", "3", "--starts", "8"]
    assert main([*bundle, *quick]) == 0
    assert main(["train", "policy", *task, *some, "--bundle", "bundles/mine", "--out", "runs/mine-base", *quick]) == 0
    improve = ["improve", "--policy", "runs/mine-base", "--chunks", "8", "--num-envs", "4"]
    improve += ["--out", "runs/mine-improved", "--judge", "3", "--despite-ranking", "--set", "batch_size=8", "epochs=1"]
    assert main(improve) == 0
    assert Path("runs/mine-improved/model/model.safetensors").is_file()
    told = capsys.readouterr().err
    page = Path("runs/mine-improved/report.html").read_text(encoding="utf-8")
    assert "Measured when the bundle mine was made, on 1 of" in page
    assert "rise deploy --task mine --policy runs/mine-improved --driver NAME" in page
    return told


def test_from_a_dataset_to_an_improved_policy(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(here / "my data")
    assert "imagining with bundles/mine" in improved("my data", capsys)
    quick = ["--device", "cpu", "--threads", "1"]
    base, clone = ("improve", "--policy", "runs/mine-base"), ("train", "policy", "--data", "my data", "--plain", *quick)
    for command, words in {
        ("improve", "--task", "tasks/mine"): "holds no base policy: train one",
        (
            *base,
            "--task",
            "box_closing",
            "--bundle",
            "bundles/mine",
        ): "bundles/mine is of task 'mine', not of 'box_closing'",
        (*base, "--task", "tasks/yours"): "rise init-task DATASET --out tasks/yours",
        clone: "rise init-task",
        (*clone[:4], "--task", "tasks/mine", "--bundle", "bundles/mine", "--set", "task.image_size=[16,32]", *quick):
            "bundle bundles/mine: its image_size are (32, 48)",
        (*clone, "--task", "tasks/mine", "--set", "policy.model.lags=[1]"): ": [3, 6, 9]. Those of a policy",
    }.items():  # fmt: skip
        assert main([*command, "--out", "runs/wrong"]) == 2
        assert words in capsys.readouterr().err
    cell = ["deploy", "--driver", "cell", "--policy", "runs/mine-base", "--yes"]
    measured = (["bench", name] for name in ("audit", "cell", "truth"))
    dagger = ["improve", "--agent", "dagger", "--policy", "runs/mine-base", "--out", "runs/wrong"]
    for command in (["evaluate", "--policy", "runs/mine-base"], ["demo"], ["compare"], cell, *measured, dagger):
        assert main([*command, "--task", "tasks/mine"]) == 2
        told = capsys.readouterr().err
        assert "has no work cell to act in. What is possible instead: `rise improve`" in told


def test_a_task_that_is_called_like_a_shipped_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(here / "data")
    assert main(["init-task", "data", "--out", "tasks/box_closing"]) == 2
    assert "task 'box_closing' is registered already, with a bundle of its own: give another --name" in (
        capsys.readouterr().err
    )
    assert main(["init-task", "data", "--out", "tasks/box_closing", "--name", "mine"]) == 0
    file = Path("tasks/box_closing/_base.yaml")
    file.write_text(file.read_text().replace("mine", "box_closing"))  # by hand
    assert name_of_task("tasks/box_closing") == "box_closing"
    with pytest.raises(ConfigError, match="rise train bundle --task tasks/box_closing"):
        find_bundle("tasks/box_closing")  # the shipped one has other joints
    for given in ("box_closing", str(config_root() / "box_closing" / "small.yaml")):
        assert find_bundle(given).parent.name == "bundles"


def test_a_task_that_a_plug_in_registered(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRegistration("cups", "Cups", simulation="my_package.simulation:Cups")
    monkeypatch.setitem(TASKS._known, "cups", Registration("cups", task, "my_plugin"))
    write_dataset(here / "data")
    assert main(["init-task", "data", "--name", "cups", "--out", "mine"]) == 0
    assert "The plug-in 'my_plugin' registers task 'cups'" in capsys.readouterr().out
    assert name_of_task("mine") == "cups"


@pytest.mark.slow
def test_a_real_robot_of_26_joints(here: Path, real_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of its episodes."""
    info = json.loads((real_dataset / "meta/info.json").read_text())
    if info["codebase_version"] != "v2.1" or "episode_index" not in info.get("video_path", ""):
        pytest.skip(f"{real_dataset} is not a v2.1 dataset with a video per episode")
    root, lines = here / "robot", (real_dataset / "meta/episodes.jsonl").read_text().splitlines()[:2]
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 2, "total_frames": None}))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    (root / "meta/tasks.jsonl").write_bytes((real_dataset / "meta/tasks.jsonl").read_bytes())
    for folder in ("data", "videos"):
        (root / folder).symlink_to(real_dataset / folder)
    improved(str(root), capsys)
    layout = load_task("tasks/mine").layout
    assert [layout.units[layout.names.index(name)] for name in ("kLeftElbow", "kRightHandIndex")] == ["rad", "none"]


@pytest.mark.parametrize(
    ("changes", "base", "outcome"),
    [
        ({}, {"fps": 50}, "success"),
        ({"success": (True, False, True, False), "fps": 29.97}, {"fps": 30}, "recorded"),
        ({"success": (True, False, True, False), "progress": 1}, {"fps": 50}, "recorded"),
        ({"names": None, "progress": 100}, {"trust_layout": True}, "success"),
        ({"names": ["on", "no: #x\n  evil: 1", "1", "~"]}, {}, "success"),
        ({"cameras": ("observation.images.top", "observation.images.a b")},
         {"cameras": {"top": "observation.images.top", "a_b": "observation.images.a b"}}, "success"),
    ],
)  # fmt: skip
def test_what_is_written_fits_the_dataset(here: Path, changes: Any, base: Any, outcome: str) -> None:
    data = write_dataset(here / "data", **changes)
    assert main(["init-task", str(data), "--out", "mine"]) == 0
    values = yaml.safe_load(Path("mine/_base.yaml").read_text())["task"]
    assert {key: values[key] for key in base} == base
    assert values["prompt"] == "Stack: the 'cups' #1"
    for preset in ("small", "tiny"):
        spec = load_task("mine", preset)
        assert spec.layout.units == ("deg", "deg", "deg", "none" if changes.get("names", JOINTS) is JOINTS else "deg")
        open_dataset(data, spec)  # no warning: limits hold what was recorded
        labels = load_value_config("mine", preset).labels
        assert (labels.outcome, labels.progress) == (outcome, "dense" if changes.get("progress") == 1 else "time")
    assert load_value_config("mine").model.heads == (
        ("progress",) if outcome == "success" else ("progress", "td", "success")
    )
    assert main(["init-task", str(data), "--out", "mine"]) == 2  # what was corrected by hand is not overwritten
    with pytest.raises(ValueError, match=r"no preset 'smal'\. Did you mean 'small'"):
        load_task("mine", "smal")


def test_names_of_tasks() -> None:
    assert [task_name(name) for name in ("g1 bottle", "Pick-Place", "100", "***")] == [
        "g1_bottle", "pick_place", "task_100", "task",
    ]  # fmt: skip
