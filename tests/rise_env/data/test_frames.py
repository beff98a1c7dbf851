"""Decoded frames: the right ones, decoded once, whoever asks and whoever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import av
import numpy as np
import pytest

from rise_env.data import Dataset, DatasetError, frames, open_dataset
from rise_env.data.cache import Step, cached_array
from rise_env.data.video import resize
from rise_env.tasks import TaskSpec

Make = Callable[..., Path]
Spec = Callable[..., TaskSpec]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the videos as they are decoded."""
    names: list[str] = []
    original = frames.decode_video

    def counting(path: Path, *args: object) -> object:
        names.append(path.name)
        return original(path, *args)

    monkeypatch.setattr(frames, "decode_video", counting)
    return names


def assert_frames(dataset: Dataset, picture: Callable[..., np.ndarray], tolerance: int, margin: int = 0) -> None:
    frames = dataset.frames(np.arange(dataset.num_frames))
    assert frames.dtype == np.uint8
    assert frames.shape == (28, 2, 16, 24, 3)
    for index in range(dataset.num_frames):
        for view in range(2):
            difference = np.abs(frames[index, view].astype(int) - picture(*dataset.locate(index), view))
            difference = np.delete(difference, range(12 - margin, 12 + margin), axis=1)
            assert difference.max() <= tolerance, (index, view)


def test_v3_frames_are_those_recorded(v3_root: Path, spec: Spec, expected_picture: Callable) -> None:
    assert_frames(open_dataset(v3_root, spec()), expected_picture, 2)


def test_v2_av1_frames_are_resized(v2_root: Path, spec: Spec, expected_picture: Callable) -> None:
    assert_frames(open_dataset(v2_root, spec()), expected_picture, 4, margin=1)


def test_images_in_parquet(new_dataset: Make, spec: Spec, expected_picture: Callable) -> None:
    assert_frames(open_dataset(new_dataset(images_in_parquet=True), spec()), expected_picture, 0)


@pytest.mark.slow
def test_lerobot_reads_the_same_pixels(tmp_path: Path) -> None:
    """A dataset by our recorder: bit for bit what lerobot decodes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from rise_env.tasks import load_task
    from rise_robot.recording import EpisodeRecorder

    task = load_task("brick_sorting", "tiny")
    rng = np.random.default_rng(0)
    with EpisodeRecorder(tmp_path / "set", task) as recorder:
        for seed, length in enumerate((5, 8)):
            for step in range(length):
                images = {c: rng.integers(0, 255, (*task.image_size, 3), dtype=np.uint8) for c in task.cameras}
                vector = np.full(task.layout.dim, step, np.float32)
                recorder.add_frame(images=images, state=vector, action=vector, progress=0.5, subgoal=0.0)
            recorder.end_episode(success=bool(seed), failure_mode="x", seed=seed, operator="test")
    dataset = open_dataset(tmp_path / "set", task)
    theirs = LeRobotDataset("rise/set", root=tmp_path / "set", video_backend="pyav", return_uint8=True)
    assert dataset.num_frames == len(theirs) == 13
    assert dataset.success.tolist() == [False, True]
    for index in range(13):
        item = theirs[index]
        ours = dataset.frames(index)
        for view, key in enumerate(task.cameras.values()):
            np.testing.assert_array_equal(ours[view], item[key].permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(dataset.state[index], item["observation.state"].numpy())


def test_views_follow_the_spec(v3_root: Path, spec: Spec) -> None:
    both, wrist = open_dataset(v3_root, spec()), open_dataset(v3_root, spec(cameras={"w": "observation.images.wrist"}))
    np.testing.assert_array_equal(wrist.frames([3])[:, 0], both.frames([3])[:, 1])


def test_every_video_is_decoded_once(v3_root: Path, spec: Spec, decoded: list[str]) -> None:
    reports: list[tuple[int, int]] = []
    dataset = open_dataset(v3_root, spec(), progress=lambda done, total: reports.append((done, total)))
    assert decoded == []
    dataset.frames([0])
    assert sorted(decoded) == ["file-000.mp4"] * 2 + ["file-001.mp4"] * 2
    assert reports[-1] == (56, 56)
    assert [done for done, _ in reports] == list(range(1, 57))
    dataset.frames([27])
    open_dataset(v3_root, spec(chunk=2)).frames(np.arange(28))
    assert len(decoded) == 4
    open_dataset(v3_root, spec(image_size=(8, 12))).prepare()
    assert len(decoded) == 8


def test_index_shapes_and_ranges(v3_root: Path, spec: Spec) -> None:
    dataset = open_dataset(v3_root, spec())
    assert dataset.frames(np.zeros((2, 3), np.int64)).shape == (2, 3, 2, 16, 24, 3)
    assert dataset.frames(np.array([], np.int64)).shape == (0, 2, 16, 24, 3)
    for wrong in (-1, 28):
        with pytest.raises(DatasetError, match=rf"frame index {wrong} is outside \[0, 28\)"):
            dataset.frames([0, wrong])
    with pytest.raises(DatasetError, match="must be integers, got float64"):
        dataset.frames([0.0])


def test_cache_directory(v3_root: Path, spec: Spec, tmp_path: Path) -> None:
    open_dataset(v3_root, spec()).prepare()
    assert len(list((tmp_path / "cache/rise/frames").glob("*.npy"))) == 1
    open_dataset(v3_root, spec(), cache_dir=tmp_path / "mine").prepare()
    assert len(list((tmp_path / "mine/frames").glob("*.npy"))) == 1


def test_a_changed_video_is_decoded_again(new_dataset: Make, spec: Spec, decoded: list[str]) -> None:
    root = new_dataset()
    before = open_dataset(root, spec()).frames([0])
    head, wrist = (root / f"videos/{key}/chunk-000/file-000.mp4" for key in spec().cameras.values())
    os.replace(wrist, head.with_suffix(".aside"))
    os.replace(head, wrist)
    os.replace(head.with_suffix(".aside"), head)
    os.utime(head)
    after = open_dataset(root, spec()).frames([0])
    assert len(decoded) == 8
    np.testing.assert_array_equal(after, before[:, ::-1])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def cut_content(path: Path) -> None:
    """A video whose index is whole and whose frames are cut off: index first, as for streaming."""
    with av.open(str(path)) as source, av.open(str(path) + ".mp4", "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    os.replace(str(path) + ".mp4", path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.9)])


def shorten(path: Path, frames: int) -> None:
    """Rewrite a video with fewer frames."""
    with av.open(str(path)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:frames]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = images[0].shape[:2]
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (Path.unlink, r"{name} \(episode.*1.*\) is missing"),
        (cut, r"{name} \(episode.*\) .*damaged or cut short"),
        (lambda path: path.write_bytes(b"not a video" * 99), r"{name} \(episode.*1.*\) is damaged"),
        (cut_content, r"{name}.*episode.*1.*(cut short|could be decoded|found)"),
        (lambda path: shorten(path, 11), r"{name}: episode 1 should have 12 frames from .* found (4|11)\."),
    ],
    ids=["missing", "truncated", "garbage", "frames cut off", "too short"],
)
def test_damaged_video(new_dataset: Make, spec: Spec, version: str, damage: Callable, match: str) -> None:
    root = new_dataset(version=version)
    key = "observation.images.wrist"
    v3, v2 = f"videos/{key}/chunk-000/file-000.mp4", f"videos/chunk-000/{key}/episode_000001.mp4"
    path = root / (v3 if version == "v3.0" else v2)
    damage(path)
    dataset = open_dataset(root, spec())
    assert len(dataset.state) == 28
    for _ in range(2):
        with pytest.raises(DatasetError, match=match.format(name=path.name)):
            dataset.frames([0])


@pytest.mark.slow
def test_concurrent_openers(v3_root: Path, spec: Spec, tmp_path: Path) -> None:
    code = (
        "import sys, time; from rise_env.data import open_dataset; dataset = open_dataset(sys.argv[1]);"
        "print(flush=True); sys.stdin.readline(); print(dataset.frames(range(28)).astype(int).sum())"
    )
    command = [sys.executable, "-c", code, str(v3_root)]
    workers = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)]
    for worker in workers:
        worker.stdout.readline()  # all are ready
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    expected = open_dataset(v3_root, spec()).frames(np.arange(28)).astype(int).sum()
    for worker in workers:
        output, errors = worker.communicate(timeout=300)
        assert output.strip() == str(expected), errors
    assert len(list((tmp_path / "cache/rise/frames").glob("*.npy"))) == 1


def test_goes_on_where_a_killed_process_stopped(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    ran: list[int] = []

    def steps(kill_at: int | None) -> list[Step]:
        def step(number: int) -> Step:
            def run(array: np.ndarray, advance: Callable[[int], None]) -> None:
                if number == kill_at:
                    raise KeyboardInterrupt
                ran.append(number)
                array[number] = number + 1
                advance(1)

            return Step(str(number), 1, run)

        return [step(number) for number in range(4)]

    with pytest.raises(KeyboardInterrupt):
        cached_array(path, (4, 2), np.uint8, steps(2))
    assert not path.exists()
    reports: list[tuple[int, int]] = []
    array = cached_array(path, (4, 2), np.uint8, steps(None), lambda *report: reports.append(report))
    assert ran == [0, 1, 2, 3]
    assert reports == [(3, 4), (4, 4)]
    assert array[:, 0].tolist() == [1, 2, 3, 4]
    assert {p.name for p in tmp_path.iterdir()} == {"array.npy", "array.lock"}
    path.write_bytes(path.read_bytes()[:-3])  # not what was written: made again
    assert cached_array(path, (4, 2), np.uint8, steps(None))[:, 1].tolist() == [1, 2, 3, 4]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DatasetError, match=r"no room for 0\.00 GB in the cache .*XDG_CACHE_HOME"):
        cached_array(tmp_path / "a.npy", (4,), np.uint8, [])


def test_latents_are_made_once(v3_root: Path, spec: Spec) -> None:
    dataset = open_dataset(v3_root, spec())
    calls: list[int] = []

    def encode(index: np.ndarray) -> np.ndarray:
        calls.append(len(index))
        return dataset.frames(index).mean((2, 3, 4))

    first = dataset.cached("mean-v1", (2,), np.float32, encode, batch=10)
    assert calls == [10, 10, 8]
    np.testing.assert_array_equal(dataset.cached("mean-v1", (2,), np.float32, encode), first)
    np.testing.assert_allclose(first, dataset.frames(np.arange(28)).mean((2, 3, 4)), rtol=1e-6)
    assert calls == [10, 10, 8]
    dataset.cached("mean-v2", (2,), np.float32, encode)
    assert calls == [10, 10, 8, 28]


def test_resize_is_an_area_average() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 80, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    expected = image.reshape(12, 4, 20, 4, 3).mean((1, 3))
    assert np.abs(resize(frame, (12, 20)) - expected).max() <= 3
    np.testing.assert_array_equal(resize(frame, (48, 80)), image)
