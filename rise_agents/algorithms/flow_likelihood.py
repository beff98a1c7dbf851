"""What the ratio of PPO is made of for a flow policy, whose own density nobody can compute.

A flow policy integrates from noise (t = 1) to a chunk (t = 0) and is deterministic given the noise. Either noise is
added on the way, and the *denoising chain* has a log-probability (`DenoisingChain`); or the flow-matching loss of the
chunk takes the place of minus the log-probability (`FlowLosses`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import override

import torch

from rise_agents.policies.base import VelocityField

__all__ = ["DenoisingChain", "FlowLikelihood", "FlowLosses", "flow_sde_deviations"]


class FlowLikelihood(ABC):
    """Proposes chunks and says how likely they are.

    Args:
        shape: Shape of a chunk in the space of the flow, `Policy.noise_shape`.
        dim: Joints: components of the last axis beyond them are padding, which has no effect and is left out.
        steps: Integration steps.

    Attributes:
        size: Numbers that are recorded of a proposal.
    """

    size: int

    def __init__(self, shape: tuple[int, ...], dim: int, steps: int) -> None:
        self.shape, self.dim, self.steps = shape, dim, steps
        self.numbers = math.prod(shape)

    @abstractmethod
    def propose(
        self, field: VelocityField, noise: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Integrate from noise to chunks.

        Args:
            field: Velocities at the states, see `Policy.velocity_field`.
            noise: Where to start, (B, *shape).
            generator: CPU generator of everything else that is random.

        Returns:
            Chunks (B, *shape) in the space of the flow, and what `log_prob` needs to know of them, (B, size).
        """

    @abstractmethod
    def log_prob(self, field: VelocityField, record: torch.Tensor) -> torch.Tensor:
        """Log-probability of proposals, or what takes its place, (B,).

        Args:
            field: Velocities at the states of the proposals, of the same policy or of another.
            record: As `propose` gave it.
        """


def flow_sde_deviations(steps: int, level: float) -> torch.Tensor:
    """Deviations of the noise per step under which the SDE has the marginals of the flow (Flow-GRPO, arXiv 2505.05470).

    sqrt(delta) sigma_t with sigma_t = level sqrt(t / (1 - t)); at t = 1 the divisor is that of the second step.
    """
    time = 1.0 - torch.arange(steps) / steps
    below = 1.0 - torch.cat([time[1:2], time[1:]]) if steps > 1 else torch.ones(1)
    return level * torch.sqrt(time / below / steps)


class DenoisingChain(FlowLikelihood):
    """Integration with Gaussian noise in one random step, or in all.

    *One step*, the flow-SDE of RLinf (arXiv 2510.25889): all other steps are those of the ODE; the mean is corrected so
    that the distribution of the chunk stays that of the flow, and the log-probability is that of the random step,
    summed over the chunk. *All steps* (ReinFlow, arXiv 2505.22094): noise is added to every step of the ODE; the
    log-probability is averaged over steps and components. Its clip range is for an average: as a sum over hundreds of
    components it would allow next to no change.

    Args:
        shape: As of `FlowLikelihood`.
        dim: As of `FlowLikelihood`.
        deviations: Standard deviation of the noise of each step, (steps,).
        every_step: Noise in all steps; else in one, drawn for every chunk.
    """

    def __init__(self, shape: tuple[int, ...], dim: int, deviations: torch.Tensor, every_step: bool) -> None:
        super().__init__(shape, dim, len(deviations))
        self.deviations, self.every_step = deviations.float(), every_step
        self.size = (self.steps + 1) * self.numbers if every_step else 1 + 2 * self.numbers

    def mean(self, noisy: torch.Tensor, velocity: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Mean of what a random step leads to.

        Args:
            noisy: Where the step begins, (B, *shape).
            velocity: The flow's velocity there, (B, *shape).
            step: Number of the step, int64 (B,).
        """
        mean = noisy - velocity / self.steps
        if not self.every_step:  # towards the flow's marginal: its score is minus the predicted noise over the time
            time = 1.0 - step.to(noisy) / self.steps
            predicted_noise = noisy + _wide(1.0 - time, noisy) * velocity
            variance = self.deviations.to(noisy)[step].square()
            mean = mean - _wide(variance / (2.0 * time), noisy) * predicted_noise
        return mean

    @override
    def propose(
        self, field: VelocityField, noise: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count, device = len(noise), noise.device
        chosen = torch.randint(self.steps, (count,), generator=generator).to(device)
        points, noisy = [noise], noise
        before, after = torch.zeros_like(noise), torch.zeros_like(noise)
        drawn = torch.zeros_like(noise)
        for number in range(self.steps):
            step = torch.full((count,), number, device=device)
            velocity = field(noisy, 1.0 - step.to(noisy) / self.steps)
            if self.every_step or number == 0:  # the noise of the one random step is drawn once
                drawn = torch.randn(noise.shape, generator=generator).to(noise)
            following = self.mean(noisy, velocity, step) + self.deviations[number].item() * drawn
            if not self.every_step:
                random = _wide(chosen == number, noisy)
                following = torch.where(random, following, noisy - velocity / self.steps)
                before, after = torch.where(random, noisy, before), torch.where(random, following, after)
            noisy = following
            points.append(noisy)
        if self.every_step:
            return noisy, torch.stack(points, dim=1).flatten(1)
        return noisy, torch.cat([chosen[:, None].to(noise), before.flatten(1), after.flatten(1)], dim=1)

    @override
    def log_prob(self, field: VelocityField, record: torch.Tensor) -> torch.Tensor:
        if not self.every_step:
            step = record[:, 0].long()
            before, after = record[:, 1:].unflatten(1, (2, *self.shape)).unbind(1)
            return self._density(field, before, after, step).sum(dim=(1, 2))
        points = record.unflatten(1, (self.steps + 1, *self.shape))
        total = torch.zeros(len(record), device=record.device)
        for number in range(self.steps):
            step = torch.full((len(record),), number, device=record.device)
            total = total + self._density(field, points[:, number], points[:, number + 1], step).mean(dim=(1, 2))
        return total / self.steps

    def _density(
        self, field: VelocityField, before: torch.Tensor, after: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Log-density of every component of steps, padding left out, (B, chunk, dim)."""
        deviation = self.deviations.to(before)[step]
        velocity = field(before, 1.0 - step.to(before) / self.steps)
        away = (after - self.mean(before, velocity, step)) / _wide(deviation, before)
        found = -0.5 * away.square() - _wide(deviation.log(), before) - 0.5 * math.log(2.0 * math.pi)
        return found[..., : self.dim]


class FlowLosses(FlowLikelihood):
    """Flow policy optimisation (FPO, arXiv 2507.21053): minus the flow-matching loss in place of the log-probability.

    Noise and times are drawn once per proposal, and the losses under them are averaged, before PPO takes the
    exponential of the difference. The loss is the policy's own (`Policy.loss_weight`), times are uniform as in FPO.

    Args:
        shape: As of `FlowLikelihood`.
        dim: As of `FlowLikelihood`.
        steps: As of `FlowLikelihood`.
        samples: Noises and times per proposal.
        weight: `Policy.loss_weight`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int,
        steps: int,
        samples: int,
        weight: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__(shape, dim, steps)
        self.samples, self.weight = samples, weight
        self.size = self.numbers + samples * (self.numbers + 1)

    @override
    def propose(
        self, field: VelocityField, noise: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        noisy, count = noise, len(noise)
        for number in range(self.steps):
            time = torch.full((count,), 1.0 - number / self.steps, device=noise.device)
            noisy = noisy - field(noisy, time) / self.steps
        noises = torch.randn((count, self.samples * self.numbers), generator=generator)
        times = torch.rand((count, self.samples), generator=generator) * 0.999 + 0.001
        return noisy, torch.cat([noisy.flatten(1), noises.to(noise), times.to(noise)], dim=1)

    @override
    def log_prob(self, field: VelocityField, record: torch.Tensor) -> torch.Tensor:
        clean = record[:, : self.numbers].unflatten(1, self.shape)
        noises = record[:, self.numbers : -self.samples].unflatten(1, (self.samples, *self.shape))
        total = torch.zeros(len(record), device=record.device)
        for noise, time in zip(noises.unbind(1), record[:, -self.samples :].unbind(1), strict=True):
            noisy = clean + _wide(time, clean) * (noise - clean)
            error = field(noisy, time) - (noise - clean)
            total = total - self.weight(time) * error[..., : self.dim].square().mean(dim=(1, 2))
        return total / self.samples


def _wide(values: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
    """Values (B,) with as many axes as chunks (B, ...)."""
    return values.view(-1, *[1] * (chunks.dim() - 1))
