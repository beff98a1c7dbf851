"""FlowPolicy: the embedded default, small enough for two CPU cores.

Flow matching over action chunks as in pi0 (arXiv 2410.24164): x_t = t noise + (1 - t) chunk, the network predicts the
velocity noise - chunk, or the chunk, from which the velocity follows, and sampling integrates from t = 1 to 0. What is
conditioned on besides the observation is the level of the advantage (RISE, arXiv 2602.11075, Eq. 3; RECAP, arXiv
2511.14759).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from rise_agents.policies.base import Context, Policy, stack_views
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import ChunkDenoiser, NetworkConfig, ViewEncoder
from rise_agents.policies.real_time import filled_up, guidance_weight, prefix_weights
from rise_env.config import decode
from rise_env.errors import CheckpointError, ConfigError, requirement
from rise_env.files import to_plain
from rise_env.pretrained import local_directory, read_config, read_weights, save_checkpoint
from rise_env.tasks import TaskSpec, task_from_section

__all__ = ["FlowPolicy", "FlowPolicyConfig", "Trajectory"]

KIND = "rise-flow-policy"
_TIME_FLOOR = 0.1
_LEAST_SPREAD = {"rad": 0.02, "m": 0.004}  # of a component of the chunk, so that still joints are not blown up


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Settings of a `FlowPolicy`.

    Attributes:
        network: Sizes.
        lags: Past observations to read, in control steps; two moments show speeds, one does not.
        predicts: What the network puts out: "velocity", or "chunk", the clean chunk, of which the velocity follows. The
            second need not carry the noise through the network, and gets to the same precision in far fewer updates.
        steps: Integration steps when acting.
        guidance: Weight of classifier-free guidance over the advantage when acting; 1 for none.
        noise: Deviation of the noise that a chunk starts from when acting; 0 makes the policy deterministic.
        draws: Noises and times drawn per chunk in training: images are dear to encode, chunks are cheap to denoise.
        unsaid: Part of the training samples whose advantage level is hidden, for classifier-free guidance.
        jitter: Largest relative change of brightness and contrast in training.
        shift: Largest shift of each picture in training, in pixels.
        storage: Matrices on disk in "fp32" or "fp16".
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    lags: tuple[int, ...] = (2,)
    predicts: str = "velocity"
    steps: int = 6
    guidance: float = 2.0
    noise: float = 1.0
    draws: int = 2
    unsaid: float = 0.1
    jitter: float = 0.1
    shift: int = 2
    storage: str = "fp16"

    def __post_init__(self) -> None:
        require = requirement("section 'policy'")
        require(self.predicts in ("velocity", "chunk"), f"predicts is {self.predicts!r}, expected velocity or chunk")
        require(self.steps >= 1, f"steps is {self.steps}, expected at least 1")
        require(self.draws >= 1, f"draws is {self.draws}, expected at least 1")
        require(0 <= self.noise <= 1, f"noise is {self.noise}, expected in [0, 1]")
        require(0 <= self.unsaid < 1, f"unsaid is {self.unsaid}, expected in [0, 1)")
        require(0 <= self.jitter < 1, f"jitter is {self.jitter}, expected in [0, 1)")
        require(self.shift >= 0, f"shift is {self.shift}, expected at least 0")
        require(self.storage in ("fp32", "fp16"), f"storage is {self.storage!r}, expected fp32 or fp16")


@dataclass(frozen=True)
class Trajectory:
    """A stochastic sample, with what its probability is computed from.

    Attributes:
        points: Normalised chunks on the way from noise to chunk, (B, steps + 1, chunk x D).
        log_prob: Log-density of the steps after the initial noise, (B,).
    """

    points: torch.Tensor
    log_prob: torch.Tensor


class FlowPolicy(Policy):
    """Images, joint state and advantage level in, action chunk out.

    Angles are predicted relative to the present joint state, lengths (gripper openings) as they are; both are
    normalised by mean and deviation of the training data, component by component.

    Args:
        spec: Task.
        config: Settings.
        codec: Meaning of the advantage levels.
    """

    supports_rtc = True
    relative: torch.Tensor
    state_mean: torch.Tensor
    state_std: torch.Tensor
    chunk_mean: torch.Tensor
    chunk_std: torch.Tensor

    def __init__(
        self, spec: TaskSpec, config: FlowPolicyConfig | None = None, codec: AdvantageCodec | None = None
    ) -> None:
        super().__init__()
        self.spec, self.config = spec, config or FlowPolicyConfig()
        self.codec, self.lags = codec or AdvantageCodec(), self.config.lags
        self.guidance, self.noise = self.config.guidance, self.config.noise
        dim, moments = spec.layout.dim, 1 + len(self.lags)
        network = self.config.network
        self.encoders = nn.ModuleList([ViewEncoder(moments, spec.image_size, network) for _ in spec.cameras])
        self.features = len(spec.cameras) * network.embed + moments * dim
        self.denoiser = ChunkDenoiser(spec.chunk * dim, self.features, self.codec.levels + 1, network)
        self.register_buffer("relative", torch.tensor([float(unit == "rad") for unit in spec.layout.units]))
        self.register_buffer("state_mean", torch.zeros(dim))
        self.register_buffer("state_std", torch.ones(dim))
        self.register_buffer("chunk_mean", torch.zeros(spec.chunk, dim))
        self.register_buffer("chunk_std", torch.ones(spec.chunk, dim))

    # ------------------------------------------------------------------ normalisation

    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Take mean and deviation from data: states (N, D) and the chunks (N, chunk, D) commanded from there."""
        least = torch.tensor([_LEAST_SPREAD[unit] for unit in self.spec.layout.units])
        self.state_mean.copy_(states.mean(0))
        self.state_std.copy_(states.std(0).clamp(min=least))
        relative = chunks - self.relative * states[:, None]
        self.chunk_mean.copy_(relative.mean(0))
        self.chunk_std.copy_(relative.std(0).clamp(min=least))

    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Chunks in rad and m (B, chunk, D) to the flow's space (B, chunk x D)."""
        return ((chunks - self.relative * state[:, None] - self.chunk_mean) / self.chunk_std).flatten(1)

    def denormalise(self, flat: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`."""
        chunks = flat.unflatten(1, (self.spec.chunk, self.spec.layout.dim))
        return chunks * self.chunk_std + self.chunk_mean + self.relative * state[:, None]

    # ------------------------------------------------------------------ the policy

    def context(
        self,
        observations: Mapping[str, torch.Tensor],
        prompts: Sequence[str],
        generator: torch.Generator | None = None,
    ) -> Context:
        """Encode observations (see `Policy.context`); this policy knows one task and does not read the prompt."""
        frames, states = stack_views(observations, self.spec, self.lags)
        return self.encode(frames, states, generator)

    def encode(self, frames: torch.Tensor, states: torch.Tensor, generator: torch.Generator | None = None) -> Context:
        """Frames uint8 (B, L, V, H, W, 3) and states (B, L, D), the present moment first."""
        views = frames.permute(2, 0, 1, 3, 4, 5)  # V, B, L, H, W, 3
        if generator is not None and self.config.shift:
            views = _shifted(views, self.config.shift, generator)
        images = views.permute(0, 1, 2, 5, 3, 4).flatten(2, 3).float()  # V, B, 3L, H, W
        gain, shift = torch.full((2, len(images), images.shape[1], 1, 1, 1), 1.0).to(images)
        if generator is not None and self.config.jitter:
            drawn = torch.rand((2, *gain.shape), generator=generator).to(images)
            gain, shift = 1.0 + self.config.jitter * (2.0 * drawn - 1.0)
        images = images.mul_(gain / 127.5).sub_(shift)  # to [-1, 1], in place
        seen = [encoder(view) for encoder, view in zip(self.encoders, images, strict=True)]
        joints = (states - self.state_mean) / self.state_std
        # The past as a difference: what is read off two moments is how fast things move.
        joints = torch.cat([joints[:, :1], 5 * (joints[:, :1] - joints[:, 1:])], dim=1)
        return Context(torch.cat([*seen, joints.flatten(1)], dim=1), states[:, 0])

    def velocity(
        self, noisy: torch.Tensor, features: torch.Tensor, time: torch.Tensor, levels: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Velocity (B, chunk x D), with classifier-free guidance where its weight is not 1."""
        found = self.denoiser(noisy, features, time, levels)
        if guidance != 1.0:
            unsaid = self.denoiser(noisy, features, time, torch.full_like(levels, self.codec.unsaid))
            found = unsaid + guidance * (found - unsaid)
        return found if self.config.predicts == "velocity" else (noisy - found) / time[:, None]

    def sample(
        self,
        context: Context,
        levels: torch.Tensor,
        noise: torch.Tensor,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
    ) -> torch.Tensor:
        """Action chunks by Euler steps (see `Policy.sample`)."""
        return self._integrated(context, levels, noise, guidance, steps)

    def sample_rtc(
        self,
        context: Context,
        levels: torch.Tensor,
        noise: torch.Tensor,
        previous: torch.Tensor,
        delay: int,
        horizon: int,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
    ) -> torch.Tensor:
        """Action chunks by guided Euler steps (see `Policy.sample_rtc`)."""
        left, length = min(previous.shape[1], self.spec.chunk), self.spec.chunk
        goal = self.normalise(filled_up(previous, length).to(context.state), context.state)
        weights = prefix_weights(min(delay, left), min(horizon, left), length).to(goal)
        tied = weights.repeat_interleave(self.spec.layout.dim)

        def correct(x: torch.Tensor, velocity: torch.Tensor, time: float, count: int) -> torch.Tensor:
            error = (goal - (x - time * velocity)) * tied
            return velocity - guidance_weight(time, count) * error

        return self._integrated(context, levels, noise, guidance, steps, correct)

    def _integrated(
        self,
        context: Context,
        levels: torch.Tensor,
        noise: torch.Tensor,
        guidance: float,
        steps: int | None,
        correct: Callable[[torch.Tensor, torch.Tensor, float, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        x, count = noise.flatten(1), steps or self.config.steps
        for step in range(count):
            now = 1.0 - step / count
            time = torch.full((len(x),), now, device=x.device)
            velocity = self.velocity(x, context.features, time, levels, guidance)
            x = x - (velocity if correct is None else correct(x, velocity, now, count)) / count
        return self.denormalise(x, context.state)

    def loss(
        self,
        context: Context,
        levels: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        hidden: float | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss of each chunk, (B,) (see `Policy.loss`); hides `config.unsaid` of the levels."""
        draws = self.config.draws
        clean = self.normalise(chunks, context.state).repeat(draws, 1)
        levels, features = levels.repeat(draws), context.features.repeat(draws, 1)
        share = self.config.unsaid if hidden is None else hidden
        noise, time, levels = self.training_draws(clean, levels, generator, share)
        noisy = time[:, None] * noise + (1 - time[:, None]) * clean
        predicted = self.denoiser(noisy, features, time, levels)
        if self.config.predicts == "velocity":
            losses = (predicted - (noise - clean)).square().mean(dim=1)
        else:  # the velocity's error is this one over the time; bounded, so that almost clean chunks do not rule
            losses = (predicted - clean).square().mean(dim=1) / (time.square() + _TIME_FLOOR)
        return losses.unflatten(0, (draws, -1)).mean(dim=0)

    def distillation_loss(
        self,
        context: Context,
        levels: torch.Tensor,
        chunks: torch.Tensor,
        other: Policy,
        other_context: Context,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Difference of what two networks put out near some chunks, (B,) (see `Policy.distillation_loss`).

        Half of the comparisons are without noise, where a policy of `noise` 0 acts.
        """
        assert isinstance(other, FlowPolicy)
        draws = self.config.draws
        clean = self.normalise(chunks, context.state).repeat(draws, 1)
        noise, time, levels = self.training_draws(clean, levels.repeat(draws), generator, 0.0)
        noise = noise * (torch.rand((len(clean), 1), generator=generator) < 0.5).to(noise)
        noisy = time[:, None] * noise + (1 - time[:, None]) * clean
        mine = self.denoiser(noisy, context.features.repeat(draws, 1), time, levels)
        with torch.no_grad():
            theirs = other.denoiser(noisy, other_context.features.repeat(draws, 1), time, levels)
        losses = (mine - theirs).square().mean(dim=1)
        if self.config.predicts == "chunk":
            losses = losses / (time.square() + _TIME_FLOOR)
        return losses.unflatten(0, (draws, -1)).mean(dim=0)

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the denoiser; the image encoders stay as warm-up left them."""
        return list(self.denoiser.parameters())

    # ------------------------------------------------------------------ sampling with probabilities

    def sample_path(
        self, context: Context, levels: torch.Tensor, noise: torch.Tensor, spread: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, Trajectory]:
        """A stochastic sample whose probability is known, for policy gradients.

        Every Euler step adds normal noise of deviation `spread` x sqrt(1 / steps), so that the way from
        noise to chunk is a Markov chain of normal steps (as in ReinFlow, arXiv 2505.22094).

        Returns:
            Chunks (B, chunk, D) in rad and m, and the trajectory.
        """
        count = self.config.steps
        points = [noise.flatten(1)]
        for step in range(count):
            mean = self._step(points[-1], context, levels, step)
            drawn = torch.randn(mean.shape, generator=generator).to(mean) * spread / math.sqrt(count)
            points.append(mean + drawn)
        path = torch.stack(points, dim=1)
        return self.denormalise(points[-1], context.state), Trajectory(
            path, self.log_prob(context, levels, path, spread)
        )

    def log_prob(self, context: Context, levels: torch.Tensor, points: torch.Tensor, spread: float) -> torch.Tensor:
        """Log-density (B,) of a trajectory's steps, under the present weights; differentiable.

        Args:
            context: What was seen.
            levels: int64 (B,).
            points: (B, steps + 1, chunk x D), of a `Trajectory`.
            spread: As it was sampled with.
        """
        steps = points.shape[1] - 1
        deviation = spread / math.sqrt(steps)
        total = points.new_zeros(len(points))
        for step in range(steps):
            error = (points[:, step + 1] - self._step(points[:, step], context, levels, step)) / deviation
            total = total - 0.5 * error.square().sum(1)
        return total - steps * points.shape[2] * (math.log(deviation) + 0.5 * math.log(2 * math.pi))

    def _step(self, x: torch.Tensor, context: Context, levels: torch.Tensor, step: int) -> torch.Tensor:
        time = torch.full((len(x),), 1.0 - step / self.config.steps, device=x.device)
        return x - self.velocity(x, context.features, time, levels, 1.0) / self.config.steps

    # ------------------------------------------------------------------ files

    def save_pretrained(self, path: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, in one step."""
        half = self.config.storage == "fp16"
        tensors = {
            name: tensor.half() if half and tensor.dim() >= 2 and not name.startswith("chunk_") else tensor
            for name, tensor in self.state_dict().items()
        }
        config = {
            "task": to_plain(self.spec),
            "policy": to_plain(dataclasses.asdict(self.config)),
            "advantage": self.codec.to_dict(),
        }
        save_checkpoint(path, KIND, config, tensors)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load what `save_pretrained` wrote.

        Args:
            path: Directory, or id of a repository on the Hugging Face Hub.
            device: Where to put the weights.

        Raises:
            CheckpointError: If something is missing, damaged or does not fit.
        """
        folder = local_directory(path, "policy")
        content: dict[str, Any] = read_config(folder, KIND)
        try:
            spec = task_from_section(content["task"])
            config = decode(FlowPolicyConfig, content["policy"], f"{folder}, key 'policy'")
            codec = AdvantageCodec.from_dict(content["advantage"])
        except (ConfigError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder}/config.json is damaged: {error}") from error
        policy = cls(spec, config, codec)
        policy.load_state_dict(read_weights(folder, policy.state_dict()))
        return policy.to(device).eval()


def _shifted(views: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Shift pictures (V, B, L, H, W, 3) by up to `most` pixels, moments of one view alike; borders are repeated.

    Rows are copied first, then columns, whole ones each: five times as fast as indexing pixel by pixel.
    """
    count, batch, moments, height, width = views.shape[:5]
    pictures = count * batch
    rows, columns = (
        (torch.arange(size) + torch.randint(-most, most + 1, (count, batch, 1), generator=generator)).clamp(0, size - 1)
        for size in (height, width)
    )
    first_row = torch.arange(pictures * moments).view(pictures, moments, 1) * height
    row = (first_row + rows.view(pictures, 1, height)).flatten().to(views.device)
    moved = views.reshape(pictures * moments * height, width, 3).index_select(0, row)
    moved = moved.view(pictures, moments * height, width, 3).transpose(1, 2).reshape(pictures * width, -1)
    first_column = torch.arange(pictures).view(pictures, 1) * width
    column = (first_column + columns.view(pictures, width)).flatten().to(views.device)
    moved = moved.index_select(0, column).view(pictures, width, moments, height, 3)
    return moved.permute(0, 2, 3, 1, 4).reshape(views.shape)
