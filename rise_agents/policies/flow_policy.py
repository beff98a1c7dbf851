"""FlowPolicy: the embedded default, small enough for two CPU cores.

Flow matching over action chunks as in pi0 (arXiv 2410.24164): x_t = t noise + (1 - t) chunk, the network predicts the
velocity noise - chunk, or the chunk, from which the velocity follows, and sampling integrates from t = 1 to 0. What is
conditioned on besides the observation is the bin of the advantage (RISE, arXiv 2602.11075, Eq. 3; RECAP, arXiv
2511.14759).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rise_agents.policies.base import Context, Policy, VelocityField, stack_views
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import ChunkDenoiser, NetworkConfig, ViewEncoder
from rise_agents.policies.real_time import RtcConstraint, filled_up, guidance_weight, prefix_weights
from rise_env.errors import ConfigError, requirement
from rise_env.pretrained import STORAGES
from rise_env.spaces import check_lags, default_lags
from rise_env.tasks import TaskSpec

__all__ = ["FlowPolicy", "FlowPolicyConfig"]

_TIME_FLOOR = 0.1
_LEAST_SPREAD = (0.02, 0.004)  # rad and m, of a component of the chunk, so that still joints are not blown up


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Settings of a `FlowPolicy`.

    Attributes:
        network: Sizes.
        lags: Past observations to read, in control steps, multiples of the task's stride; two moments show speeds, one
            does not. The last imagined frame (one stride) when None.
        prediction_type: What the network predicts: "velocity", or "sample", the clean chunk, from which the velocity
            follows. The second need not carry the noise through the network, and gets to the same precision in far
            fewer updates.
        steps: Integration steps when acting.
        guidance: Weight of classifier-free guidance over the advantage when acting; 1 for none.
        noise_scale: Standard deviation of the noise that a chunk starts from when acting; 0 is deterministic.
        noise_samples: Noises and times drawn per chunk in training: images are dear to encode, chunks cheap to denoise.
        condition_dropout: Part of the training samples whose advantage bin is left out, for classifier-free guidance.
        jitter: Largest relative change of brightness and contrast in training.
        shift: Largest shift of each picture in training, in pixels.
        storage: Matrices on disk in "fp32", "fp16" or "int8".
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "predicts": "prediction_type", "noise": "noise_scale", "draws": "noise_samples", "unsaid": "condition_dropout",
    }  # fmt: skip

    network: NetworkConfig = field(default_factory=NetworkConfig)
    lags: tuple[int, ...] | None = None
    prediction_type: str = "velocity"
    steps: int = 6
    guidance: float = 2.0
    noise_scale: float = 1.0
    noise_samples: int = 2
    condition_dropout: float = 0.1
    jitter: float = 0.1
    shift: int = 2
    storage: str = "fp16"

    def __post_init__(self) -> None:
        require = requirement("section 'policy'")
        require.one_of(("velocity", "sample"), self, "prediction_type")
        require.one_of(STORAGES, self, "storage")
        require.at_least(1, self, "steps", "noise_samples")
        require.at_least(0, self, "shift")
        require.within("[0, 1]", self, "noise_scale")
        require.within("[0, 1)", self, "condition_dropout", "jitter")


def _standard_terms(config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's configuration of version 1 in the words of version 2."""
    if config["policy"].get("predicts") != "chunk":
        return config
    return {**config, "policy": {**config["policy"], "predicts": "sample"}}


class FlowPolicy(Policy):
    """Images, joint state and advantage bin in, action chunk out.

    Angles are predicted relative to the present joint state, lengths (gripper openings) as they are; both are
    normalised by mean and deviation of the training data, component by component.

    Args:
        spec: Task.
        config: Settings.
        codec: Meaning of the advantage bins.
    """

    kind = "rise-flow-policy"
    upgrades: ClassVar = {1: _standard_terms}
    full_precision = ("chunk_",)
    Config = FlowPolicyConfig
    supports_rtc = True
    rows = 16
    relative: torch.Tensor
    state_mean: torch.Tensor
    state_std: torch.Tensor
    chunk_mean: torch.Tensor
    chunk_std: torch.Tensor

    def __init__(
        self, spec: TaskSpec, config: FlowPolicyConfig | None = None, codec: AdvantageCodec | None = None
    ) -> None:
        super().__init__()
        self.spec, config = spec, config or FlowPolicyConfig()
        self.lags = default_lags(spec) if config.lags is None else check_lags(spec, config.lags)
        self.config, self.codec = replace(config, lags=self.lags), codec or AdvantageCodec()
        self.guidance, self.noise_scale = self.config.guidance, self.config.noise_scale
        dim, moments = spec.layout.dim, 1 + len(self.lags)
        network = self.config.network
        self.encoders = nn.ModuleList([ViewEncoder(moments, spec.image_size, network) for _ in spec.cameras])
        self.features = len(spec.cameras) * network.embed + moments * dim
        self.denoiser = ChunkDenoiser(spec.chunk * dim, self.features, self.codec.num_bins + 1, network)
        self.register_buffer("relative", torch.from_numpy(spec.layout.angles).float())
        for name, shape in (("state", (dim,)), ("chunk", (spec.chunk, dim))):
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_std", torch.ones(shape))

    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Take mean and deviation from data: states (N, D) and the chunks (N, chunk, D) commanded from there."""
        least = torch.from_numpy(self.spec.layout.sizes(*_LEAST_SPREAD)).float()
        for name, values in (("state", states), ("chunk", chunks - self.relative * states[:, None])):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(values.std(0).clamp(min=least))

    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Chunks in rad and m (B, chunk, D) to the flow's space (B, chunk x D)."""
        return ((chunks - self.relative * state[:, None] - self.chunk_mean) / self.chunk_std).flatten(1)

    def denormalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`, for chunks (B, chunk x D) or (B, chunk, D)."""
        chunks = chunks.reshape(-1, self.spec.chunk, self.spec.layout.dim)
        return chunks * self.chunk_std + self.chunk_mean + self.relative * state[:, None]

    def context(
        self, observations: Mapping[str, torch.Tensor], prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> Context:
        """Encode observations (see `Policy.context`); this policy knows one task and does not read the prompt."""
        return self.encode(*stack_views(observations, self.spec, self.lags), generator)

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
        self,
        noisy: torch.Tensor,
        features: torch.Tensor,
        time: torch.Tensor,
        advantage_bins: torch.Tensor,
        guidance: float,
    ) -> torch.Tensor:
        """Velocity (B, chunk x D), with classifier-free guidance where its weight is not 1."""
        found = self.denoiser(noisy, features, time, advantage_bins)
        if guidance != 1.0:
            none = torch.full_like(advantage_bins, self.codec.unconditional)
            unconditional = self.denoiser(noisy, features, time, none)
            found = unconditional + guidance * (found - unconditional)
        return found if self.config.prediction_type == "velocity" else (noisy - found) / time[:, None]

    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """See `Policy.velocity_field`."""

        def field(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.velocity(noisy.flatten(1), context.features, time, advantage_bins, guidance).view_as(noisy)

        return field

    def loss_weight(self, time: torch.Tensor) -> torch.Tensor:
        """See `Policy.loss_weight`."""
        return torch.ones_like(time) if self.config.prediction_type == "velocity" else 1 / (1 + _TIME_FLOOR / time**2)

    def sample(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        noise: torch.Tensor,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
        rtc: RtcConstraint | None = None,
    ) -> torch.Tensor:
        """Action chunks by Euler steps, guided under real-time chunking (see `Policy.sample`)."""
        x, count, length = noise.flatten(1), steps or self.config.steps, self.spec.chunk
        if rtc is not None:
            goal = self.normalise(filled_up(rtc.previous, length).to(context.state), context.state)
            left = min(rtc.previous.shape[1], length)
            weights = prefix_weights(min(rtc.delay, left), min(rtc.horizon, left), length).to(goal)
            weights = weights.repeat_interleave(self.spec.layout.dim)
        for step in range(count):
            now = 1.0 - step / count
            time = torch.full((len(x),), now, device=x.device)
            velocity = self.velocity(x, context.features, time, advantage_bins, guidance)
            if rtc is not None:
                velocity = velocity - guidance_weight(now, count) * ((goal - (x - now * velocity)) * weights)
            x = x - velocity / count
        return self.denormalise(x, context.state)

    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss of each chunk, (B,) (see `Policy.loss`)."""
        draws = self.config.noise_samples
        clean = self.normalise(chunks, context.state).repeat(draws, 1)
        share = self.config.condition_dropout if condition_dropout is None else condition_dropout
        noise, time, bins = self.training_draws(clean, advantage_bins.repeat(draws), generator, share)
        noisy = time[:, None] * noise + (1 - time[:, None]) * clean
        predicted = self.denoiser(noisy, context.features.repeat(draws, 1), time, bins)
        return self._mean_error(predicted, noise - clean if self.config.prediction_type == "velocity" else clean, time)

    def _mean_error(self, predicted: torch.Tensor, wanted: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Mean square of each chunk, (B,), over its draws, (draws x B, chunk x D)."""
        losses = (predicted - wanted).square().mean(dim=1)
        if self.config.prediction_type == "sample":
            # The velocity's error is this one over the time; bounded, so that almost clean chunks do not rule.
            losses = losses / (time.square() + _TIME_FLOOR)
        return losses.unflatten(0, (self.config.noise_samples, -1)).mean(dim=0)

    def distillation_loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        other: Self,
        other_context: Context,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Difference of what two networks put out near some chunks, (B,) (see `Policy.distillation_loss`).

        Half of the comparisons are without noise, where a policy of `noise_scale` 0 acts.
        """
        draws = self.config.noise_samples
        clean = self.normalise(chunks, context.state).repeat(draws, 1)
        noise, time, bins = self.training_draws(clean, advantage_bins.repeat(draws), generator, 0.0)
        noise = noise * (torch.rand((len(clean), 1), generator=generator) < 0.5).to(noise)
        noisy = time[:, None] * noise + (1 - time[:, None]) * clean
        mine = self.denoiser(noisy, context.features.repeat(draws, 1), time, bins)
        with torch.no_grad():
            theirs = other.denoiser(noisy, other_context.features.repeat(draws, 1), time, bins)
        return self._mean_error(mine, theirs, time)

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the denoiser; the image encoders stay as warm-up left them."""
        return list(self.denoiser.parameters())

    def see_like(self, other: Policy) -> None:
        """See `Policy.see_like`."""
        if not isinstance(other, FlowPolicy) or list(other.spec.cameras) != list(self.spec.cameras):
            raise ConfigError(
                f"image encoders of a policy of kind {other.kind!r} for the cameras {', '.join(other.spec.cameras)} do "
                f"not fit one of kind {self.kind!r} for {', '.join(self.spec.cameras)}"
            )
        form, theirs = (
            (one.spec.image_size, one.lags, one.config.network.patch, one.config.network.channels,
             one.config.network.embed)
            for one in (self, other)
        )  # fmt: skip
        if form != theirs:
            raise ConfigError(
                "the image encoders have other sizes (picture, lags, patch, channels, embed): the other policy's "
                f"{theirs}, the preset's (policy.model) {form}"
            )
        self.encoders.load_state_dict(other.encoders.state_dict())
        self.encoders.requires_grad_(False)

    @property
    def storage(self) -> str:
        """See `PretrainedMixin`."""
        return self.config.storage


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
