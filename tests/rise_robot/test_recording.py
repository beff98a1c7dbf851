"""EpisodeRecorder: what goes in comes out, and a killed process loses no finished episode."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import pkgutil
import re
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from rise_env.tasks import TaskSpec, load_task
from rise_robot import recording
from rise_robot.recording import EpisodeRecord, EpisodeRecorder, RecordingError, check_dataset, merge_datasets
from rise_robot.recording.episode import EpisodeFormat

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

PENDING = ".recording/episode-*"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach the hub, and none writes to the user's cache of datasets."""
    import datasets
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", refuse)
    monkeypatch.setattr("lerobot.datasets.dataset_metadata.snapshot_download", refuse)
    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.snapshot_download", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def small_spec(**changes: object) -> TaskSpec:
    spec = load_task("brick_sorting", "small")
    cameras = {camera: spec.cameras[camera] for camera in ("head", "left_wrist")}
    return dataclasses.replace(spec, **{"image_size": (16, 24), "cameras": cameras, **changes})


def frame(spec: TaskSpec, seed: int, step: int) -> dict:
    """A frame that tells its seed and step: smooth images, distinct vectors."""
    height, width = spec.image_size
    ramp = np.linspace(0, 100, height * width).reshape(height, width, 1)
    images = {
        camera: (ramp + np.array([40 * number, 12 * seed, 10 * step]) % 150).astype(np.uint8)
        for number, camera in enumerate(spec.cameras)
    }
    vector = np.arange(spec.layout.dim, dtype=np.float32) / 10 + seed
    return {
        "images": images,
        "state": vector + np.float32(step),
        "action": -vector - np.float32(step),
        "is_intervention": step == 1,
        "progress": step / 10,
        "subgoal": float(step),
    }


def record(recorder: EpisodeRecorder, seed: int, steps: int = 4, success: bool = True) -> int:
    for step in range(steps):
        recorder.add_frame(**frame(recorder.spec, seed, step))
    mode = "" if success else "dropped"
    return recorder.end_episode(success=success, failure_mode=mode, seed=seed, operator="expert")


def load(root: Path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("rise/test", root=root, video_backend="pyav", return_uint8=True)


def assert_recorded(root: Path, spec: TaskSpec, episodes: list[tuple[int, int]], mean: float = 1.0) -> None:
    """Check that the dataset holds exactly these (seed, steps) episodes, frame by frame, as lerobot reads it."""
    check_dataset(root)
    assert [(r.seed, r.num_frames) for r in recording.read_episode_records(root)] == episodes
    dataset = load(root)
    assert len(dataset) == sum(steps for _, steps in episodes)
    index = 0
    for number, (seed, steps) in enumerate(episodes):
        for step in range(steps):
            item, expected = dataset[index], frame(spec, seed, step)
            assert (item["episode_index"], item["frame_index"], item["index"]) == (number, step, index)
            assert item["task"] == spec.prompt
            np.testing.assert_array_equal(item["observation.state"], expected["state"])
            np.testing.assert_array_equal(item["action"], expected["action"])
            for camera, key in spec.cameras.items():
                image = item[key].numpy().transpose(1, 2, 0).astype(int)
                assert np.abs(image - expected["images"][camera]).mean() < mean  # the conversion of colours
            index += 1


def test_round_trip_and_layout(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        assert record(recorder, seed=3, steps=4) == 0
        assert record(recorder, seed=5, steps=6, success=False) == 1
        assert (recorder.num_episodes, recorder.num_frames) == (2, 10)
    assert_recorded(root, spec, [(3, 4), (5, 6)])
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    meta = {"info.json", "stats.json", "tasks.parquet", "rise_episodes.parquet", "episodes/chunk-000/file-000.parquet"}
    videos = {f"videos/{key}/chunk-000/file-000.mp4" for key in spec.cameras.values()}
    assert files == {f"meta/{name}" for name in meta} | videos | {"data/chunk-000/file-000.parquet"}

    dataset = load(root)
    for key in ("observation.state", "action"):
        spec.layout.check_names(dataset.meta.features[key]["names"], key)
    assert (dataset.meta.fps, dataset.meta.robot_type) == (spec.fps, spec.layout.name)
    rows = dataset.hf_dataset.with_format("numpy")[:]
    assert rows["episode_success"].tolist() == [True] * 4 + [False] * 6
    assert rows["is_intervention"].tolist() == [step == 1 for steps in (4, 6) for step in range(steps)]
    np.testing.assert_allclose(rows["progress"], [step / 10 for steps in (4, 6) for step in range(steps)], atol=1e-6)
    assert rows["subgoal"].tolist() == [float(step) for steps in (4, 6) for step in range(steps)]
    np.testing.assert_allclose(dataset.meta.stats["observation.state"]["min"], frame(spec, 3, 0)["state"], atol=1e-6)
    assert dataset.meta.stats["index"]["max"] == 9
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 2
    assert recording.read_episode_records(root) == [
        EpisodeRecord(0, 4, True, "", 3, "expert", 1),
        EpisodeRecord(1, 6, False, "dropped", 5, "expert", 1),
    ]


def test_resume_appends_and_commits_at_intervals(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec, commit_every=2) as recorder:
        for seed in range(3):
            record(recorder, seed)
        check_dataset(root)
        assert len(recording.read_episode_records(root)) == 2
        assert len(list(root.glob(PENDING))) == 1
    with EpisodeRecorder(root, spec) as recorder:
        assert (recorder.num_episodes, recorder.num_frames) == (3, 12)
        assert record(recorder, 3, steps=2) == 3
    assert_recorded(root, spec, [(0, 4), (1, 4), (2, 4), (3, 2)])
    assert not (root / ".recording").exists()


def test_lerobot_itself_can_resume(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0)
    dataset = LeRobotDataset.resume("rise/test", root=root, video_backend="pyav")
    assert (dataset.meta.total_episodes, dataset.meta.total_frames) == (1, 4)


def test_other_encoder_starts_a_new_video_file(tmp_path: Path) -> None:
    from lerobot.configs import RGBEncoderConfig

    spec, root = small_spec(), tmp_path / "set"
    store = EpisodeRecorder(root, spec)
    record(store, 0)
    encoder = RGBEncoderConfig("h264", "yuv420p", g=2, crf=12, preset="veryfast", extra_options={"bf": 0})
    store._form = EpisodeFormat(spec, encoder, background=True)
    record(store, 1)
    store.close()
    assert_recorded(root, spec, [(0, 4), (1, 4)], mean=4.0)
    assert len(list((root / "videos" / spec.cameras["head"]).rglob("*.mp4"))) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 20}, ["fps", "'10'", "'20'"]),
        ({"image_size": (16, 32)}, ["(16, 24, 3)", "(16, 32, 3)"]),
        ({"cameras": {"head": "observation.images.top_head"}}, ["observation.images.hand_left", "(none)"]),
        ({"prompt": "Close the box."}, ["Pick the bricks", "Close the box."]),
        ({"layout": "renamed"}, ["left_joint1", "j0"]),
    ],
)
def test_other_task_is_refused(tmp_path: Path, change: dict, words: list[str]) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0)
    if change == {"layout": "renamed"}:
        names = tuple(f"j{index}" for index in range(spec.layout.dim))
        change = {"layout": dataclasses.replace(spec.layout, names=names)}
    with pytest.raises(RecordingError) as error:
        EpisodeRecorder(root, dataclasses.replace(spec, **change))
    assert all(word in str(error.value) for word in words)
    assert_recorded(root, spec, [(0, 4)])


def test_bad_frames_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    good = frame(spec, 1, 0)
    images, state = good["images"], good["state"]
    nan = state.copy()
    nan[6] = np.nan
    bad = [
        ({"images": {"head": images["head"]}}, "left_wrist"),
        ({"images": {**images, "top": images["head"]}}, "top"),
        ({"images": {**images, "head": images["head"][:8]}}, r"head.*\(8, 24, 3\).*\(16, 24, 3\)"),
        ({"images": {**images, "head": images["head"].astype(np.float32)}}, "float32.*uint8"),
        ({"images": {**images, "head": None}}, "NoneType"),
        ({"state": nan}, "left_gripper.*nan"),
        ({"state": state.astype(np.float64)}, "float64.*float32"),
        ({"action": state[:7]}, r"\(7,\).*14.*piper_bimanual"),
        ({"action": state.tolist()}, "list"),
        ({"progress": 1.5}, r"1.5.*\[0, 1\]"),
        ({"progress": float("nan")}, "nan"),
        ({"subgoal": 11}, r"\[0, 10\]"),
        ({"subgoal": "3"}, "str"),
        ({"is_intervention": 1}, "True or False"),
    ]
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0)
        with pytest.raises(RecordingError, match="0 frames"):
            recorder.end_episode(success=True, failure_mode="", seed=0, operator="x")
        recorder.add_frame(**good)
        for change, message in bad:
            with pytest.raises(RecordingError, match=f"(?s){message}"):
                recorder.add_frame(**{**good, **change})
        facts = {"success": True, "failure_mode": "", "seed": 1, "operator": "expert"}
        with pytest.raises(RecordingError, match="1 frames"):
            recorder.end_episode(**facts)
        recorder.add_frame(**frame(spec, 1, 1))
        for wrong in ({"success": 1}, {"failure_mode": None}, {"seed": 1.0}, {"operator": 3}):
            with pytest.raises(RecordingError, match=next(iter(wrong))):
                recorder.end_episode(**{**facts, **wrong})
        assert recorder.end_episode(**facts) == 1
    assert_recorded(root, spec, [(0, 4), (1, 2)])
    with pytest.raises(RecordingError, match="closed"):
        recorder.add_frame(**good)


def test_reused_buffers_are_copied(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    buffer = frame(spec, 0, 0)
    with EpisodeRecorder(root, spec) as recorder:
        for step in range(4):
            new = frame(spec, 0, step)
            for camera, image in buffer["images"].items():
                image[:] = new["images"][camera]
            buffer["state"][:], buffer["action"][:] = new["state"], new["action"]
            recorder.add_frame(**{**new, **{key: buffer[key] for key in ("images", "state", "action")}})
        recorder.end_episode(success=True, failure_mode="", seed=0, operator="expert")
    assert_recorded(root, spec, [(0, 4)])


def test_discard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        recorder.discard_episode()
        recorder.add_frame(**frame(spec, 9, 0))
        recorder.discard_episode()
        assert record(recorder, 0) == 0
        recorder.add_frame(**frame(spec, 9, 0))
    assert "unfinished episode of 1 frames" in caplog.text
    assert_recorded(root, spec, [(0, 4)])


def test_one_recorder_per_directory_and_no_strangers(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec), pytest.raises(RecordingError, match="another recorder"):
        EpisodeRecorder(root, spec)
    assert not root.exists()  # nothing was recorded
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(RecordingError, match="not empty"):
        EpisodeRecorder(tmp_path / "other", spec)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file/data"
    with pytest.raises(RecordingError, match=rf"nothing can be recorded into {where}: Not a directory .* \(--out\)"):
        EpisodeRecorder(where, load_task("brick_sorting", "tiny"))


def test_full_encoder_queue_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rise_robot.recording.video_writer._QUEUE_FRAMES", 1)
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0, steps=10)
    assert_recorded(root, spec, [(0, 10)])


def test_failing_encoder_loses_only_its_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0)
        with monkeypatch.context() as patch:
            patch.setattr(recorder._form.encoder, "pix_fmt", "no_such_format")
            with pytest.raises(RecordingError, match="those before it are safe"):
                record(recorder, 1)
        assert record(recorder, 2) == 1
    assert_recorded(root, spec, [(0, 4), (2, 4)])


def test_a_full_disk_at_the_end_says_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, root = small_spec(), tmp_path / "set"

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "file-000.mp4")

    with monkeypatch.context() as patch:
        patch.setattr("rise_robot.recording.store.stage_append", full)
        recorder = EpisodeRecorder(root, spec)
        record(recorder, 0)
        with pytest.raises(
            RecordingError, match=r"1 finished episodes .* No space left .* safe in its folder \.recording"
        ):
            recorder.close()
    EpisodeRecorder(root, spec).close()
    assert_recorded(root, spec, [(0, 4)])


#: Where the process is killed: function, calls let through, pattern of the first argument of the calls that count.
EPISODE = "rise_robot.recording.episode.OpenEpisode"
KILL_POINTS = {
    "in an episode": (EPISODE, "add_frame", 14, ""),
    "saving frames": ("pyarrow.parquet", "write_table", 2, r"data/chunk"),
    "encoding": ("rise_robot.recording.video_writer.VideoWriter", "finish", 7, ""),
    "describing an episode": ("lerobot.datasets.dataset_metadata.LeRobotDatasetMetadata", "save_episode", 2, ""),
    "before the rename": ("rise_robot.recording.store.EpisodeStore", "add", 2, ""),
    "joining videos": ("lerobot.datasets.video_utils", "concatenate_video_files", 1, ""),
    "deciding the commit": ("rise_robot.recording.store.EpisodeStore", "_roll_forward", 1, ""),
    "first file in place": ("os", "replace", 1, "/commit/"),
    "half of the commit": ("os", "replace", 4, "/commit/"),
    "all but info.json": ("os", "replace", 7, "/commit/"),
    "second commit": ("os", "replace", 11, "/commit/"),
    "removing episodes": ("shutil", "rmtree", 1, r"/scratch-\d+$"),
}


def _record(root: Path, acknowledged: Path, point: str | None) -> None:
    """Body of the process to be killed; writes down every episode that end_episode has promised."""
    if point is not None:
        owner_name, name, allowed, pattern = KILL_POINTS[point]
        owner = pkgutil.resolve_name(owner_name)
        original = getattr(owner, name)
        calls = 0

        def counted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            counts = re.search(pattern, str(args[0])) is not None
            calls += counts
            if counts and calls > allowed:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
    recorder = EpisodeRecorder(root, small_spec(), commit_every=3)
    for seed in range(7 if point else 1000):
        record(recorder, seed)
        with acknowledged.open("a") as file:
            file.write(f"{seed}\n")
    recorder.close()


@pytest.mark.parametrize("point", [*KILL_POINTS, None])
def test_kill_loses_no_finished_episode(tmp_path: Path, point: str | None) -> None:
    import lerobot.datasets.lerobot_dataset  # noqa: F401  once here instead of once in every child

    spec, root, acknowledged = small_spec(), tmp_path / "set", tmp_path / "acknowledged"
    acknowledged.touch()
    process = multiprocessing.get_context("fork").Process(target=_record, args=(root, acknowledged, point))
    process.start()
    if point is None:  # wherever it happens to be
        while process.is_alive() and len(acknowledged.read_text().split()) < 4:
            process.join(0.02)
        process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    done = len(acknowledged.read_text().split())
    assert done >= 2
    with EpisodeRecorder(root, spec) as recorder:
        # One more may be there: saved, but killed before end_episode could say so.
        saved = recorder.num_episodes
        assert done <= saved <= done + 1
        record(recorder, 100, steps=3)
    assert_recorded(root, spec, [*((seed, 4) for seed in range(saved)), (100, 3)])
    assert not (root / ".recording").exists()


def test_merge_keeps_order_and_sidecar(tmp_path: Path) -> None:
    spec = small_spec()
    shards = [tmp_path / f"worker{number}" for number in range(3)]
    for number, seeds in enumerate(([0, 1], [], [2, 3, 4])):
        with EpisodeRecorder(shards[number], spec, commit_every=2) as recorder:
            for seed in seeds:
                record(recorder, seed, steps=2 + seed)
    shards[1].mkdir()
    assert merge_datasets(shards, tmp_path / "all") == 5
    episodes = [(seed, 2 + seed) for seed in range(5)]
    assert_recorded(tmp_path / "all", spec, episodes)
    assert_recorded(shards[2], spec, episodes[2:])

    with pytest.raises(RecordingError, match="append=True"):
        merge_datasets(shards[:1], tmp_path / "all")
    assert merge_datasets(shards[:1], tmp_path / "all", append=True) == 7
    assert_recorded(tmp_path / "all", spec, episodes + episodes[:2])


def test_merge_takes_pending_episodes_and_several_tasks(tmp_path: Path) -> None:
    spec, other = small_spec(), small_spec(prompt="Close the box.")
    killed = EpisodeRecorder(tmp_path / "a", spec)
    record(killed, 0)
    os.close(killed._store._lock)  # as if its process had been killed
    with EpisodeRecorder(tmp_path / "b", other) as recorder:
        record(recorder, 1)
    assert merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == 2
    check_dataset(tmp_path / "all")
    dataset = load(tmp_path / "all")
    assert [dataset[index]["task"] for index in (0, 4)] == [spec.prompt, other.prompt]
    with EpisodeRecorder(tmp_path / "all", other) as recorder:
        assert record(recorder, 2) == 2
    with EpisodeRecorder(tmp_path / "c", small_spec(fps=20)) as recorder:
        record(recorder, 3)
    with pytest.raises(RecordingError, match="does not match"):
        merge_datasets([tmp_path / "b", tmp_path / "c"], tmp_path / "none")
    with pytest.raises(RecordingError, match="does not exist"):
        merge_datasets([tmp_path / "missing"], tmp_path / "none")


def test_check_dataset_tells_what_disagrees(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        record(recorder, 0)
    info = root / "meta/info.json"
    info.write_text(info.read_text().replace('"total_frames": 4', '"total_frames": 5'))
    with pytest.raises(RecordingError, match="total_frames: found 5, expected 4"):
        check_dataset(root)
    with pytest.raises(RecordingError, match="does not exist"):
        recording.read_episode_records(tmp_path)


def test_preview(tmp_path: Path) -> None:
    spec, root = small_spec(), tmp_path / "set"
    with EpisodeRecorder(root, spec) as recorder:
        for seed in range(3):
            record(recorder, seed, success=seed != 1)
    path = recording.write_preview(root, tmp_path / "out/preview.mp4", episodes=[0, 1], hold_seconds=0.2)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
    assert len(pictures) == 2 * (4 + 2)
    assert pictures[0].shape == (192 + 44, 2 * 288, 3)
    red = pictures[0][80:112, 20:250].mean(axis=(0, 1)).astype(int)
    image = frame(spec, 0, 0)["images"]["head"][7:9].mean(axis=(0, 1))
    assert np.abs(red - image).max() < 25
    border = pictures[1][:192, 1].astype(int).mean(axis=0)
    assert border[0] - border[2] > 150  # orange: an intervention
    with pytest.raises(RecordingError, match="0 to 2"):
        recording.write_preview(root, path, episodes=[3])


@pytest.mark.slow
def test_edited_with_lerobots_tools(tmp_path: Path) -> None:
    """The sidecar is lost: what the dataset itself says is taken, the rest is named, and recording goes on."""
    from lerobot.datasets.dataset_tools import delete_episodes

    spec, root = small_spec(), tmp_path / "edited"
    with EpisodeRecorder(tmp_path / "set", spec) as recorder:
        for seed in range(3):
            record(recorder, seed, success=seed != 1)
    delete_episodes(load(tmp_path / "set"), [0], output_dir=root, repo_id="rise/edited")
    with pytest.warns(UserWarning, match="seeds .*, operators and reasons of failures .* are lost"):
        records = recording.read_episode_records(root)
    assert [(r.num_frames, r.success, r.seed, r.operator) for r in records] == [
        (4, False, -1, "unknown"), (4, True, -1, "unknown"),
    ]  # fmt: skip
    sidecar = Path("meta/rise_episodes.parquet")
    with pytest.raises(RecordingError, match="prompt"), pytest.warns(UserWarning, match="are lost"):
        EpisodeRecorder(root, dataclasses.replace(spec, prompt="Close the box."))
    assert not (root / sidecar).exists()  # what is refused changes nothing
    with pytest.warns(UserWarning, match="are lost"), EpisodeRecorder(root, spec) as recorder:
        record(recorder, 9)
    check_dataset(root)
    assert [r.seed for r in recording.read_episode_records(root)] == [-1, -1, 9]

    shutil.copy(tmp_path / "set" / sidecar, root / sidecar)  # of other episodes, and as many
    with pytest.raises(RecordingError, match=r"(?s)success: found .True, False, True.*delete this file"):
        EpisodeRecorder(root, spec)


def test_without_sidecar_and_labels(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with EpisodeRecorder(root, small_spec()) as recorder:
        record(recorder, 0)
    (root / "meta/rise_episodes.parquet").unlink()
    (path,) = (root / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["is_intervention"]), path)
    with pytest.raises(RecordingError, match=r"Nor can it be made again, because .*is_intervention"):
        recording.read_episode_records(root)
