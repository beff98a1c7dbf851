"""Small LeRobot datasets written by hand, v3.0 and v2.1, whose pixels and joints tell episode, frame and view."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rise_env.data.check.reading import Motion
from rise_env.tasks import JointLayout, TaskSpec

JOINTS = ("left", "right", "gripper")
FPS = 10
SIZE = (16, 24)


def layout() -> JointLayout:
    return JointLayout("toy", JOINTS, ("rad", "rad", "m"), (-50.0,) * 3, (50.0,) * 3)


def toy_spec(**changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "name": "toy",
        "prompt": "Do it.",
        "cameras": {"head": "observation.images.top.head", "wrist": "observation.images.wrist"},
        "image_size": SIZE,
        "layout": layout(),
        "fps": FPS,
        "chunk": 4,
        "stride": 2,
        "history": 3,
        "execute": 2,
        "max_seconds": 5.0,
    }
    return TaskSpec(**{**values, **changes})


def picture(episode: int, frame: int, view: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Left half: the frame. Right half: episode and view."""
    image = np.empty((*size, 3), np.uint8)
    image[:, : size[1] // 2] = 20 + 5 * frame
    image[:, size[1] // 2 :] = (30 + 40 * episode + 20 * view) % 256
    return image


def write_video(path: Path, images: Sequence[np.ndarray], codec: str = "libx264", fps: int = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.options = {"crf": "4", "g": "5", **({"bf": "2"} if codec == "libx264" else {"preset": "12"})}
        if codec == "libsvtav1":
            stream.options = {**stream.options, "svtav1-params": "lp=1"}
        stream.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_table(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            arrays[name] = pa.array(values)
    pq.write_table(pa.table(arrays), path)


@dataclass
class Toy:
    """What a dataset is to hold, and where it was written."""

    root: Path
    lengths: tuple[int, ...] = (7, 12, 9)
    version: str = "v3.0"
    tasks: tuple[str, ...] = ("Do it.", "Undo it.")
    success: tuple[bool, ...] | None = (True, False, True)
    names: Any = field(default_factory=lambda: list(JOINTS))
    cameras: tuple[str, ...] = ("observation.images.top.head", "observation.images.wrist")
    size: tuple[int, int] = SIZE
    codec: str = "libx264"
    episodes_per_file: int = 2
    images_in_parquet: bool = False

    def columns(self, episode: int) -> dict[str, Any]:
        n, first = self.lengths[episode], sum(self.lengths[:episode])
        step = np.arange(n, dtype=np.float32)
        state = np.stack([step, np.full(n, episode, np.float32), step / 100], 1)
        data: dict[str, Any] = {"observation.state": state, "action": state + np.float32(0.5)}
        if self.success is not None:
            data["episode_success"] = [self.success[episode]] * n
        if self.images_in_parquet:
            for view, key in enumerate(self.cameras):
                data[key] = [{"bytes": png(picture(episode, i, view, self.size)), "path": None} for i in range(n)]
        data |= {
            "progress": step / n,
            "is_intervention": [bool(i % 3 == 1) for i in range(n)],
            "timestamp": step / FPS,
            "frame_index": np.arange(n),
            "episode_index": np.full(n, episode),
            "index": first + np.arange(n),
            "task_index": np.full(n, episode % len(self.tasks)),
        }
        return data

    def info(self) -> dict[str, Any]:
        v3 = self.version == "v3.0"
        kind = "image" if self.images_in_parquet else "video"
        features: dict[str, Any] = {
            key: {"dtype": kind, "shape": [*self.size, 3], "names": ["height", "width", "channels"]}
            for key in self.cameras
        }
        for key in ("observation.state", "action"):
            features[key] = {"dtype": "float32", "shape": [len(JOINTS)], "names": self.names}
        scalars = {"progress": "float32", "is_intervention": "bool", "timestamp": "float32"}
        scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
        if self.success is not None:
            scalars["episode_success"] = "bool"
        features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()}
        return {
            "codebase_version": self.version,
            "fps": FPS,
            "robot_type": "toy",
            "features": features,
            "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths),
            "chunks_size": 1000,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
            if v3
            else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            if v3
            else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        }

    def write(self) -> Path:
        meta = self.root / "meta"
        meta.mkdir(parents=True)
        (meta / "info.json").write_text(json.dumps(self.info()))
        (self.write_v3 if self.version == "v3.0" else self.write_v2)()
        return self.root

    def images(self, episode: int, view: int) -> list[np.ndarray]:
        return [picture(episode, i, view, self.size) for i in range(self.lengths[episode])]

    def write_v3(self) -> None:
        count, per = len(self.lengths), self.episodes_per_file
        write_table(self.root / "meta/tasks.parquet", {"task_index": range(len(self.tasks)), "task": self.tasks})
        ends = np.cumsum(self.lengths)
        rows: dict[str, Any] = {
            "episode_index": range(count),
            "tasks": [[self.tasks[i % len(self.tasks)]] for i in range(count)],
            "length": self.lengths,
            "data/chunk_index": [0] * count,
            "data/file_index": [i // per for i in range(count)],
            "dataset_from_index": ends - self.lengths,
            "dataset_to_index": ends,
            "stats/action/min": [[0.0]] * count,
        }
        for view, key in enumerate(self.cameras if not self.images_in_parquet else ()):
            rows[f"videos/{key}/chunk_index"] = [0] * count
            rows[f"videos/{key}/file_index"] = [i // per for i in range(count)]
            before = [sum(self.lengths[i // per * per : i]) for i in range(count)]
            rows[f"videos/{key}/from_timestamp"] = [b / FPS for b in before]
            rows[f"videos/{key}/to_timestamp"] = [(b + n) / FPS for b, n in zip(before, self.lengths, strict=True)]
            for file in range(-(-count // per)):
                members = range(file * per, min(count, (file + 1) * per))
                images = [image for e in members for image in self.images(e, view)]
                write_video(self.root / f"videos/{key}/chunk-000/file-{file:03d}.mp4", images, self.codec)
        write_table(self.root / "meta/episodes/chunk-000/file-000.parquet", rows)
        for file in range(-(-count // per)):
            parts = [self.columns(e) for e in range(file * per, min(count, (file + 1) * per))]
            joined = {
                name: np.concatenate([p[name] for p in parts])
                if isinstance(parts[0][name], np.ndarray)
                else [value for p in parts for value in p[name]]
                for name in parts[0]
            }
            write_table(self.root / f"data/chunk-000/file-{file:03d}.parquet", joined)

    def write_v2(self) -> None:
        texts = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(self.tasks)]
        (self.root / "meta/tasks.jsonl").write_text("\n".join(texts))
        rows = [
            json.dumps({"episode_index": i, "tasks": [self.tasks[i % len(self.tasks)]], "length": n})
            for i, n in enumerate(self.lengths)
        ]
        (self.root / "meta/episodes.jsonl").write_text("\n".join(rows) + "\n")
        for episode in range(len(self.lengths)):
            write_table(self.root / f"data/chunk-000/episode_{episode:06d}.parquet", self.columns(episode))
            for view, key in enumerate(self.cameras if not self.images_in_parquet else ()):
                path = self.root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4"
                write_video(path, self.images(episode, view), self.codec)


def png(image: np.ndarray) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test touches the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def new_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes a dataset; arguments are those of `Toy`."""

    def make(name: str = "set", **changes: Any) -> Path:
        return Toy(tmp_path / name, **changes).write()

    return make


@pytest.fixture(scope="session")
def v3_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3.0 dataset, not to be changed."""
    return Toy(tmp_path_factory.mktemp("v3") / "toy").write()


@pytest.fixture(scope="session")
def v2_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same content as v2.1, with nested names and AV1 video, not to be changed."""
    root = tmp_path_factory.mktemp("v2") / "toy"
    return Toy(root, version="v2.1", names=[list(JOINTS)], codec="libsvtav1", size=(64, 96)).write()


@pytest.fixture
def spec() -> Callable[..., TaskSpec]:
    """Makes the task of these datasets; arguments are fields to change."""
    return toy_spec


@pytest.fixture
def expected_picture() -> Callable[..., np.ndarray]:
    """The picture that was encoded for (episode, frame, view)."""
    return picture


@pytest.fixture(scope="session")
def recording() -> Callable[..., Motion]:
    """Makes joint values of an arm whose four joints follow smooth commands after three frames of 20 Hz, with the noise
    of real encoders; the last one is a gripper.
    """
    joints, lag = ("shoulder", "elbow", "wrist", "gripper"), 3

    def make(seed: int = 0, episodes: int = 24) -> Motion:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(65, 95, episodes)
        states, actions = [], []
        for length in lengths.tolist():
            knots = rng.normal(0, 0.6, (6, 4))
            knots[:, 3] = rng.choice([0.0, 0.07], 6)
            at = np.linspace(0, 5, length + lag)
            path = np.stack([np.interp(at, range(6), knots[:, i]) for i in range(4)], 1)
            path = np.apply_along_axis(lambda x: np.convolve(np.pad(x, 4, "edge"), np.ones(9) / 9, "valid"), 0, path)
            actions.append(path[lag:])
            states.append(path[:length] + rng.normal(0, [1e-3, 1e-3, 1e-3, 1e-5], (length, 4)))
        state, action = (np.concatenate(x).astype(np.float32) for x in (states, actions))
        times = np.concatenate([np.arange(n) / 20.0 for n in lengths])
        return Motion(20.0, lengths, np.arange(episodes), state, action, joints, joints, times)

    return make
