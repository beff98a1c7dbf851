"""Step distillation: a student learns to reach in one step where its teacher gets in several.

For every step of the student's schedule a recorded future is noised to the level that the step begins at. The teacher
goes from there to the level that it ends at, in several Euler steps, and the student is to end in the same place: its
step is straight, so that says what it should predict. It begins with the teacher's weights. Joint states are learned as
the teacher has them at its last Euler step; values at its first, where that begins with pure noise.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from rise_env.data import WindowBatch
from rise_env.dynamics.flow import add_noise, sigma_schedule
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining, FrameValues, conditions
from rise_env.dynamics.training import train_transformer
from rise_env.dynamics.transformer import Denoised
from rise_env.errors import ConfigError, requirement
from rise_env.value.latents import weights_digest

__all__ = ["Distillation", "distill"]


def distill(training: DynamicsTraining, teacher: str | Path, teacher_steps: int = 25) -> LatentDynamics:
    """Train a student that takes the steps of `training.config.flow`; an interrupted run goes on where it stood.

    Args:
        training: The run; its configuration is the teacher's but for `flow.steps`, `flow.sigmas` and `training`.
        teacher: Directory of a dynamics model.
        teacher_steps: Steps of the teacher, spread over those of the student.

    Returns:
        The student with averaged weights, as in `<folder>/model`.

    Raises:
        ConfigError: If the teacher is of another task, or takes fewer steps than the student.
        TrainingError, CheckpointError: As `rise_env.dynamics.training.train_dynamics`.
    """
    model = LatentDynamics.from_pretrained(teacher, device=training.device).requires_grad_(False)
    if model.shape != training.shape:
        raise ConfigError(f"{teacher} has shape {model.shape}, the task {training.shape}")
    training.start()
    student = copy.deepcopy(model).requires_grad_(True)
    student.config = training.config
    told = {"teacher": weights_digest(model), "teacher_steps": teacher_steps, "sigmas": training.config.flow.sigmas}
    return train_transformer(training, student, Distillation(model, teacher_steps), told)


@dataclass(frozen=True)
class Distillation:
    """The student's loss on some windows; arguments of the call as of `rise_env.dynamics.training.transformer_loss`.

    Attributes:
        teacher: Whose way is followed.
        teacher_steps: Its steps, spread over those of the student.
    """

    teacher: LatentDynamics
    teacher_steps: int = 25

    def __call__(
        self,
        model: LatentDynamics,
        batch: WindowBatch,
        history: torch.Tensor,
        clean: torch.Tensor,
        generator: torch.Generator,
        precise: str,
        values: FrameValues | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of the student, and its metrics; `values` are not read."""
        device, flow = history.device, model.config.flow
        steps = flow.denoising_steps
        requirement("distillation").whole(steps, teacher_steps=self.teacher_steps)
        (tokens, state), _, text = conditions(model, batch, device)
        inputs = (history, tokens, state, text)
        which = torch.randint(steps, (len(batch),), generator=generator)
        schedule = sigma_schedule(flow.steps, flow.sigmas)
        high, low = schedule[which].to(device), schedule[which + 1].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        start = add_noise(clean, noise, high).float()
        with precision(precise, device):
            with torch.no_grad():
                end, known = self._follow(start, high, low, round(self.teacher_steps / steps), inputs)
            target = start - _column(high / (high - low), start) * (start - end)  # where the straight line meets 0
            mine, guess = _evaluate(model, start, high, inputs)
        error = (guess - target).square().mean()
        total, metrics = error, {"loss": error.detach()}
        if mine.states is not None and known.states is not None:
            total = total + flow.state_weight * functional.smooth_l1_loss(mine.states, known.states)
        noisy = high >= 1.0  # as the value head was trained, and is read
        if mine.values is not None and known.values is not None and noisy.any():
            total = total + flow.value_weight * functional.binary_cross_entropy_with_logits(
                mine.values[:, noisy].float(), known.values[:, noisy].float().sigmoid()
            )
        return total, metrics

    def _follow(
        self, sample: torch.Tensor, high: torch.Tensor, low: torch.Tensor, parts: int, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, Denoised]:
        """Where the teacher gets to from `high` to `low` (B,); its states at the last step, its values at the first."""
        outputs: list[Denoised] = []
        for part in range(parts):
            now, then = (high + (low - high) * (k / parts) for k in (part, part + 1))
            output, clean = _evaluate(self.teacher, sample, now, inputs)
            outputs.append(output)
            sample = sample + _column((then - now) / now, sample) * (sample - clean)
        return sample, Denoised(sample, outputs[-1].states, outputs[0].values)


def _evaluate(
    model: LatentDynamics, sample: torch.Tensor, sigma: torch.Tensor, inputs: tuple[torch.Tensor, ...]
) -> tuple[Denoised, torch.Tensor]:
    """What a model says of noisy latents (B, V, F, C, h, w), and the clean ones, float32, that follow from it."""
    history, *more = inputs
    output = model.denoise(sample, history, sigma, *more)
    latents = output.latents.float()
    return output, latents if model.config.flow.target == "x0_residual" else sample - _column(sigma, sample) * latents


def _column(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) as (B, 1, ...) with as many axes as another tensor."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))
