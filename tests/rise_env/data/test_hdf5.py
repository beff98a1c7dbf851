"""HDF5 episodes become a LeRobot v3.0 dataset that reads back as it was."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rise_agents.cli.main import main
from rise_env.data import DatasetError, open_dataset
from rise_env.data.hdf5 import convert_hdf5, hdf5_spec, inspect_episodes
from rise_env.data.hdf5_episode import open_episode
from tests.rise_env.data.conftest import write_video


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
    qpos = np.arange(length * dim, dtype=np.float32).reshape(length, dim) / 1000
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file["observations/qpos"], file["action"] = qpos, qpos + 0.001
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
    np.testing.assert_allclose(dataset.action, dataset.state + 0.001, atol=1e-6)
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


def spec_and_outcomes(path: Path, **options: Any) -> tuple[Any, dict[str, str], list[bool | None]]:
    """What `rise convert hdf5` finds before it writes."""
    keys = options.pop("keys", {})
    spec, sources = hdf5_spec(
        [path], "set", **{"prompt": "Do it.", "layout": "piper_bimanual", "fps": 20, "keys": keys, **options}
    )
    return spec, sources, inspect_episodes([path], spec, sources, keys, None)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [("False", False), (b"fail", False), ("no", False), ("SUCCESS", True), (b"yes", True), (True, True), (0, False),
     (np.float32(1), True), (np.array([False]), False), (np.array(b"no"), False), (np.ones((2, 1)), True), (None, None),
     (np.array([b"fail", b"yes"]), True), (np.zeros(2, np.uint8), False), (np.array([False, True, True]), True)],
)  # fmt: skip
def test_outcomes(tmp_path: Path, value: Any, outcome: bool | None) -> None:
    """As an attribute and as a dataset; of several values, one a step, the last counts."""
    h5py = pytest.importorskip("h5py")
    path = episode(tmp_path / "e.hdf5", 2, **({} if value is None else {"success": value}))
    assert spec_and_outcomes(path)[2] == [outcome]
    if value is not None:
        with h5py.File(path, "a") as file:
            del file.attrs["success"]
            file["success"] = value
        assert spec_and_outcomes(path)[2] == [outcome]


@pytest.mark.parametrize("values", [[True, False], [0, 1, 0], ["yes", "no"]])
def test_a_success_that_does_not_last_is_no_outcome(tmp_path: Path, values: list[Any]) -> None:
    with pytest.raises(DatasetError, match=r"attribute 'success': success ends at step . of .*--failure"):
        spec_and_outcomes(episode(tmp_path / "e.hdf5", 2, success=values))


@pytest.mark.parametrize("value", [float("nan"), "maybe", 2, "", np.array([True, float("nan")]), np.zeros(0)])
def test_what_is_no_outcome(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DatasetError, match=r"attribute 'success'.*: episode_success is .*expected True or False"):
        spec_and_outcomes(episode(tmp_path / "e.hdf5", 2, success=value))


def pictures(path: Path, camera: str, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    with open_episode(path, {}) as one:
        return np.stack(list(one.pictures(camera).frames(size))).astype(int)


def test_forms_of_pictures(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    path = episode(tmp_path / "e.hdf5", 3)
    images = np.stack([smooth(step) for step in range(3)])
    (tmp_path / "frames").mkdir()
    for step, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"frames/{step}.png")
    with h5py.File(path, "a") as file:
        folder = file["observations/images"]
        folder["planes"] = images.transpose(0, 3, 1, 2)
        folder["texts"] = np.array([jpeg(image).tobytes() for image in images], "S")
        folder["group/color"], folder["group/depth"] = images, np.zeros((3, 32, 48), np.uint16)
        folder["only/anything"] = images
        folder["paths"] = np.array([f"frames/{step}.png".encode() for step in range(3)])
        folder["either/left"] = folder["either/right"] = images
        folder["floats"] = images / 255
        folder["short"] = images[:2]
        folder["mixed"] = h5py.Empty("u1")
        mixed = folder.create_dataset("sizes", (3,), h5py.vlen_dtype(np.uint8))
        for step, image in enumerate(images):
            mixed[step] = jpeg(image[: 32 - 8 * step])
    for camera in ("planes", "texts", "group", "only", "paths", "group/color", "/observations/images/planes"):
        assert np.abs(pictures(path, camera) - images).max() <= 4, camera
    wrong = {
        "either": "is a group with left, right.*--camera NAME=",
        "floats": "expected uint8",
        "nowhere": "no camera",
        "short": "different numbers of steps",
        "mixed": "a group or empty",
        "sizes": "24x48 pixels.*32x48",
    }
    for camera, match in wrong.items():
        with pytest.raises(DatasetError, match=match):
            pictures(path, camera)


def test_kai0_has_videos_beside(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    path = episode(tmp_path / "episode_3.hdf5", 4)
    with h5py.File(path, "a") as file:
        del file["observations/images"]
    for camera in ("cam_high", "cam_right_wrist"):
        write_video(tmp_path / f"video/{camera}/episode_3.mp4", [smooth(step) for step in range(4)], fps=30)
    spec, sources, _ = spec_and_outcomes(path)
    assert sources == {"cam_high": "cam_high", "cam_right_wrist": "cam_right_wrist"}
    assert spec.image_size == (32, 48)
    assert np.abs(pictures(path, "cam_high") - [smooth(step) for step in range(4)]).max() <= 6
    write_video(tmp_path / "video/cam_high/episode_3.mp4", [smooth(0)] * 3)
    with pytest.raises(DatasetError, match=r"different numbers of steps: observations/qpos 4, .*episode_3.mp4 3"):
        spec_and_outcomes(path)


def test_agilex(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    path = tmp_path / "episode0/data.hdf5"
    (path.parent / "camera/color/front").mkdir(parents=True)
    arms = {"puppetLeft": 0.01, "puppetRight": 0.02, "masterLeft": 0.03, "masterRight": 0.04}
    with h5py.File(path, "w") as file:
        for name, value in arms.items():
            file[f"arm/jointStatePosition/{name}"] = np.full((2, 7), value)
        file["camera/color/front"] = np.array([b"camera/color/front/0.jpg", b"camera/color/front/1.jpg"])
        file["timestamp"], file["size"] = np.arange(2.0), 2
    for step in range(2):
        Image.fromarray(smooth(step)).save(path.parent / f"camera/color/front/{step}.jpg", quality=95, subsampling=0)
    spec, _, _ = spec_and_outcomes(tmp_path)
    assert list(spec.cameras) == ["front"]
    assert np.abs(pictures(path, "front") - [smooth(0), smooth(1)]).max() <= 4
    with open_episode(path, {}) as one:
        np.testing.assert_allclose(one.state[0], [0.01] * 7 + [0.02] * 7)
        np.testing.assert_allclose(one.action[0], [0.03] * 7 + [0.04] * 7)
    keys = {"state": "arm/jointStatePosition/puppetRight,arm/jointStatePosition/puppetLeft"}
    with open_episode(path, keys) as one:
        np.testing.assert_allclose(one.state[0], [0.02] * 7 + [0.01] * 7)


def test_units(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py comes with the hdf5 extra")
    path = episode(tmp_path / "e.hdf5", 2)
    for value, match in ((45.0, "degrees would fit"), (30_000.0, "0.001 degrees would fit")):
        with h5py.File(path, "a") as file:
            file["observations/qpos"][1, 3] = value
        if value < 1000:
            with pytest.warns(UserWarning, match=match):
                spec_and_outcomes(path)
        else:
            with pytest.raises(DatasetError, match=rf"e.hdf5, step 1: observations/qpos: 'left_joint4' .*{match}"):
                spec_and_outcomes(path)


def test_a_full_disk_is_not_the_fault_of_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """LeRobot's writer logs that pictures cannot be written, and fails when it looks for them."""

        def add_frame(self, _: Any) -> None: ...

        def save_episode(self, **_: Any) -> None:
            raise FileNotFoundError(2, "No such file or directory", "frame-000007.png")

    path = episode(tmp_path / "e.hdf5", 2)
    spec, sources = hdf5_spec([path], "set", prompt="Do it.", layout="piper_bimanual", fps=20)
    monkeypatch.setattr("rise_env.data.hdf5._create", lambda *_: Full())
    with pytest.raises(FileNotFoundError, match=r"frame-000007\.png"):
        convert_hdf5([path], tmp_path / "new" / "set", spec, sources=sources)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*new/set'"):
        convert_hdf5([path], tmp_path / "new" / "set", spec, sources=sources)
    assert [one.name for one in tmp_path.iterdir()] == ["e.hdf5"]
