"""HDF5 episodes become a LeRobot v3.0 dataset that reads back as it was."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rise_agents.cli.main import main
from rise_env.data import open_dataset


def smooth(step: int, shift: int = 0) -> np.ndarray:
    """Red rises with the step; blue is constant: swapped channels show."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 40 + 20 * step + shift, 120, 20
    return image


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def episode(path: Path, length: int = 5, kind: str = "raw", dim: int = 14, **attributes: Any) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    qpos = np.arange(length * dim, dtype=np.float32).reshape(length, dim) / 100
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file["observations/qpos"], file["action"] = qpos, qpos + 1
        for shift, camera in enumerate(("cam_high", "cam_left")):
            images = [smooth(step, 5 * shift) for step in range(length)]
            where = f"observations/images/{camera}"
            if kind == "raw":
                file[where] = np.stack(images)
            elif kind == "padded":
                codes = [jpeg(image) for image in images]
                size = max(map(len, codes)) + 7
                file[where] = np.stack([np.pad(code, (0, size - len(code))) for code in codes])
            else:
                node = file.create_dataset(where, (length,), h5py.vlen_dtype(np.uint8))
                for step, image in enumerate(images):
                    node[step] = jpeg(image)
    return path


BASE = ["--prompt", "Fold the box.", "--layout", "piper_bimanual", "--fps", "20"]


@pytest.mark.parametrize("kind", ["raw", "padded", "variable"])
def test_convert(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for number, length in enumerate((5, 3)):
        episode(tmp_path / f"in/episode_{number}.hdf5", length, kind, success=number == 0)
    out = tmp_path / "out"
    assert main(["convert", "hdf5", str(tmp_path / "in"), "--out", str(out), *BASE]) == 0
    assert "2 episodes, 8 frames at 20 Hz, cameras cam_high, cam_left" in capsys.readouterr().out
    dataset = open_dataset(out)
    assert (out / "data/chunk-000/file-000.parquet").is_file()  # v3.0
    assert dataset.lengths.tolist() == [5, 3]
    assert dataset.success.tolist() == [True, False]
    assert dataset.spec.prompt == "Fold the box."
    assert dataset.state.shape == (8, 14)
    np.testing.assert_allclose(dataset.action, dataset.state + 1, atol=1e-6)
    frames = dataset.frames(np.arange(8)).astype(int)
    for index in range(8):
        for view in range(2):
            expected = smooth(dataset.locate(index)[1], 5 * view)
            assert np.abs(frames[index, view] - expected).max() <= 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "in", "out"]


def test_task_cameras_colours_and_size(tmp_path: Path) -> None:
    path = episode(tmp_path / "e.hdf5", 3)
    command = ["convert", "hdf5", str(path), "--out", str(tmp_path / "out"), *BASE, "--failure"]
    options = ["--camera", "head=cam_left", "--colors", "bgr", "--image-size", "16", "24"]
    assert main([*command, *options]) == 0
    dataset = open_dataset(tmp_path / "out")
    assert dataset.spec.cameras == {"head": "observation.images.head"}
    assert dataset.success.tolist() == [False]
    frame = dataset.frames(0)[0].astype(int)
    assert frame.shape == (16, 24, 3)
    assert np.abs(frame - smooth(0, 5)[:16, :24, ::-1]).max() <= 3


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"dim": 13}, [], "observations/qpos has shape (5, 13), expected (steps, 14): layout 'piper_bimanual'"),
        ({}, ["--camera", "head=cam_absent"], "no camera 'cam_absent'. Its cameras: cam_high, cam_left"),
        ({}, ["--camera", "head"], "is not of the form NAME=SOURCE"),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, change: dict, options: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = episode(tmp_path / "e.hdf5", **change)
    assert main(["convert", "hdf5", str(path), "--out", str(tmp_path / "out"), *BASE, *options]) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_arguments_and_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = episode(tmp_path / "e.hdf5")
    assert main(["convert", "hdf5", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "prompt, layout, fps must be given, or a task" in capsys.readouterr().err
    assert main(["convert", "hdf5", str(path), "--out", str(tmp_path), *BASE]) == 2
    assert "exists already" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:100])
    assert main(["convert", "hdf5", str(path), "--out", str(tmp_path / "out"), *BASE]) == 2
    assert "cannot be read as HDF5" in capsys.readouterr().err


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "e.hdf5").write_bytes(b"")
    assert main(["convert", "hdf5", str(tmp_path / "e.hdf5"), "--out", str(tmp_path / "out"), *BASE]) == 2
    assert "pip install 'rise-robotics[hdf5]'" in capsys.readouterr().err
