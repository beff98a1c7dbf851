"""Step distillation at a tiny size."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_world import SPEC, World, with_flow, with_transformer

from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.distillation import Distillation, distill
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.run import DynamicsTraining, Latents, conditions
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.transformer import Denoised
from rise_env.errors import CheckpointError, ConfigError
from rise_env.training.loop import Budget

SHAPE = DynamicsShape.of(SPEC)


def teacher_of(config: DynamicsConfig) -> LatentDynamics:
    """Random, but with something to say at every noise level."""
    torch.manual_seed(0)
    model = LatentDynamics(config, SHAPE)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.3)
    return model.eval().requires_grad_(False)


def run_of(config: DynamicsConfig, folder: Path, steps: int = 60, **training: Any) -> DynamicsTraining:
    settings = dataclasses.replace(config.training, learning_rate=3e-3, ema_decay=0.0, **training)
    config = dataclasses.replace(config, training=settings)
    return DynamicsTraining(World(), config, folder, Budget(1), Budget(steps), tensorboard=False)


def samples(model: LatentDynamics, run: DynamicsTraining) -> torch.Tensor:
    """Imagined latents of held-out windows."""
    return sampled(model, run).latents


def sampled(model: LatentDynamics, run: DynamicsTraining) -> Denoised:
    """What is imagined of held-out windows."""
    batch = run.held_out.batch(torch.arange(4).numpy())
    (tokens, state), _, text = conditions(model, batch, torch.device("cpu"))
    history = Latents(model, run).history(batch)
    shape = (4, 2, model.future, *model.autoencoder.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.sample(noise, history, tokens, state, text)


def loss_of(model: LatentDynamics, teacher: LatentDynamics, run: DynamicsTraining, steps: int) -> float:
    batch = run.train.batch(torch.arange(6).numpy())
    latents = Latents(model, run)
    pair = latents.history(batch), latents.future(batch)
    generator = torch.Generator().manual_seed(3)
    return float(Distillation(teacher, steps)(model, batch, *pair, generator, "fp32")[0])


@pytest.mark.parametrize("target", ["velocity", "x0_residual"])
def test_the_teacher_is_its_own_student_where_both_take_the_same_steps(target: str, tmp_path: Path) -> None:
    config = with_flow(target=target, sigmas=(1.0, 0.5))
    teacher, run = teacher_of(config), run_of(config, tmp_path)
    assert loss_of(teacher, teacher, run, 2) < 1e-8
    assert loss_of(teacher, teacher, run, 8) > 1e-5
    with pytest.raises(ConfigError, match="teacher_steps is 1, expected a whole number from 2"):
        loss_of(teacher, teacher, run, 1)


def test_values_are_learned_and_read_where_the_future_is_pure_noise(tmp_path: Path) -> None:
    config = with_transformer(value_head=2)
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, sigmas=(1.0, 0.5)))
    teacher, run = teacher_of(config), run_of(with_flow(sigmas=(1.0, 0.5)), tmp_path)
    student = copy.deepcopy(teacher).requires_grad_(True)
    batch, latents = run.train.batch(torch.arange(6).numpy()), Latents(teacher, run)
    pair = latents.history(batch), latents.future(batch)
    loss, _ = Distillation(teacher, 8)(student, batch, *pair, torch.Generator().manual_seed(3), "fp32")
    loss.backward()
    assert student.transformer.head.weight.grad.abs().max() > 0
    # It says what its teacher says: nothing to learn, although later steps would say something else.
    assert all(one.grad.abs().max() < 1e-7 for one in student.transformer.value_head.parameters())
    values = [sampled(teacher.with_settings({"flow.sigmas": [], "flow.steps": steps}), run).values for steps in (1, 5)]
    assert torch.equal(*values)
    assert values[0].std() > 0


def test_one_step_comes_closer_to_many(tmp_path: Path) -> None:
    """The student of one step beside the teacher of one step, both against the teacher of eight."""
    config = with_flow(target="velocity", steps=8)
    teacher = teacher_of(config)
    teacher.save_pretrained(tmp_path / "teacher")
    run = run_of(with_flow(target="velocity", steps=8, sigmas=(1.0,)), tmp_path / "run")
    student = distill(run, tmp_path / "teacher", teacher_steps=8)
    many = samples(teacher, run)
    hasty = samples(teacher.with_settings({"flow.steps": 1}), run)
    learned = samples(student, run)
    assert student.config.flow.denoising_steps == 1
    assert (learned - many).square().mean() < 0.5 * (hasty - many).square().mean()
    assert torch.equal(samples(LatentDynamics.from_pretrained(tmp_path / "run" / "model"), run), learned)
    assert torch.equal(many, samples(LatentDynamics.from_pretrained(tmp_path / "teacher"), run))
    longer = run_of(with_flow(target="velocity", steps=8, sigmas=(1.0,)), tmp_path / "run", steps=61)
    with pytest.raises(CheckpointError, match="other data or settings"):
        distill(longer, tmp_path / "teacher", teacher_steps=4)


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    teacher_of(with_transformer(depth=1)).save_pretrained(tmp_path / "teacher")
    run = run_of(with_transformer(depth=1), tmp_path / "run")
    run.shape = dataclasses.replace(SHAPE, chunk=8)
    with pytest.raises(ConfigError, match="has shape"):
        distill(run, tmp_path / "teacher")
