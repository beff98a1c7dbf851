"""`rise train bundle` at preset tiny: killed, resumed, stopped by a loss that is not finite, and asked for nonsense."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
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
from rise_env.bundle import load_bundle
from rise_env.data import split_episodes
from rise_env.dynamics.model import LatentDynamics
from rise_env.errors import ConfigError
from rise_env.tasks import load_task
from rise_env.training import bundle as bundle_training
from rise_env.training.bundle import count_updates
from rise_env.training.loop import Loop
from rise_env.training.setup import TrainingSetup
from rise_env.value.loop import ValueLoop

SPEC = load_task("brick_sorting", "tiny")
LENGTHS, SUCCESS = (14, 12, 13, 15, 12, 14), (True, False, True, True, False, True)
#: Updates of the runs here, and three sevenths of the value's for imagined frames.
UPDATES = {"autoencoder": 12, "transformer": 12, "value": 16, "imagined": 7}
STEPS = ["dynamics.training.autoencoder_steps=12", "dynamics.training.steps=12", "value.training.progress_steps=10",
         "value.training.td_steps=6"]  # fmt: skip
STATES = ("dynamics/transformer_state.pt", "value-imagined/value_state.pt")


def write_dataset(root: Path) -> Path:
    """LeRobot v2.1: a bright square per camera, whose place is a joint that follows its commands."""
    rng = np.random.default_rng(0)
    height, width = SPEC.image_size
    scalars = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
    scalars |= {"timestamp": "float32", "progress": "float32", "is_intervention": "bool", "episode_success": "bool"}
    features: dict[str, Any] = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in scalars.items()}
    joints = {"dtype": "float32", "shape": [SPEC.layout.dim], "names": list(SPEC.layout.names)}
    picture = {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]}
    features |= {"observation.state": joints, "action": joints} | dict.fromkeys(SPEC.cameras.values(), picture)
    info = {
        "codebase_version": "v2.1", "fps": SPEC.fps, "features": features, "chunks_size": 1000,
        "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "robot_type": "toy",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "video_path": None,
    }  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "tasks": [SPEC.prompt], "length": n} for i, n in enumerate(LENGTHS)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": SPEC.prompt}))
    for episode, count in enumerate(LENGTHS):
        action = rng.uniform(SPEC.layout.low, SPEC.layout.high, (count, SPEC.layout.dim)).astype(np.float32)
        state = np.concatenate([action[:1], action[:-1]])
        columns: dict[str, Any] = {
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode),
            "index": sum(LENGTHS[:episode]) + np.arange(count),
            "task_index": np.zeros(count, np.int64),
            "timestamp": np.arange(count, dtype=np.float32) / SPEC.fps,
            "progress": np.linspace(0, 1 if SUCCESS[episode] else 0.5, count).astype(np.float32),
            "is_intervention": np.zeros(count, bool),
            "episode_success": np.full(count, SUCCESS[episode]),
            "observation.state": state.tolist(),
            "action": action.tolist(),
        }
        for view, key in enumerate(SPEC.cameras.values()):
            columns[key] = [{"bytes": png(i * (width - 8) // count, view), "path": None} for i in range(count)]
        pq.write_table(pa.table(columns), root / f"data/chunk-000/episode_{episode:06d}.parquet")
    return root


def png(left: int, view: int) -> bytes:
    image = np.full((*SPEC.image_size, 3), 40, np.uint8)
    image[10:20, left : left + 8, view] = 220
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where the module's runs are; frames that were decoded once are decoded for all."""
    path = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return write_dataset(folder / "data")


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Saves the state of every update, so that a run can be killed anywhere."""
    often = ["dynamics.training.checkpoint_seconds=0", "value.training.checkpoint_seconds=0"]
    base = ["train", "bundle", "--preset", "tiny", "--data", str(data), "--out", str(out), "--device", "cpu"]
    return [*base, "--threads", "1", "--starts", "8", "--imagined", "6", *more, "--set", *often, *STEPS]


@pytest.fixture(scope="module")
def straight(folder: Path, data: Path) -> Path:
    """A bundle whose training nothing interrupted."""
    assert main(command(data, folder / "straight")) == 0
    return folder / "straight"


def assert_same(bundle: Path, other: Path) -> None:
    """Bit for bit, but for where and when it was made."""
    load_bundle(bundle).world_model()
    for name in ("world_model/dynamics/model.safetensors", "world_model/value/model.safetensors"):
        assert (bundle / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = load_bundle(bundle).starts(), load_bundle(other).starts()
    for column in ("frames", "states", "actions", "episode_index", "frame_index", "split"):
        assert np.array_equal(getattr(ours, column), getattr(theirs, column)), column


@pytest.mark.slow
def test_every_part_gets_its_updates(straight: Path, data: Path) -> None:
    runs = straight.with_name("straight-runs")
    steps = {
        name: torch.load(runs / path, weights_only=True)["step"]
        for name, path in {
            "autoencoder": "dynamics/autoencoder_state.pt", "transformer": STATES[0],
            "value": "value/value_state.pt", "imagined": STATES[1],
        }.items()
    }  # fmt: skip
    assert steps == UPDATES
    about = load_bundle(straight).provenance
    assert (about["updates"], about["minutes"]) == (UPDATES, None)
    held_out = about["held_out"]
    kept = split_episodes(TrainingSetup([data], preset="tiny").open_dataset(), {"train": 0.8, "heldout": 0.2})[
        "heldout"
    ]
    assert (held_out["episodes"], held_out["of"], held_out["given"]) == (kept.tolist(), len(LENGTHS), [])
    assert held_out["dynamics"]["windows"] > 0


@pytest.mark.slow
def test_few_steps_are_learned_from_many(
    straight: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = straight / "world_model" / "dynamics"
    base = ["train", "distill", "--preset", "tiny", "--data", str(data), "--teacher", str(teacher), "--steps", "3"]
    base += ["--teacher-steps", "4", "--out", str(tmp_path / "student"), "--device", "cpu", "--threads", "1"]
    assert main([*base, "--sigmas", "0.5"]) == 2
    assert "begin with 1" in capsys.readouterr().err
    assert main([*base, "--sigmas", "1", "0.5"]) == 0
    student, model = (LatentDynamics.from_pretrained(path) for path in (tmp_path / "student" / "model", teacher))
    assert (student.config.flow.sigmas, student.config.transformer) == ((1.0, 0.5), model.config.transformer)
    before, after = model.state_dict(), student.state_dict()
    same = {name.split(".")[0] for name in before if torch.equal(before[name], after[name])}
    assert {"autoencoder", "scaler"} <= same
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("transformer."))


@pytest.mark.slow
def test_a_given_value_model_that_ranks_nothing_is_told(
    folder: Path, data: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_bundle(straight).world_model().value
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.save_pretrained(folder / "flat")
    given = ["--dynamics", str(straight / "world_model/dynamics"), "--value", str(folder / "flat")]
    assert main(command(data, folder / "given", *given)) == 0
    about = load_bundle(folder / "given").provenance
    problem = about["ranking_problem"]  # which stops `rise improve`
    assert about["held_out"]["given"] == ["dynamics", "value"]
    assert "it does not vary" in problem
    assert f"WARNING: {folder / 'flat'}: {problem}" in capsys.readouterr().err


KILLED = """
    import os, signal, sys
    import torch._dynamo  # any optimiser imports it, for seconds: here, once for all that are forked
    import rise_env.training.bundle
    from rise_agents.cli.main import main

    split = sys.argv.index("--")
    for state in sys.argv[1:split]:
        child = os.fork()  # of a process that has not computed anything yet
        if not child:
            replace, left = os.replace, [4]

            def killing(source, target):
                left[0] -= str(target) == state
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(source, target)

            os.replace = killing
            os._exit(main(sys.argv[split + 1:]))
        print(-os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_to_the_same_bundle(folder: Path, data: Path, straight: Path) -> None:
    """kill -9 while the transformer is trained, and again while the value is fine-tuned, as a state is written."""
    out = folder / "killed"
    arguments = command(data, out)
    runs = out.with_name("killed-runs")
    script = [sys.executable, "-c", textwrap.dedent(KILLED), *(str(runs / name) for name in STATES), "--", *arguments]
    done = subprocess.run(script, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 2, done.stderr
    assert not out.exists()
    assert [torch.load(runs / name, weights_only=True)["step"] for name in STATES] == [UPDATES["transformer"], 3]
    assert main(arguments) == 0
    assert_same(out, straight)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(
    folder: Path, data: Path, straight: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In transformer, value and fine-tuning: an error that says what to do, and a state to go on from."""
    out = folder / "nan"
    runs, arguments = out.with_name("nan-runs"), command(data, out)
    update = Loop._update

    def poisoned(self: Any) -> Any:
        if (self.phase, self.step) == ("transformer", 3):
            loss = self.loss
            self.loss = lambda step, part: (loss(step, part)[0] * float("nan"), {})
        return update(self)

    monkeypatch.setattr(Loop, "_update", poisoned)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "transformer, update 3: the loss is nan" in message
    assert "nan-runs/dynamics/transformer_state.pt is intact" in message
    assert "dynamics.training.learning_rate" in message
    assert_intact(runs / STATES[0], 3, "module", "average")
    monkeypatch.undo()

    losses = ValueLoop._losses
    for name, step in (("value", 4), ("value-imagined", 5)):

        def broken(self: Any, now: int, part: int, at: tuple[str, int] = (name, step)) -> dict[str, torch.Tensor]:
            factor = torch.nan if (self.path.parent.name, now) == at else 1.0
            return {head: loss * factor for head, loss in losses(self, now, part).items()}

        monkeypatch.setattr(ValueLoop, "_losses", broken)
        assert main(arguments) == 2
        monkeypatch.undo()
        message = capsys.readouterr().err
        assert f"value, update {step}: the loss is nan" in message
        assert f"{runs / name}/value_state.pt is intact" in message
        assert "value.training.learning_rate" in message
        assert_intact(runs / name / "value_state.pt", step, "module")
        assert not out.exists()
    assert main(arguments) == 0
    assert_same(out, straight)


def assert_intact(state: Path, step: int, *modules: str) -> None:
    content = torch.load(state, weights_only=True)
    assert content["step"] == step
    assert all(bool(tensor.isfinite().all()) for name in modules for tensor in content[name].values())


@pytest.mark.slow
def test_joints_that_are_not_numbers_are_found_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data")
    file = data / "data/chunk-000/episode_000002.parquet"
    table = pq.read_table(file)
    broken = table["observation.state"].to_pylist()
    broken[5][3] = float("nan")
    column = table.column_names.index("observation.state")
    pq.write_table(table.set_column(column, "observation.state", pa.array(broken, pa.list_(pa.float64()))), file)
    assert main(command(data, tmp_path / "out")) == 2
    assert "observation.state of 'left_joint4' is nan" in capsys.readouterr().err
    assert not list(tmp_path.glob("out-runs/**/*_state.pt"))


# ---------------------------------------------------------------------- arguments


def test_numbers_of_updates() -> None:
    setup = TrainingSetup([], "brick_sorting", "tiny")
    assert tuple(count_updates(setup, imagined=6)) == (50, 50, 50, 21)
    assert tuple(count_updates(setup, 10)) == (10, 10, 10, 4)
    assert tuple(count_updates(setup, 1)) == (1, 1, 1, 1)
    assert count_updates(setup, imagined_steps=7).imagined == 7
    assert count_updates(setup, imagined=0).imagined == 0
    longer = TrainingSetup([], "brick_sorting", "tiny", ["value.training.td_steps=40"])
    assert count_updates(longer).value == 70
    with pytest.raises(ConfigError, match="steps is 0"):
        count_updates(setup, 0)


def test_updates_reach_the_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path) -> None:
    """--steps and --imagined-steps as the trainings are told of them; --minutes leaves the steps alone."""
    calls: list[tuple[Any, ...]] = []

    class Enough(Exception):
        pass

    def dynamics(setup: TrainingSetup, out: Path, **given: Any) -> Path:
        calls.append(("dynamics", given["minutes"], given["steps"], given["autoencoder_steps"]))
        return out

    def value(setup: TrainingSetup, out: Path, **given: Any) -> None:
        calls.append((out.name, given["minutes"], given["steps"], given.get("imagined", 0)))
        if "imagined" in given:
            raise Enough

    monkeypatch.setattr(bundle_training, "train_dynamics_on", dynamics)
    monkeypatch.setattr(bundle_training, "train_value_on", value)
    base = command(data, tmp_path / "out")
    for more, expected in {
        ("--steps", "100", "--imagined-steps", "9"): [
            ("dynamics", None, 100, 100), ("value", None, 133, 0), ("value-imagined", None, 9, 6),
        ],
        ("--minutes", "40"): [
            ("dynamics", 30.0, None, None), ("value", 7.0, None, 0), ("value-imagined", pytest.approx(3.0), None, 6),
        ],
    }.items():  # fmt: skip
        calls.clear()
        with pytest.raises(Enough):
            main([*base[:2], *more, *base[2:]])
        assert calls == expected


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--starts", "0"], "starts is 0, expected at least 1"),
        (["--imagined", "-1"], "imagined is -1"),
        (["--imagined-steps", "0"], "imagined_steps is 0"),
        (["--imagined-steps", "5", "--minutes", "1"], "a budget in minutes is shared"),
        (["--imagined-steps", "5", "--imagined", "0"], "nothing is imagined"),
        (["--imagined-steps", "5", "--value", "x"], "the value model is trained already"),
        (["--value", "/no/such/model"], "no value model at /no/such/model"),
        (["--dynamics", "/no/such/model"], "no dynamics model at /no/such/model"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", "bundle", "--preset", "tiny", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*base, *more]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_left_alone_and_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    command = ["train", "bundle", "--preset", "tiny", "--data", "none", "--out"]
    assert main([*command, str(tmp_path)]) == 2
    assert "is no bundle: it is left alone" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*command, str(tmp_path / "notes.txt")])
    assert "notes.txt is not a directory" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
