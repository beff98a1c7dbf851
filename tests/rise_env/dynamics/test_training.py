from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dynamics_world import CONFIG, SPEC, World, with_flow, with_training, with_transformer

from rise_env.data import ShuffledSampler
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.run import DynamicsTraining, FrameValues, draw_seed
from rise_env.dynamics.training import _sampler, _value_loss, train_dynamics, train_transformer
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.protocols import History
from rise_env.training import loop as training_loop
from rise_env.training.loop import Budget, Loop, Progress


def session(folder: Path, config: DynamicsConfig = CONFIG, steps: int = 4, **changes: Any) -> DynamicsTraining:
    settings = {"tensorboard": False, **changes}
    return DynamicsTraining(World(), config, folder, Budget(steps=3), Budget(steps=steps), **settings)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return LatentDynamics.from_pretrained(folder / "model").state_dict()


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_model_pictures_metrics_and_what_it_was(tmp_path: Path) -> None:
    reports: list[Progress] = []
    model = train_dynamics(session(tmp_path, report=reports.append, tensorboard=True))
    assert_same(weights(tmp_path), model.state_dict())
    assert {path.parent.name for path in tmp_path.rglob("*.png")} == {"samples"}
    assert list((tmp_path / "tensorboard").iterdir())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("latent_mse", "latent_mse_copy", "latent_mse_shuffled", "psnr_end", "psnr_end_copy", "state_error"):
        assert isinstance(metrics[name], float)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dynamics"]["transformer"]["width"] == 16
    assert "git" in config
    assert {report.phase for report in reports} == {"autoencoder", "encoding", "transformer"}
    assert not list(tmp_path.rglob("*.tmp*"))


def test_what_is_random_in_a_part_of_an_update_depends_on_its_number_alone(tmp_path: Path) -> None:
    run, seeds = session(tmp_path, with_training(gradient_accumulation_steps=2), steps=2), list[int]()

    def loss(model: LatentDynamics, *_: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seeds.append(torch.initial_seed())  # what dropout draws from
        total = torch.stack([parameter.sum() for parameter in model.transformer.parameters()]).sum()
        return 0 * total, {"loss": total.detach()}

    run.start()
    train_transformer(run, LatentDynamics(run.config, run.shape), loss)
    assert seeds == [draw_seed(run.config.training.seed, step, part) for step in range(2) for part in range(2)]


def test_latents_are_normalised_over_the_training_data(tmp_path: Path) -> None:
    run = session(tmp_path)
    model = train_dynamics(run)
    frames = torch.from_numpy(run.dataset.frames(run.frames))
    latents = model.encode(frames[None])[0]
    torch.testing.assert_close(latents.mean(dim=(0, 1, 3, 4)), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(dim=(0, 1, 3, 4)), torch.ones(4), rtol=0, atol=1e-2)


def test_focused_batches_begin_where_the_value_says(tmp_path: Path) -> None:
    frames = World().num_frames
    labels = FrameValues((np.arange(frames) % 5 / 5).astype(np.float32), np.arange(frames) % 7 > 0)
    config = with_training(batching="focused", focus=(0.2, 0.4), focus_share=1.0)
    with pytest.raises(ConfigError, match="needs value labels"):
        train_dynamics(session(tmp_path / "without", config, steps=1))
    run = session(tmp_path / "with", config, steps=1, values=labels)
    train_dynamics(run)
    sampler = _sampler(run)
    drawn = run.train.index[np.concatenate([sampler.draw(step) for step in range(4)])]
    assert ((labels.progress[drawn] >= 0.2) & (labels.progress[drawn] <= 0.4) & labels.known[drawn]).all()
    with pytest.raises(ConfigError, match="no recorded window begins"):
        _sampler(dataclasses.replace(run, values=FrameValues(np.ones_like(labels.progress), labels.known)))


def test_focused_batches_begin_among_the_first_frames(tmp_path: Path) -> None:
    config = with_training(batching="focused", focus_frames=2, focus_share=1.0)
    run = session(tmp_path, config, steps=1)  # no value labels are needed
    train_dynamics(run)
    drawn = np.concatenate([_sampler(run).draw(step) for step in range(8)])
    assert set(run.train.frame[drawn].tolist()) == {0, 1}
    assert run.train.frame.max() > 1
    high = with_training(batching="focused", focus_frames=2, focus=(0.9, 1.0))
    zeros = FrameValues(np.zeros(World().num_frames, np.float32), np.ones(World().num_frames, bool))
    with pytest.raises(ConfigError, match=r"focus=\[0.9, 1\].*within the first 2 frames"):
        _sampler(dataclasses.replace(run, config=high, values=zeros))


class Killed(BaseException):
    """Stands for kill -9: nothing is cleaned up by code that runs after it."""


@pytest.mark.parametrize("batching", ["shuffled", "task_centric"])
@pytest.mark.parametrize("killed_at", [("autoencoder", 2), ("transformer", 3)])
def test_a_killed_run_goes_on_to_the_same_result(
    tmp_path: Path, killed_at: tuple[str, int], batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_training(batching=batching, scenes=2, gradient_accumulation_steps=2)
    train_dynamics(session(tmp_path / "straight", config))
    original = Loop._update

    def update(self: Any) -> Any:
        if (self.phase, self.step) == killed_at:
            raise Killed
        return original(self)

    monkeypatch.setattr(Loop, "_update", update)
    with pytest.raises(Killed):
        train_dynamics(session(tmp_path / "killed", config))
    monkeypatch.undo()
    resumed: list[Progress] = []
    train_dynamics(session(tmp_path / "killed", config, report=resumed.append))
    assert [(report.phase, report.step) for report in resumed if report.resumed] == [killed_at]
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "straight"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train_dynamics(session(tmp_path))
    before = weights(tmp_path)
    steps: list[int] = []
    trained = ("autoencoder", "transformer")
    train_dynamics(session(tmp_path, report=lambda now: steps.append(now.step) if now.phase in trained else None))
    assert steps == []
    assert_same(weights(tmp_path), before)


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    """Noise is drawn per part, so the gradients differ; the samples and their number do not."""
    run = session(tmp_path, with_training(gradient_accumulation_steps=2))
    seen: list[int] = []
    original = run.train.at
    run.train.at = lambda index: (seen.extend(index.tolist()), original(index))[1]  # type: ignore[method-assign]
    train_dynamics(run)
    whole = session(tmp_path / "whole")
    expected = [whole.train.index[ShuffledSampler(whole.train, 4).draw(step)].tolist() for step in range(4)]
    assert seen[-16:] == [index for batch in expected for index in batch]


@pytest.mark.parametrize("phase", ["autoencoder", "transformer"])
def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(
    tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Loop._update

    def update(self: Any) -> Any:
        if (self.phase, self.step) == (phase, 2):
            loss = self.loss
            self.loss = lambda step, part: (loss(step, part)[0] * float("nan"), {})
        return original(self)

    monkeypatch.setattr(Loop, "_update", update)
    with pytest.raises(
        TrainingError, match=rf"{phase}, update 2: the loss is nan.*is intact.*dynamics.training.learning_rate"
    ):
        train_dynamics(session(tmp_path))
    monkeypatch.undo()
    state = torch.load(tmp_path / f"{phase}_state.pt", weights_only=True)
    assert state["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["module"].values())
    train_dynamics(session(tmp_path))
    train_dynamics(session(tmp_path / "straight"))
    assert_same(weights(tmp_path), weights(tmp_path / "straight"))


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train_dynamics(session(tmp_path))
    path = tmp_path / "transformer_state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"transformer_state\.pt is cut short or damaged"):
        train_dynamics(session(tmp_path))


def test_a_state_that_holds_code_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "autoencoder_state.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        train_dynamics(session(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    train_dynamics(session(tmp_path))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match=r"(?s)other data or settings.*\"depth\": 2.*\"depth\": 3"):
        train_dynamics(session(tmp_path, with_transformer(depth=3)))
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_autoencoder_can_be_taken_from_another_model(tmp_path: Path) -> None:
    first = train_dynamics(session(tmp_path / "first"))
    second = train_dynamics(session(tmp_path / "second", with_transformer(depth=1)), tmp_path / "first" / "model")
    assert_same(first.autoencoder.state_dict(), second.autoencoder.state_dict())
    assert not (tmp_path / "second" / "autoencoder_state.pt").exists()


def test_a_model_can_be_trained_on(tmp_path: Path) -> None:
    first = train_dynamics(session(tmp_path / "first"))
    still = train_dynamics(
        session(tmp_path / "still", with_training(learning_rate=1e-12, weight_decay=0.0)),
        initial=tmp_path / "first" / "model",
    )
    for name, value in first.state_dict().items():
        torch.testing.assert_close(still.state_dict()[name], value, rtol=0, atol=1e-6)
    moved = train_dynamics(session(tmp_path / "moved"), initial=tmp_path / "first" / "model")
    changed = {name.split(".")[0] for name, value in first.state_dict().items()
               if not torch.equal(moved.state_dict()[name], value)}  # fmt: skip
    assert changed == {"transformer"}
    with pytest.raises(ConfigError, match="other sizes"):
        train_dynamics(session(tmp_path / "deep", with_transformer(depth=3)), initial=tmp_path / "first" / "model")


@pytest.mark.parametrize("target", ["velocity", "x0_residual"])
@pytest.mark.parametrize("history", ["channels", "tokens"])
def test_training_lowers_the_loss(tmp_path: Path, target: str, history: str) -> None:
    config = with_flow(target=target, pure_noise=0.0)
    config = DynamicsConfig(
        autoencoder=config.autoencoder,
        transformer=with_transformer(history=history).transformer,
        flow=config.flow,
        training=with_training(learning_rate=1e-2, batch_size=16, autoencoder_batch_size=32).training,
    )
    losses: list[float] = []
    original = Loop._update

    def update(self: Any) -> Any:
        metrics = original(self)
        if self.phase == "transformer":
            losses.append(float(metrics["loss"]))
        return metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_update", update)
        train_dynamics(session(tmp_path, config, steps=80))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_budget_in_seconds_ends_on_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a second each time that it is looked at
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    run = DynamicsTraining(World(), CONFIG, tmp_path, Budget(steps=2), Budget(seconds=20), tensorboard=False)
    train_dynamics(run)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 20 <= metrics["seconds"] < 30


def test_budgets_are_one_thing_or_the_other() -> None:
    for wrong in ({}, {"steps": 1, "seconds": 1.0}, {"steps": -1}):
        with pytest.raises(ConfigError):
            Budget(**wrong)


def test_a_video_autoencoder_needs_weights(tmp_path: Path) -> None:
    import dataclasses

    spec = dataclasses.replace(SPEC, image_size=(32, 32), chunk=18, history=1)
    small = dataclasses.replace(CONFIG.video_autoencoder, latent_channels=4, channels=(8, 8, 8, 8), layers=(1,) * 5)
    one = with_transformer(patch=(1, 1)).transformer
    config = dataclasses.replace(CONFIG, autoencoder_kind="video", video_autoencoder=small, transformer=one)
    with pytest.raises(ConfigError, match=r"video_autoencoder\.weights"):
        train_dynamics(
            DynamicsTraining(World(4, 30, spec), config, tmp_path, Budget(steps=1), Budget(steps=1), tensorboard=False)
        )


def square_values(known: bool = True) -> FrameValues:
    """How far right the square is."""
    world = World()
    return FrameValues((world.state[:, 0] + 1) / 2, np.full(len(world.state), known))


def test_the_value_head_foresees_values(tmp_path: Path) -> None:
    config = with_transformer(value_head=2)
    config = dataclasses.replace(config, flow=dataclasses.replace(CONFIG.flow, pure_noise=1.0))
    config = dataclasses.replace(
        config, training=dataclasses.replace(config.training, batch_size=16, learning_rate=3e-3)
    )
    values = square_values()
    model = train_dynamics(session(tmp_path, config, 120, values=values))
    error = json.loads((tmp_path / "metrics.json").read_text())["value_error"]
    assert error < 0.5 * values.progress.var()
    run = session(tmp_path, config, values=values)
    batch = run.held_out.batch(np.arange(3))
    past = History(
        torch.from_numpy(run.dataset.frames(batch.history_index)), torch.from_numpy(batch.states), batch.prompts
    )
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    prediction, _ = model.predict(model.open(past), torch.from_numpy(batch.actions), generators)
    assert prediction.values is not None
    assert prediction.values.value.shape == prediction.values.spread.shape == (3, 2)
    assert (prediction.values.spread > 0).all()  # its members learned from different episodes


def test_the_value_head_learns_nothing_from_a_future_it_can_see_or_that_has_no_label(tmp_path: Path) -> None:
    run = session(tmp_path, with_transformer(value_head=2), values=square_values())
    batch = run.train.batch(np.arange(4))
    logits = torch.randn(2, 4, 2, requires_grad=True)
    for values, sigma, learns in (
        (square_values(), torch.full((4,), 0.99), False),
        (square_values(known=False), torch.ones(4), False),
        (square_values(), torch.ones(4), True),
    ):
        (gradient,) = torch.autograd.grad(_value_loss(values, batch, logits, sigma), logits)
        assert bool(gradient.any()) == learns


def test_a_value_head_needs_labels_and_can_be_added_to_a_trained_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="value labels"):
        session(tmp_path, with_transformer(value_head=2))
    first = train_dynamics(session(tmp_path / "first"))
    later = session(tmp_path / "second", with_transformer(value_head=2), steps=1, values=square_values())
    second = train_dynamics(later, initial=tmp_path / "first" / "model")
    assert_same(first.autoencoder.state_dict(), second.autoencoder.state_dict())
    assert any(name.startswith("transformer.value_head.") for name in second.state_dict())
