"""Value training, imagination of recorded chunks and labelling on a dataset on disk and through the command line."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rise_agents.cli.main import main
from rise_env.data import Windows, open_dataset
from rise_env.data.labels import read_advantages, read_values
from rise_env.tasks import TaskSpec, load_task
from rise_env.testing import FrameCountingDynamics
from rise_env.value.imagined import imagine_recorded_chunks
from rise_env.value.latents import LatentDataset
from rise_env.value.model import ValueModel

LENGTHS, SUCCESS = (14, 12, 13, 11), (True, False, True, False)
CAMERAS = {"head": "observation.images.head", "wrist": "observation.images.wrist"}
JOINTS = ["shoulder", "elbow", "gripper"]
CONFIG = """
task:
  name: toy
  prompt: Do it.
  cameras: [head, wrist]
  image_size: [16, 24]
  layout: {names: [shoulder, elbow, gripper], units: [rad, rad, m], lower: [-1, -2, 0], upper: [1, 2, 1]}
  fps: 10
  chunk: 4
  stride: 2
  history: 2
  execute: 2
  max_seconds: 2.0
value:
  model: {channels: [4, 8], embed: 8, hidden: 8, members: 2, text_vocabulary: 16, text_embed: 4}
  labels: {progress: dense}
  training: {batch_size: 4, progress_steps: 4, td_steps: 2, held_out: 0.3, warmup_steps: 0}
"""


def png(value: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.full((16, 24, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(root: Path, with_success: bool = True) -> Path:
    """LeRobot v2.1 with images in parquet: frame i of an episode has the colour 5 i."""
    scalars = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
    scalars |= {"timestamp": "float32", "progress": "float32", "is_intervention": "bool"}
    scalars |= {"episode_success": "bool"} if with_success else {}
    features: dict[str, Any] = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()}
    features |= {key: {"dtype": "float32", "shape": [3], "names": JOINTS} for key in ("observation.state", "action")}
    shape = {"dtype": "image", "shape": [16, 24, 3], "names": ["height", "width", "channels"]}
    features |= dict.fromkeys(CAMERAS.values(), shape)
    info = {
        "codebase_version": "v2.1", "fps": 10, "features": features, "chunks_size": 1000,
        "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "robot_type": "toy",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": None,
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "tasks": ["Do it."], "length": n} for i, n in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "Do it."}))
    for episode, n in enumerate(LENGTHS):
        joints = np.zeros((n, 3), np.float32).tolist()
        columns: dict[str, Any] = {
            "frame_index": np.arange(n),
            "episode_index": np.full(n, episode),
            "index": sum(LENGTHS[:episode]) + np.arange(n),
            "task_index": np.zeros(n, np.int64),
            "timestamp": np.arange(n, dtype=np.float32) / 10,
            "progress": np.linspace(0, 1 if SUCCESS[episode] else 0.5, n).astype(np.float32),
            "is_intervention": np.arange(n) < 2,
            "observation.state": joints,
            "action": joints,
        }
        if with_success:
            columns["episode_success"] = np.full(n, SUCCESS[episode])
        columns |= {key: [{"bytes": png(5 * i), "path": None} for i in range(n)] for key in CAMERAS.values()}
        pq.write_table(pa.table(columns), root / f"data/chunk-000/episode_{episode:06d}.parquet")
    return root


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "toy.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def spec(config: Path) -> TaskSpec:
    return load_task(str(config))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def test_imagined_frames_imitate_the_recorded_future(data: Path, spec: TaskSpec) -> None:
    dataset = open_dataset(data, spec)
    windows = Windows(dataset, spec, episodes=[0, 2])
    dynamics = FrameCountingDynamics(spec)
    calls: list[int] = []
    imagined = imagine_recorded_chunks(dynamics, windows, 6, seed=0, batch=4, on_chunk=calls.append)
    assert calls == [4, 6]
    assert imagined.frames.shape == (12, 2, 16, 24, 3)
    assert set(dataset.episode_of(imagined.index)) <= {0, 2}
    # The first counter of the fake dynamics is the start frame's colour plus control steps.
    frame = imagined.index - dataset.starts[dataset.episode_of(imagined.index)]
    steps = np.tile([2, 4], 6)
    assert imagined.frames[:, 0, 0, 0, 0].tolist() == (5 * (frame - steps) + steps).tolist()
    again = imagine_recorded_chunks(dynamics, windows, 6, seed=0, batch=1)
    assert np.array_equal(again.frames, imagined.frames)
    latents = imagine_recorded_chunks(dynamics, windows, 2, seed=0, latents=True)
    assert latents.frames.shape == (4, 2, 3, 1, 1)
    assert latents.frames.dtype == np.float16


def test_latents_of_a_dataset(data: Path, spec: TaskSpec) -> None:
    dataset = open_dataset(data, spec)
    latents = LatentDataset(dataset, FrameCountingDynamics(spec), "counting", batch=7)
    assert latents.frames([0, 3, 15]).shape == (3, 2, 3, 1, 1)
    assert latents.frames([0, 3, 15])[:, 0, 0, 0, 0].tolist() == [0, 15, 5]
    assert latents.success.tolist() == list(SUCCESS)
    assert np.array_equal(latents.column("progress"), dataset.column("progress"))


def test_train_and_label(
    data: Path, config: Path, spec: TaskSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--task", str(config), "--device", "cpu"]
    run = tmp_path / "run"
    assert main(["train", "value", "--data", str(data), *common, "--out", str(run), "--steps", "3"]) == 0
    assert json.loads((run / "metrics.json").read_text())["steps"] == 3
    model = ValueModel.from_pretrained(run / "model")
    assert model.input_shape.cameras == ("head", "wrist")

    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert main(["label", str(data), "--value", str(run / "model"), "--tag", "v1", "--pictures", "1", *common]) == 0
    assert {path: path.read_bytes() for path in before} == before
    dataset = open_dataset(data, spec)
    values, advantages = read_values(dataset, "v1"), read_advantages(dataset, "v1")
    frames = dataset.frames(np.arange(dataset.num_frames))
    expected = model.estimate(torch.from_numpy(frames)[:, None], dataset.prompts(np.arange(len(frames)))).value[:, 0]
    assert values["return"] == pytest.approx(expected.numpy(), abs=1e-5)
    assert set(values["prompt"]) == {"Do it."}
    corrected = dataset.column("is_intervention")
    assert (advantages["advantage_continuous"][corrected] == 1).all()
    assert advantages["advantage"][corrected].all()
    assert np.array_equal(advantages["forced"], corrected)
    free = ~corrected
    assert np.array_equal(advantages["advantage_continuous"][free], advantages["advantage_measured"][free])
    start = int(dataset.starts[1])
    value = values["return"]
    expected_advantage = value[start + 1 : start + 5].mean() - value[start]
    assert advantages["advantage_measured"][start] == pytest.approx(expected_advantage, abs=1e-6)
    assert (data / "meta/values_v1/episode_000000.png").is_file()

    arguments = ["--value", str(run / "model"), "--tag", "demo", "--demonstrations", "--pictures", "0"]
    assert main(["label", str(data), *arguments, *common]) == 0
    assert read_advantages(dataset, "demo")["advantage"].all()
    assert "positive" in capsys.readouterr().out


def test_success_is_not_guessed(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "expert_success", with_success=False)
    arguments = ["train", "value", "--data", str(data), "--task", str(config), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert "episode_success" in capsys.readouterr().err


def test_latents_need_a_dynamics_model(
    data: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "value", "--data", str(data), "--task", str(config), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--imagined", "4"]) == 2
    assert "--dynamics" in capsys.readouterr().err
