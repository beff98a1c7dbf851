from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.training import loop as training_loop
from rise_env.training.loop import Budget, Progress
from rise_env.value import loop
from rise_env.value.config import LabelConfig, ModelConfig, TrainingConfig, ValueConfig
from rise_env.value.evaluation import auroc, chunk_advantages, pearson, read_values, spearman
from rise_env.value.imagined import ImaginedFrames
from rise_env.value.loop import ValueLoop
from rise_env.value.model import ValueModel
from rise_env.value.training import train_value

CAMERAS = ("head", "wrist")


@pytest.fixture
def config(tiny_config: ModelConfig) -> ValueConfig:
    heads = ("progress", "td", "success", "distributional")
    training = TrainingConfig(
        progress_steps=6, td_steps=6, batch_size=8, warmup_steps=2, held_out=0.25, ema_decay=0.9, checkpoint_seconds=0
    )
    return ValueConfig(model=dataclasses.replace(tiny_config, heads=heads), training=training)


def train(config: ValueConfig, data: Any, out: Path, **options: Any) -> dict[str, Any]:
    return train_value(config, data, out, **{"cameras": CAMERAS, "chunk": 4, "tensorboard": False, **options})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return ValueModel.from_pretrained(out / "model").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up by code that runs after it."""


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Names of the metrics of every update."""
    seen: list[set[str]] = []
    original = ValueLoop._update

    def update(self: ValueLoop) -> Any:
        metrics = original(self)
        seen.append(set(metrics))
        return metrics

    monkeypatch.setattr(ValueLoop, "_update", update)
    return seen


def test_a_run_leaves_everything_behind(config: ValueConfig, toy: Any, tmp_path: Path, updates: list[set[str]]) -> None:
    reports: list[Progress] = []
    report = train(config, toy, tmp_path / "run", report=reports.append, tensorboard=True)
    assert len(updates) == 12
    assert "td" not in updates[5]
    assert {"loss", "progress", "td", "success", "distributional", "learning_rate"} <= updates[6]
    assert {one.phase for one in reports} == {"value"}
    assert report == json.loads((tmp_path / "run" / "metrics.json").read_text())
    held = report["held_out"]
    assert held["episodes"] == 2
    assert set(held["heads"]) == {"progress", "td", "success", "distributional", "output"}
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Tags()
    assert len([tag for tag in shown["images"] if tag.startswith("held_out/episode_")]) == 2
    assert {f"held_out/output/{name}" for name, value in held["heads"]["output"].items() if value is not None} <= set(
        shown["scalars"]
    )
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["value"]["training"]["batch_size"] == 8
    assert "git" in written


def test_same_seed_same_weights(config: ValueConfig, toy: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(len(name))
        train(config, toy, tmp_path / name)
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1))
    train(other, toy, tmp_path / "c")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("stop", [3, 9])
def test_an_interrupted_run_ends_the_same(
    config: ValueConfig, toy: Any, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch, updates: list[set[str]]
) -> None:
    train(config, toy, tmp_path / "whole")
    counted = ValueLoop._update

    def update(self: ValueLoop) -> Any:
        if self.step == stop:
            raise Killed
        return counted(self)

    with monkeypatch.context() as patch:
        patch.setattr(ValueLoop, "_update", update)
        with pytest.raises(Killed):
            train(config, toy, tmp_path / "run")
    updates.clear()
    train(config, toy, tmp_path / "run")
    assert len(updates) == 12 - stop
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    train(config, toy, tmp_path / "run")
    assert len(updates) == 12 - stop  # the run is finished


@pytest.mark.slow
def test_kill_minus_nine(config: ValueConfig, toy: Any, tmp_path: Path) -> None:
    """A process that is killed while it trains and saves loses nothing that was saved."""
    training = dataclasses.replace(config.training, progress_steps=60, td_steps=0)
    config = dataclasses.replace(config, training=training)
    np.savez(tmp_path / "toy.npz", images=toy.images, lengths=toy.lengths, **toy.data)
    script = f"""
        import numpy as np, torch
        from types import SimpleNamespace
        from rise_env.config import decode
        from rise_env.value.config import ValueConfig
        from rise_env.value.training import train_value
        torch.set_num_threads(1)
        data = dict(np.load({str(tmp_path / "toy.npz")!r}))
        images, lengths = data.pop("images"), data.pop("lengths")
        starts = np.cumsum(lengths) - lengths
        won = data["episode_success"][starts]
        toy = SimpleNamespace(
            lengths=lengths, num_episodes=len(lengths), starts=starts, num_frames=len(images),
            columns=list(data), column=data.__getitem__,
            episodes=[SimpleNamespace(task="move the dot", success=bool(w)) for w in won], success=won,
            frames=lambda index: images[np.asarray(index)],
        )
        config = decode(ValueConfig, {json.loads(json.dumps(dataclasses.asdict(config)))!r}, "value")
        train_value(config, toy, {str(tmp_path / "run")!r}, cameras={CAMERAS!r}, chunk=4, tensorboard=False)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    state = tmp_path / "run" / "value_state.pt"
    deadline = time.monotonic() + 300
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(state, weights_only=True)["step"] < 60
    train(config, toy, tmp_path / "run")
    train(config, toy, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_another_configuration_is_not_resumed(config: ValueConfig, toy: Any, tmp_path: Path) -> None:
    train(config, toy, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    other = dataclasses.replace(config, labels=LabelConfig(progress="dense"))
    with pytest.raises(CheckpointError, match=r"(?s)other data or settings.*time.*dense"):
        train(other, toy, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_damaged_state_is_said(config: ValueConfig, toy: Any, tmp_path: Path) -> None:
    (tmp_path / "value_state.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        train(config, toy, tmp_path)
    for content in ([], {"identity": 3}, {"step": 1}):
        torch.save(content, tmp_path / "value_state.pt")
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            train(config, toy, tmp_path)
    assert not (tmp_path / "config.json").exists()
    (tmp_path / "value_state.pt").unlink()
    train(config, toy, tmp_path)
    state = torch.load(tmp_path / "value_state.pt", weights_only=True)
    for changed in ({"module": {}}, {"step": "many"}, {"metrics": 3}):
        torch.save(state | changed, tmp_path / "value_state.pt")
        with pytest.raises(CheckpointError, match=r"value_state\.pt does not fit.*Delete it"):
            train(config, toy, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(
    config: ValueConfig, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loop.progress_loss, []

    def broken(*args: Any) -> torch.Tensor:
        calls.append(1)
        return original(*args) * (torch.nan if len(calls) == 4 else 1.0)

    monkeypatch.setattr(loop, "progress_loss", broken)
    with pytest.raises(
        TrainingError,
        match=r"value, update 3: the loss is nan, progress nan, .*is intact.*value.training.learning_rate",
    ):
        train(config, toy, tmp_path)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path).values())


def test_a_time_budget_is_shared_by_the_phases(
    config: ValueConfig, toy: Any, tmp_path: Path, updates: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # a second each time that it is looked at
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    report = train(config, toy, tmp_path, budget=Budget(seconds=60))
    assert report["steps"] == len(updates)
    assert "td" not in updates[0]
    assert "td" in updates[-1]


def test_numbers_of_updates_keep_the_proportion_of_the_phases(config: ValueConfig) -> None:
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, progress_steps=30, td_steps=10))
    training = config.with_steps(8).training
    assert (training.progress_steps, training.td_steps) == (6, 2)
    with pytest.raises(ConfigError, match="0 updates"):
        config.with_steps(0)


def test_progress_of_a_moving_dot_is_learned(tiny_config: ModelConfig, toy: Any, tmp_path: Path) -> None:
    training = TrainingConfig(
        progress_steps=150,
        td_steps=60,
        batch_size=32,
        learning_rate=3e-3,
        warmup_steps=10,
        held_out=0.25,
        bootstrap=0.9,
    )
    config = ValueConfig(tiny_config, LabelConfig(progress="dense"), training=training)
    head = train(config, toy, tmp_path)["held_out"]["heads"]["output"]
    assert head["progress_spearman"] > 0.95
    assert head["progress_spearman_episode"] > 0.95
    assert head["advantage_spearman"] > 0.8


def test_imagined_frames_are_mixed_in(config: ValueConfig, toy: Any, tmp_path: Path) -> None:
    drawn: list[int] = []

    class Source(ImaginedFrames):
        def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
            drawn.append(count)
            return super().draw(rng, count)

    source = Source(toy.images[:20], np.arange(20))
    train(config, toy, tmp_path / "a", imagined=source)
    train(config, toy, tmp_path / "b", initial=tmp_path / "a" / "model")
    assert drawn == [round(0.3 * 8)] * 12
    with pytest.raises(TrainingError, match="2 imagined frames"):
        ImaginedFrames(toy.images[:2], np.arange(3))


def test_latents_are_standardised(toy: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents = (5 + 3 * rng.standard_normal((toy.num_frames, 2, 4, 3, 4))).astype(np.float16)
    toy.frames = lambda index: latents[np.asarray(index)]
    model = ModelConfig(reads_latents=True, channels=(8,), flat_convs=1, embed=8, hidden=8, members=2)
    config = ValueConfig(model, training=TrainingConfig(progress_steps=2, td_steps=2, batch_size=4, held_out=0.25))
    train(config, toy, tmp_path)
    saved = weights(tmp_path)
    assert saved["latent_mean"].flatten().tolist() == pytest.approx([5] * 4, abs=0.3)
    assert saved["latent_std"].flatten().tolist() == pytest.approx([3] * 4, abs=0.3)
    wrong = dataclasses.replace(config, model=dataclasses.replace(model, reads_latents=False))
    with pytest.raises(TrainingError, match="expected uint8"):
        train(wrong, toy, tmp_path / "wrong")


def test_reading_values_keeps_the_order(tiny_model: ValueModel, toy: Any) -> None:
    index = np.array([5, 0, 9])
    value, spread = read_values(tiny_model, toy, index, ["a"] * 3, batch=2)["output"]
    frames = torch.from_numpy(toy.images[index]).unsqueeze(1)
    assert value == pytest.approx(tiny_model.estimate(frames, ["a"] * 3).value[:, 0].numpy(), abs=1e-5)
    assert spread.shape == (3,)


def test_statistics_by_hand() -> None:
    assert spearman(np.array([1, 2, 3, 10]), np.array([0, 1, 5, 6])) == pytest.approx(1.0)
    assert spearman(np.array([1, 1, 2]), np.array([3, 2, 1])) == pytest.approx(-np.sqrt(3) / 2)
    assert spearman(np.ones(3), np.arange(3)) is None
    assert pearson(np.array([0, 1, 2]), np.array([0, -2, -4])) == pytest.approx(-1.0)
    assert auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])) == pytest.approx(0.875)
    assert auroc(np.arange(3), np.ones(3, bool)) is None


def test_chunk_advantage_stays_within_the_episode() -> None:
    values = np.array([0.0, 0.2, 0.6, 1.0, 0.5, 0.1])
    advantages = chunk_advantages(values, np.array([4, 2]), 2)
    assert advantages.tolist() == pytest.approx([0.4, 0.6, 0.4, 0.0, -0.4, 0.0])
