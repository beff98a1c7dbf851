"""Datasets of other tools: what is legitimate is read; what contradicts itself is an error or warning that names it."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rise_agents.cli.main import main
from rise_env.data import DatasetError, open_dataset
from rise_env.data.cache import Step, cached_array
from rise_env.data.check import check_dataset
from rise_env.data.schema import Feature
from rise_env.data.source import read_source
from rise_env.data.video import decode_image
from rise_env.errors import LayoutError
from rise_env.tasks import JointLayout, TaskSpec, flatten_names
from tests.rise_env.data.conftest import FPS, JOINTS, SIZE, Toy, picture, png, write_video

Make = Callable[..., Path]
Spec = Callable[..., TaskSpec]
TABLE = "meta/episodes/chunk-000/file-000.parquet"
HEAD = "videos/observation.images.top.head/chunk-000/file-000.mp4"


def edit_info(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def edit_column(path: Path, name: str, change: Callable[[list[Any]], list[Any]] | None) -> None:
    """Change a column, or drop it."""
    table = pq.read_table(path)
    if change is None:
        pq.write_table(table.drop_columns([name]), path)
        return
    position = table.schema.get_field_index(name)
    field = table.schema.field(position)
    pq.write_table(table.set_column(position, field, pa.array(change(table[name].to_pylist()), field.type)), path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes, 7, 12 and 9 frames, of one camera in one video; to be copied."""
    return Toy(tmp_path_factory.mktemp("shared") / "set", episodes_per_file=3, cameras=Toy(Path()).cameras[:1]).write()


@pytest.fixture
def root(shared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shared, tmp_path / "set")


@pytest.fixture
def one(spec: Spec) -> TaskSpec:
    return spec(cameras={"head": "observation.images.top.head"})


def assert_pictures(
    root: Path, spec: TaskSpec | None, lengths: tuple[int, ...] = (7, 12, 9), tolerance: int = 3
) -> None:
    dataset = open_dataset(root, spec)
    frames = dataset.frames(np.arange(dataset.num_frames))[:, 0].astype(int)
    expected = [picture(episode, i, 0) for episode, length in enumerate(lengths) for i in range(length)]
    assert np.abs(frames - np.stack(expected)).max() <= tolerance


START = "videos/observation.images.top.head/from_timestamp"


@pytest.mark.parametrize("shift", [-1.0, -0.6, 0.0, 0.6, 1.0])
def test_segments_that_tile_a_video_are_placed_by_their_lengths(root: Path, one: TaskSpec, shift: float) -> None:
    edit_column(root / TABLE, START, lambda times: [times[0], *(time + shift / FPS for time in times[1:])])
    assert_pictures(root, one)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda times: [0.0, times[1] - 3 / FPS, times[2]], "episodes 0 and 1 both claim the frame at 0.400 s"),
        (lambda times: [0.0, times[1], times[1]], "episodes 1 and 2 both claim the frame at 0.700 s"),
        (lambda times: [0.0, times[1], times[2] + 2 / FPS], "episode 2 should have 9 frames from 2.100 s on, found 7"),
    ],
)
def test_episodes_that_share_frames(root: Path, one: TaskSpec, change: Any, match: str) -> None:
    edit_column(root / TABLE, START, change)
    with pytest.raises(DatasetError, match=match):
        open_dataset(root, one).frames([0])


@pytest.mark.parametrize("shift", [-1.0, 0.6, 1.0])
@pytest.mark.parametrize("bad", [0, 1])
def test_episodes_that_are_left_out_keep_their_place(root: Path, one: TaskSpec, shift: float, bad: int) -> None:
    edit_column(root / TABLE, START, lambda times: [times[0], *(time + shift / FPS for time in times[1:])])
    set_state(root, 1e9, row=(3, 10)[bad])
    dataset = open_dataset(root, one, skip_bad_episodes=True)
    kept = [(episode, length) for episode, length in enumerate((7, 12, 9)) if episode != bad]
    expected = [picture(episode, i, 0) for episode, length in kept for i in range(length)]
    assert np.abs(dataset.frames(np.arange(dataset.num_frames))[:, 0].astype(int) - np.stack(expected)).max() <= 3


def test_frames_that_belong_to_no_episode_are_told(root: Path, one: TaskSpec) -> None:
    images = [picture(episode, i, 0) for episode, length in enumerate((7, 12, 9)) for i in range(length)]
    write_video(root / HEAD, [*images, images[0]])
    with pytest.warns(UserWarning, match="has 1 frames that belong to no episode"):
        assert_pictures(root, one)


def test_a_frame_rate_that_contradicts_the_rest_is_told(root: Path, one: TaskSpec, new_dataset: Make) -> None:
    table = root / "data/chunk-000/file-000.parquet"
    edit_column(table, "timestamp", lambda times: [time + 0.2 * (9 < i < 19) for i, time in enumerate(times)])
    with pytest.warns(UserWarning, match=r"1 frames come earlier or later .*the first after frame 2 of episode 1\."):
        open_dataset(root, one)
    edit_column(table, "timestamp", lambda times: [time / 3 for time in times])
    with pytest.warns(UserWarning, match="says 10 frames per second, its column 'timestamp' 30"):
        open_dataset(root, one)
    v2 = new_dataset("v2", version="v2.1", lengths=(7,), success=(True,), cameras=Toy(Path()).cameras[:1])
    path = next(v2.rglob("*.mp4"))
    write_video(path, [picture(0, i, 0) for i in range(7)], fps=15)
    with pytest.warns(UserWarning, match="has 15 frames per second, info.json says 10"):
        assert_pictures(v2, one, (7,))


def test_the_one_instruction_of_all_episodes_needs_no_table(root: Path, one: TaskSpec) -> None:
    (root / "meta/tasks.parquet").unlink()
    edit_column(root / "data/chunk-000/file-000.parquet", "task_index", lambda numbers: [0] * len(numbers))
    edit_column(root / TABLE, "tasks", lambda texts: [["do it"]] * len(texts))
    assert set(open_dataset(root, one).tasks.values()) == {"do it"}


def test_a_place_between_two_frames(root: Path, one: TaskSpec) -> None:
    """One frame too many in the video, so that lengths do not say where the episodes are."""
    images = [picture(episode, i, 0) for episode, length in enumerate((7, 12, 9)) for i in range(length)]
    write_video(root / HEAD, [*images, images[-1]])
    edit_column(root / TABLE, START, lambda times: [times[0], times[1] + 0.45 / FPS, times[2]])
    with pytest.raises(DatasetError, match=r"episode 1 should begin at 0\.745 s, between two frames"):
        open_dataset(root, one).frames([0])


def test_damaged_frames_are_not_pictures(root: Path, one: TaskSpec) -> None:
    """Flipped bits that the decoder hides as well as it can: every decoded frame is right, or there is an error."""
    right = open_dataset(root, one).frames(np.arange(28)).astype(int)
    with av.open(str(root / HEAD)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content, noticed = (root / HEAD).read_bytes(), 0
    for position, size in packets[::4]:
        changed = bytearray(content)
        for offset in range(size // 3, size, max(size // 6, 1)):
            changed[position + offset] ^= 0x55
        (root / HEAD).write_bytes(changed)
        try:
            assert np.abs(open_dataset(root, one).frames(np.arange(28)) - right).max() <= 40
        except DatasetError:
            noticed += 1
    assert noticed >= len(packets[::4]) // 2


@pytest.mark.parametrize("images_in_parquet", [False, True])
def test_pictures_of_another_size(new_dataset: Make, spec: Spec, images_in_parquet: bool) -> None:
    root = new_dataset(images_in_parquet=images_in_parquet, lengths=(3,), success=(True,))
    edit_info(root, lambda info: info["features"]["observation.images.wrist"].update(shape=[48, 64, 3]))
    with pytest.raises(DatasetError, match=r"16x24.*48x64"):
        open_dataset(root, spec()).frames([0])


@pytest.mark.parametrize(
    ("shape", "names", "size"),
    [
        ([48, 64, 3], None, (48, 64)),
        ([3, 48, 64], None, (48, 64)),
        ([3, 48, 64], ["rgb", "height", "width"], (48, 64)),
        ([3, 48, 64], ["height", "width", "channels"], (48, 64)),
        ([3, 64, 48], ["channels", "width", "height"], (48, 64)),
        ([48, 64, 3], {"height": 0, "width": 1, "channels": 2}, (48, 64)),
        ([48, 64], None, (48, 64)),
        ([48, 64, 1], ["h", "w", "c"], (48, 64)),
        ([3, 48, 3], ["channels", "height", "width"], (48, 3)),
    ],
)
def test_size_of_pictures(shape: list[int], names: Any, size: tuple[int, int]) -> None:
    feature = Feature.model_validate_json(json.dumps({"dtype": "video", "shape": shape, "names": names}))
    assert feature.image_size == size


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([240, 320, 640], None),
        ([240, 320, 640], ["height", "width", "channels"]),
        ([3, 48, 3], None),
        ([3, 48, 3], ["x", "y", "z"]),
        ([48], None),
    ],
)
def test_shapes_that_are_none_of_a_picture(v3_root: Path, tmp_path: Path, shape: list[int], names: Any) -> None:
    root = shutil.copytree(v3_root / "meta", tmp_path / "set/meta").parent
    edit_info(root, lambda info: info["features"]["observation.images.wrist"].update(shape=shape, names=names))
    with pytest.raises(DatasetError, match=r"features.observation.images.wrist: shape \[.* is none of a picture"):
        read_source(root)


def test_cameras_of_different_size_are_told(new_dataset: Make, recwarn: pytest.WarningsRecorder) -> None:
    root = new_dataset(lengths=(2,), success=(True,), images_in_parquet=True)
    other = new_dataset("other", lengths=(2,), success=(True,), images_in_parquet=True)
    open_dataset([root, other])
    assert not recwarn.list
    edit_info(root, lambda info: info["features"]["observation.images.wrist"].update(shape=[48, 64, 3]))
    sizes = r"top_head 16x24, wrist 16x24, 48x64 \(height x width\); all are resized to 16x24"
    with pytest.warns(UserWarning, match=sizes) as told:
        dataset = open_dataset([other, root])
    assert len(told) == 1
    recwarn.clear()
    open_dataset(root, dataset.spec)
    assert not recwarn.list


def test_names_of_joints() -> None:
    assert flatten_names({"b": 1, "a": 0}) == ("a", "b")
    assert flatten_names({"left": {"x": 0, "y": 1}, "right": ["z"]}) == ("x", "y", "z")
    assert flatten_names([1, "a"]) == ("1", "a")
    assert flatten_names({"0": 0, "1": 1}) == ("0", "1")
    places = {str(place): f"joint {place}" for place in (10, *range(10))}
    assert flatten_names(places) == tuple(f"joint {place}" for place in range(11))
    assert flatten_names({"1": ["c"], "0": ["a", "b"]}) == ("a", "b", "c")
    assert flatten_names({"b": 1.0, "a": 0.0}) == ("a", "b")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"0": 3, "1": 0, "2": 1, "3": 2}, "which are the names"),
        ({"a": 0, "b": 2}, "the places must be 0, 1, ..., 1, each once"),
        ({"a": 0, "b": 0}, "each once"),
        ({"a": 0.5, "b": 0}, "each once"),
        ({"a": True, "b": False}, "each once"),
        ({"0": "a", "2": "b"}, "each once"),
        ({"0": "a", "00": "b"}, "each once"),
        ({"left": {"x": 0, "y": 2}}, "each once"),
        ({"a": "1", "b": "0"}, "are the numbers places"),
        ([True, False], "expected texts"),
    ],
)
def test_names_whose_order_is_not_certain(names: Any, match: str) -> None:
    with pytest.raises(LayoutError, match=match):
        flatten_names(names)


def test_what_is_not_said_is_derived(new_dataset: Make, spec: Spec) -> None:
    """Names as a map, no frame_index, no task_index, `{chunk_index}`, and no table of instructions."""
    root = new_dataset(version="v2.1", lengths=(3, 4), tasks=("Do it.",), success=(True, False), images_in_parquet=True)

    def change(info: dict[str, Any]) -> None:
        info["data_path"] = "data/chunk-{chunk_index:03d}/episode_{file_index:06d}.parquet"
        for key in ("observation.state", "action"):
            info["features"][key]["names"] = {name: place for place, name in enumerate(JOINTS)}
        for key in ("frame_index", "task_index"):
            del info["features"][key]

    edit_info(root, change)
    for path in (root / "data/chunk-000").iterdir():
        for key in ("frame_index", "task_index", "index"):
            edit_column(path, key, None)
        table = pq.read_table(path)  # rows in another order: time stamps say which
        pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)
    (root / "meta/tasks.jsonl").unlink()
    dataset = open_dataset(root, spec())
    assert dataset.state[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert [episode.task for episode in dataset.episodes] == ["Do it."] * 2
    assert dataset.spec.layout.names == JOINTS
    assert_pictures(root, spec(), (3, 4), 0)


@pytest.mark.parametrize("kind", ["struct", "text", "absent", "moved"])
def test_images_beside_the_parquet(new_dataset: Make, spec: Spec, kind: str) -> None:
    root = new_dataset(lengths=(3, 2), success=(True, False), images_in_parquet=True)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path).to_pydict()
    for view, key in enumerate(Toy(root).cameras):
        entries = []
        for episode, frame in zip(table["episode_index"], table["frame_index"], strict=True):
            name = f"images/{key}/episode_{episode:06d}/frame_{frame:06d}.png"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(picture(episode, frame, view)))
            moved = f"/home/other/{name}" if kind == "moved" else Path(name).name
            entries.append(name if kind == "text" else {"bytes": None, "path": moved})
        table[key] = entries
        if kind == "absent":
            del table[key]
    pq.write_table(pa.table(table), path)
    assert_pictures(root, spec(), (3, 2), 0)


def test_pictures_of_sixteen_bits_are_not_taken_for_white() -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(content, "PNG")
    with pytest.raises(DatasetError, match=r"mode I;16 \(depth, 16 bits\)"):
        decode_image(content.getvalue(), (4, 6), "here")


def test_the_unit_that_would_fit() -> None:
    layout = JointLayout("one", ("grip",), ("m",), (0.0,), (0.07,))
    for values, hint in (([[0.0], [1.0]], "0 to 1"), ([[0.0], [70.0]], "millimetres")):
        assert f"({hint} would fit)" in layout.furthest_outside(values).message


def test_pictures_outside_the_dataset_are_not_read(new_dataset: Make, spec: Spec, tmp_path: Path) -> None:
    root = new_dataset(lengths=(1,), success=(True,), images_in_parquet=True)
    (tmp_path / "other.png").write_bytes(png(picture(0, 0, 0)))
    for name in ("../other.png", str(tmp_path / "other.png")):
        path = root / "data/chunk-000/file-000.parquet"
        table = pq.read_table(path).to_pydict()
        pq.write_table(pa.table({**table, "observation.images.wrist": [{"bytes": None, "path": name}]}), path)
        with pytest.raises(DatasetError, match="lies outside the dataset"):
            open_dataset(root, spec()).frames([0])


@pytest.mark.parametrize(("fps", "whole"), [(29.97, 30), (12.5, 12), (0.5, 1), (10.0, 10)])
def test_fractional_frame_rates(new_dataset: Make, fps: float, whole: int) -> None:
    root = new_dataset(lengths=(2, 3), success=(True, False), images_in_parquet=True)
    edit_info(root, lambda info: info.update(fps=fps))
    assert open_dataset(root).spec.fps == whole
    task = dataclasses.replace(open_dataset(root).spec, fps=whole + 1)
    with pytest.raises(DatasetError, match=f"recorded at {fps:g} Hz"):
        open_dataset(root, task)


def test_other_keys_and_unnamed_joints(new_dataset: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = new_dataset(lengths=(2,), success=(True,), images_in_parquet=True, names=None)

    def change(info: dict[str, Any]) -> None:
        features = info["features"]
        features["state"], features["actions"] = features.pop("observation.state"), features.pop("action")

    edit_info(root, change)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    names = {"observation.state": "state", "action": "actions"}
    pq.write_table(table.rename_columns([names.get(name, name) for name in table.schema.names]), path)
    assert main(["stats", str(root)]) == 2
    assert "--state-key" in capsys.readouterr().err
    assert main(["stats", str(root), "--state-key", "state", "--action-key", "actions"]) == 0
    task = tmp_path / "task.yaml"
    limits = {"lower": [-50.0] * 3, "upper": [50.0] * 3}
    task.write_text(json.dumps({"task": {
        "name": "toy", "prompt": "Do it.", "cameras": {"head": "observation.images.top.head"}, "image_size": list(SIZE),
        "layout": {"names": list(JOINTS), "units": ["rad", "rad", "m"], **limits},
        "fps": FPS, "chunk": 4, "stride": 2, "history": 3, "execute": 2, "max_seconds": 5.0,
    }}))  # fmt: skip
    command = ["stats", str(root), "--task", str(task), "--state-key", "state", "--action-key", "actions"]
    assert main(command) == 2
    assert "--trust-layout" in capsys.readouterr().err
    assert main([*command, "--trust-layout"]) == 0


def set_state(root: Path, value: float, row: int = 4) -> None:
    def change(rows: list[Any]) -> list[Any]:
        return [[value, *values[1:]] if number == row else values for number, values in enumerate(rows)]

    edit_column(root / "data/chunk-000/file-000.parquet", "observation.state", change)


@pytest.mark.parametrize("value", [30_000.0, -2000.0, 1e30])
def test_impossible_joint_values(new_dataset: Make, spec: Spec, value: float) -> None:
    root = new_dataset(images_in_parquet=True)
    set_state(root, value)
    match = r"episode 0, frame 4: observation.state: 'left' is .* rad, its limits are \[-50, 50\].*tolerance"
    with pytest.raises(DatasetError, match=match):
        open_dataset(root, spec())
    if abs(value) > 1e6:
        with pytest.raises(DatasetError, match="no joint does in any unit"):
            open_dataset(root)
    layout = dataclasses.replace(spec().layout, tolerance=float("inf"))
    assert open_dataset(root, spec(layout=layout)).state[4, 0] == np.float32(value)
    with pytest.warns(UserWarning, match="1 of 3 episodes are left out:\n  episode 0: .*frame 4"):
        dataset = open_dataset(root, spec(), skip_bad_episodes=True)
    assert dataset.lengths.tolist() == [12, 9]
    assert dataset.success.tolist() == [False, True]


def test_values_beyond_the_limits(new_dataset: Make, spec: Spec, recwarn: pytest.WarningsRecorder) -> None:
    root = new_dataset(lengths=(7,), success=(True,), images_in_parquet=True)
    layout = dataclasses.replace(spec().layout, lower=(0.0, -3.0, 0.0), upper=(3.0, 3.0, 0.6))
    set_state(root, 90.0)
    with pytest.warns(UserWarning, match=r"'left' is 90 rad, its limits are \[0, 3\] \(degrees would fit\)"):
        open_dataset(root, spec(layout=layout))
    set_state(root, 3.2)
    layout = dataclasses.replace(layout, upper=(6.7, 3.0, 0.6))
    recwarn.clear()
    open_dataset(root, spec(layout=layout))
    assert not recwarn.list


def test_all_bad_files_are_told_and_the_rest_is_kept(
    new_dataset: Make, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rise_env.data import frames

    root = new_dataset(version="v2.1", lengths=(3, 4, 2), cameras=Toy(Path()).cameras[:1])
    task = spec(cameras={"head": "observation.images.top.head"})
    videos = sorted((root / "videos").rglob("*.mp4"))
    good = videos[0].read_bytes()
    videos[0].write_bytes(b"no video")
    videos[2].unlink()
    with pytest.raises(DatasetError) as error:
        open_dataset(root, task).frames([0])
    for text in ("episode_000000.mp4", "episode_000002.mp4", "2 files", "--skip-bad-episodes"):
        assert text in str(error.value)
    with pytest.warns(UserWarning, match="2 of 3 episodes are left out"):
        dataset = open_dataset(root, task, skip_bad_episodes=True)
    assert dataset.lengths.tolist() == [4]
    assert dataset.state[:, 1].tolist() == [1.0] * 4
    assert np.abs(dataset.frames(3)[0].astype(int) - picture(1, 3, 0)).max() <= 3
    decoded: list[str] = []
    original = frames.decode_video
    monkeypatch.setattr(frames, "decode_video", lambda path, *rest: decoded.append(path.name) or original(path, *rest))
    videos[0].write_bytes(good)
    write_video(videos[2], [picture(2, i, 0) for i in range(2)])
    assert_pictures(root, task, (3, 4, 2))
    assert decoded == ["episode_000000.mp4", "episode_000002.mp4"]


def test_bad_episodes_of_a_shared_file(root: Path, one: TaskSpec) -> None:
    content = bytearray((root / HEAD).read_bytes())
    with av.open(str(root / HEAD)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    position, size = packets[20]  # of the last episode
    content[position : position + size] = bytes(size)
    (root / HEAD).write_bytes(content)
    with pytest.warns(UserWarning, match="episodes are left out"):
        dataset = open_dataset(root, one, skip_bad_episodes=True)
    assert dataset.lengths[:1].tolist() == [7]
    assert dataset.num_episodes < 3
    assert np.abs(dataset.frames(6)[0].astype(int) - picture(0, 6, 0)).max() <= 3


def test_the_cache_does_not_trust_itself(tmp_path: Path) -> None:
    path, made = tmp_path / "array.npy", []

    def run(array: np.ndarray, advance: Callable[[int], None]) -> None:
        made.append(1)
        array[:] = 7
        advance(4)

    def opened() -> np.ndarray:
        return cached_array(path, (4, 100), np.uint8, [Step("all", 4, run)])

    opened()
    opened()
    assert len(made) == 1
    for change in (
        lambda c: c[:200] + bytes(100) + c[300:],
        lambda c: c[:-1] + b"?",
        lambda c: c[:-19],
        lambda c: c[:20],
        lambda c: c[:8] + bytes([c[8] ^ 1]) + c[9:],  # NumPy's parser of the header has an error of its own for this
    ):
        path.write_bytes(change(path.read_bytes()))
        assert (opened() == 7).all()
    assert len(made) == 6


def test_outcomes_as_lerobot_records_them(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset(images_in_parquet=True)
    info = root / "meta/info.json"
    info.write_text(info.read_text().replace('"episode_success"', '"next.success"'))
    files = sorted((root / "data").rglob("*.parquet"))
    for path in files:
        table = pq.read_table(path)
        pq.write_table(
            table.rename_columns([n.replace("episode_success", "next.success") for n in table.schema.names]), path
        )
        edit_column(path, "next.success", lambda rows: [False, *rows[1:]])  # solved from the second frame on
    assert open_dataset(root, spec()).success.tolist() == [True, False, True]
    report = check_dataset(root, pictures=False)
    assert not {"outcomes_missing", "outcomes_unclear"} & {finding.code for finding in report.findings}
    edit_column(files[-1], "next.success", lambda rows: [*rows[:-1], False])
    with pytest.raises(DatasetError, match=r"episode 2.*success ends at step 8 of 9.*rise label --outcome"):
        _ = open_dataset(root, spec()).success
    assert "outcomes_unclear" in {finding.code for finding in check_dataset(root, pictures=False).findings}
    assert main(["label", str(root), "--outcome", "failure", "2=success"]) == 0  # what a person says counts
    assert open_dataset(root, spec()).success.tolist() == [False, False, True]


def test_outcomes_beside_a_dataset(new_dataset: Make, spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    root = new_dataset(success=None, images_in_parquet=True)
    with pytest.raises(DatasetError, match="rise label DATASET --outcome"):
        _ = open_dataset(root, spec()).success
    assert main(["label", str(root), "--outcome", "success", "1=failure"]) == 0
    assert "3 episodes, 2 successful" in capsys.readouterr().out
    assert open_dataset(root, spec()).success.tolist() == [True, False, True]
    for wrong, match in (
        (["0=success"], "episode 1 of 3 has none"),
        (["5=success"], "'5' is wrong"),
        (["perhaps"], "'perhaps'"),
    ):
        assert main(["label", str(root), "--outcome", *wrong]) == 2
        assert match in capsys.readouterr().err
    assert main(["label", str(root), "--outcome", "success", "1=failure"]) == 0
    assert main(["label", str(root), "--outcome", "success"]) == 2
    assert "says otherwise of 1 of 3 episodes, of episode 1 first; add --replace" in capsys.readouterr().err
    assert open_dataset(root, spec()).success.tolist() == [True, False, True]
    assert main(["label", str(root), "--outcome", "success", "--replace"]) == 0
    assert open_dataset(root, spec()).success.all()
    edit_column(root / "meta/episode_success.parquet", "episode_index", lambda rows: [5, *rows[1:]])
    with pytest.raises(DatasetError, match="It has changed since"):
        _ = open_dataset(root, spec()).success
    assert main(["label", str(new_dataset("own", images_in_parquet=True)), "--outcome", "success"]) == 2
    assert "outcomes of its own" in capsys.readouterr().err


def test_bad_pictures_cost_their_episode_alone(new_dataset: Make, spec: Spec) -> None:
    """In a file of several episodes, and told all in one pass; pictures of the others stay theirs."""
    root = new_dataset(lengths=(2, 3, 2), images_in_parquet=True, episodes_per_file=3)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path).to_pydict()
    for view, key in enumerate(Toy(root).cameras):
        for row, (episode, frame) in enumerate(zip(table["episode_index"], table["frame_index"], strict=True)):
            name = root / f"images/{key}/episode_{episode:06d}/frame_{frame:06d}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(b"no picture" if (row, view) in ((0, 0), (5, 1)) else png(picture(episode, frame, view)))
        del table[key]
    pq.write_table(pa.table(table), path)
    with pytest.raises(DatasetError, match=r"(?s)episode 0, frame 0, .*head.*episode 2, frame 0, .*wrist"):
        open_dataset(root, spec()).frames([0])
    with pytest.warns(UserWarning, match=r"2 of 3 episodes are left out:\n  episode 0: .*head.*\n  episode 2: .*wrist"):
        dataset = open_dataset(root, spec(), skip_bad_episodes=True)
    assert np.array_equal(dataset.frames([0, 1, 2])[:, 0], np.stack([picture(1, i, 0) for i in range(3)]))


def test_bad_files_of_several_datasets_are_told_at_once(new_dataset: Make, one: TaskSpec) -> None:
    cameras = Toy(Path()).cameras[:1]
    roots = [new_dataset(name, lengths=(2, 2), success=(True,) * 2, cameras=cameras, version="v2.1") for name in "ab"]
    for root in roots:
        next(root.rglob("episode_000001.mp4")).write_bytes(b"no video")
    joined = open_dataset(roots, one)
    for look in (joined.prepare, lambda: joined.frames([0])):
        with pytest.raises(DatasetError, match=rf"(?s){roots[0]}/videos.*{roots[1]}/videos"):
            look()
    for episode in (0, 1):
        (roots[0] / f"data/chunk-000/episode_{episode:06d}.parquet").write_bytes(b"no table")
    with pytest.raises(DatasetError, match=r"(?s)episode_000000\.parquet cannot .*episode_000001\.parquet cannot"):
        open_dataset(roots[0], one)


def test_a_missing_value_costs_its_episode_alone(new_dataset: Make, spec: Spec) -> None:
    root = new_dataset(lengths=(2, 3), success=(True, False), images_in_parquet=True)
    set_state(root, float("nan"), row=1)
    path = root / "data/chunk-000/file-000.parquet"
    edit_column(path, "action", lambda rows: [None if i == 4 else row for i, row in enumerate(rows)])
    with pytest.raises(DatasetError, match="none of its 2 episodes can be used"):
        open_dataset(root, spec(), skip_bad_episodes=True)
    set_state(root, 1.0, row=1)
    with pytest.warns(UserWarning, match=r"1 of 2 episodes are left out:\n  episode 1: .*'action': 1 of 3 .* null"):
        assert open_dataset(root, spec(), skip_bad_episodes=True).lengths.tolist() == [2]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"state_key": "nope"}, "'nope' is no feature of .*--state-key"),
        ({"action_key": "observation.images.wrist"}, "'observation.images.wrist' is a camera, expected joint values"),
        ({"state_key": "progress"}, "layout 'toy' has 3"),
    ],
)
def test_wrong_features_are_told_as_such(v3_root: Path, spec: Spec, skip: bool, keys: Any, match: str) -> None:
    with pytest.raises((DatasetError, LayoutError), match=match):
        open_dataset(v3_root, spec(trust_layout=True), skip_bad_episodes=skip, **keys)
