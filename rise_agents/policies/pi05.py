"""Pi05Policy: pi0.5 (arXiv 2504.16054) in LeRobot's implementation, with the advantage in its prompt.

The backbone of the paper (RISE, arXiv 2602.11075, Eq. 3). LeRobot and transformers, which take many seconds to import,
are imported when a policy is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from rise_agents.policies.base import Context, Policy, VelocityField, stack_views
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.pi05_config import Pi05PolicyConfig
from rise_agents.policies.prompt import build_prompt, prompt_bin
from rise_agents.policies.real_time import RtcConstraint
from rise_agents.policies.text_context import TextContext, text_bytes
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec

if TYPE_CHECKING:
    from rise_agents.policies.pi05_network import Prefix

__all__ = ["Pi05Policy"]

TOKENIZER = "tokenizer"  # folder inside a checkpoint
_LEAST_RANGE = (0.04, 0.008)  # rad and m, of a joint, so that one that stood still in the data is not blown up


class Pi05Policy(Policy):
    """pi0.5: images and a prompt (instruction, joint state, advantage) in, action chunk out.

    Args:
        spec: Task.
        config: Settings.
        codec: Meaning of the advantage bins.
        tokenizer: Tokenizer of transformers; the one that `config.tokenizer` names when None.
        device: Where to make the weights.

    Raises:
        ConfigError: If task, settings and tokenizer contradict each other.
        CheckpointError: If the tokenizer cannot be had.
    """

    kind = "rise-pi05-policy"
    lerobot_type = "pi05"
    Config = Pi05PolicyConfig
    lags = ()
    supports_rtc = True
    relative: torch.Tensor
    state_low: torch.Tensor
    state_high: torch.Tensor
    chunk_low: torch.Tensor
    chunk_high: torch.Tensor

    def __init__(
        self,
        spec: TaskSpec,
        config: Pi05PolicyConfig | None = None,
        codec: AdvantageCodec | None = None,
        tokenizer: Any = None,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        from rise_agents.policies.pi05_network import build_network, check_tokenizer, load_tokenizer

        super().__init__()
        self.spec, self.config = spec, config or Pi05PolicyConfig()
        self.codec = codec or AdvantageCodec()
        dim = spec.layout.dim
        if dim > self.config.max_dim:
            raise ConfigError(f"the task has {dim} joints, the policy's max_dim is {self.config.max_dim}")
        self.views = self.config.views or tuple(spec.cameras)
        if sorted(self.views) != sorted(spec.cameras):
            raise ConfigError(f"policy.views {list(self.views)} are not the cameras {list(spec.cameras)} of the task")
        self.tokenizer = load_tokenizer(self.config.tokenizer) if tokenizer is None else tokenizer
        check_tokenizer(self.tokenizer, self.config)
        #: LeRobot's PI05Policy.
        self.network: Any = build_network(spec, self.config, self.views, device)
        relative = torch.from_numpy(spec.layout.angles & self.config.relative).float()
        self.register_buffer("relative", relative.to(device))
        for name in ("state", "chunk"):
            self.register_buffer(f"{name}_low", torch.full((dim,), -1.0, device=device))
            self.register_buffer(f"{name}_high", torch.ones(dim, device=device))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the initial noise of one chunk; the model denoises its padding as well."""
        return (self.spec.chunk, self.config.max_dim)

    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Take the range of each joint from data: the 1st to the 99th percentile becomes [-1, 1]."""
        moved = chunks - self.relative.to(chunks) * states[:, None]
        least = torch.from_numpy(self.spec.layout.sizes(*_LEAST_RANGE)).float()
        for name, values in (("state", states), ("chunk", moved.flatten(0, 1))):
            # Not torch.quantile, which takes 16 million numbers at most.
            found = np.quantile(values.double().cpu().numpy(), [0.01, 0.99], axis=0)
            low, high = torch.from_numpy(found).float()
            middle, half = (high + low) / 2, (high - low).clamp(min=least) / 2
            self.set_range(name, middle - half, middle + half)

    def set_range(self, name: str, low: torch.Tensor, high: torch.Tensor) -> None:
        """Set what is normalised to -1 and 1, each (D,): of "state", or of "chunk" (relative where angles are)."""
        getattr(self, f"{name}_low").copy_(low)
        getattr(self, f"{name}_high").copy_(high)

    def normalise_state(self, state: torch.Tensor) -> torch.Tensor:
        """Joint states (B, D) in rad and m to the range that prompts are made of."""
        return 2.0 * (state - self.state_low) / _span(self.state_low, self.state_high) - 1.0

    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Chunks (B, chunk, D) in rad and m to the flow's space (B, chunk, max_dim), padded with zeros."""
        moved = chunks - self.relative * state[:, None] - self.chunk_low
        scaled = 2.0 * moved / _span(self.chunk_low, self.chunk_high) - 1.0
        return nn.functional.pad(scaled, (0, self.config.max_dim - scaled.shape[-1]))

    def denormalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`."""
        scaled = chunks[..., : self.spec.layout.dim]
        moved = (scaled + 1.0) * _span(self.chunk_low, self.chunk_high) / 2.0 + self.chunk_low
        return moved + self.relative * state[:, None]

    def context(
        self, observations: Mapping[str, torch.Tensor], prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> TextContext:
        """Take down images, state and instruction (see `Policy.context`)."""
        frames, states = stack_views(observations, self.spec, ())
        if frames.dtype != torch.uint8:
            raise ConfigError(f"images are {frames.dtype}, the policy expects uint8 from 0 to 255")
        if len(prompts) != len(states):
            raise ConfigError(f"{len(prompts)} instructions for {len(states)} observations")
        images = frames[:, 0, [list(self.spec.cameras).index(view) for view in self.views]]
        if generator is not None and self.config.jitter:
            drawn = torch.rand((2, *images.shape[:2], 1, 1, 1), generator=generator).to(images.device)
            gain, shift = self.config.jitter * (2 * drawn - 1)
            changed = 127.5 + (images - 127.5) * (1 + gain) + 127.5 * shift
            images = changed.round().clamp(0, 255).to(torch.uint8)
        return TextContext(images, states[:, 0], text_bytes(prompts).to(states.device))

    def prompts(self, context: TextContext, advantage_bins: torch.Tensor) -> list[str]:
        """The prompt of every sample.

        Raises:
            ConfigError: If a state is not finite, or a bin does not exist.
        """
        texts = context.texts()
        states = self.normalise_state(context.state).cpu().numpy()
        bins = [prompt_bin(one, self.codec) for one in advantage_bins.tolist()]
        width = self.config.state_width
        return [build_prompt(*values, width) for values in zip(texts, states, bins, strict=True)]

    def tokenise(self, context: TextContext, advantage_bins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids int64 and mask bool of the prompts, each (B, config.tokens).

        Raises:
            ConfigError: As `prompts`, or if a prompt is too long: cut short it would lose its end, the advantage.
        """
        prompts = self.prompts(context, advantage_bins)
        found: list[list[int]] = self.tokenizer(prompts)["input_ids"]
        longest = max(map(len, found))
        if longest > self.config.tokens:
            prompt = prompts[[len(ids) for ids in found].index(longest)]
            raise ConfigError(
                f"a prompt has {longest} tokens, policy.tokens is {self.config.tokens}: shorten the instruction or "
                f"raise it. The prompt: {prompt!r}"
            )
        ids = torch.full((len(found), self.config.tokens), int(self.tokenizer.pad_token_id))
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, values in enumerate(found):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = True
        return ids.to(self.device), mask.to(self.device)

    def images(self, context: TextContext) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Images as the model sees them, and whether they are there.

        Returns:
            View by view: float32 (B, 3, S, S) in [-1, 1], resized undistorted with black bars; and bool (B,).
        """
        from rise_agents.policies.pi05_network import resize_with_bars

        pixels = context.features.movedim(-1, 2).flatten(0, 1).float() / 255.0
        resized = resize_with_bars(pixels, self.config.image_size).unflatten(0, context.features.shape[:2])
        views = list((2.0 * resized - 1.0).unbind(1))
        missing, shown = self.config.empty_views, torch.ones(len(context), dtype=torch.bool, device=pixels.device)
        black = [torch.full_like(views[0], -1.0)] * missing
        return views + black, [shown] * len(views) + [~shown] * missing

    def velocity_field(self, context: Context, advantage_bins: torch.Tensor, guidance: float = 1.0) -> VelocityField:
        """See `Policy.velocity_field`. The language model gets no gradient, the action expert does."""
        from rise_agents.policies.pi05_network import velocity

        bins = [advantage_bins]
        if guidance != 1.0:
            bins.append(torch.full_like(advantage_bins, self.codec.unconditional))
        prefix = self._read(context, bins)

        def field(noisy: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            with _evaluating(self.network):
                return velocity(self.network.model, prefix, noisy, time, guidance)

        return field

    def features_of(self, context: Context, advantage_bins: torch.Tensor) -> torch.Tensor:
        """Mean of the language model's last hidden states over images and prompt (see `Policy.features_of`)."""
        return self._read(context, [advantage_bins]).mean

    def _read(self, context: Context, advantage_bins: Sequence[torch.Tensor]) -> Prefix:
        """Images and prompts as the language model reads them, one prompt per bin."""
        from rise_agents.policies.pi05_network import read_prefix

        context = TextContext.of(context)
        prompts = [self.tokenise(context, bins) for bins in advantage_bins]
        # Key-value caches and recomputation in the backward pass exclude each other in LeRobot: never in training mode.
        with _evaluating(self.network):
            return read_prefix(self.network.model, *self.images(context), prompts)

    @torch.no_grad()
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
        """Action chunks by LeRobot's Euler steps and its real-time chunking (see `Policy.sample`).

        Raises:
            ConfigError: If real-time chunking and guidance are asked for together, or as `tokenise`.
        """
        from lerobot.policies.common.flow_matching import euler_integrate

        from rise_agents.policies.pi05_network import real_time_chunking

        if rtc is not None and guidance != 1.0:
            raise ConfigError(f"real-time chunking of pi0.5 goes without guidance, got {guidance}: use --guidance 1")
        context = TextContext.of(context)
        model, steps = self.network.model, self.config.steps if steps is None else steps
        if rtc is None:
            chunks = euler_integrate(self.velocity_field(context, advantage_bins, guidance), noise, steps)
        else:
            left = rtc.previous[:, : self.spec.chunk].to(context.state)
            with _evaluating(self.network), real_time_chunking(self.network):
                chunks = model.sample_actions(
                    *self.images(context), *self.tokenise(context, advantage_bins), noise=noise, num_steps=steps,
                    prev_chunk_left_over=self.normalise(left, context.state),
                    inference_delay=min(rtc.delay, left.shape[1]),
                    execution_horizon=min(rtc.horizon, left.shape[1]),
                ).detach()  # fmt: skip
        return self.denormalise(chunks, context.state)

    def loss(
        self,
        context: Context,
        advantage_bins: torch.Tensor,
        chunks: torch.Tensor,
        generator: torch.Generator,
        condition_dropout: float | None = None,
    ) -> torch.Tensor:
        """Flow-matching loss of each chunk, (B,) (see `Policy.loss`)."""
        context = TextContext.of(context)
        clean = self.normalise(chunks, context.state)
        share = self.config.condition_dropout if condition_dropout is None else condition_dropout
        # LeRobot's own forward draws from the global generator; its model takes noise and time as arguments.
        noise, time, advantage_bins = self.training_draws(clean, advantage_bins, generator, share)
        images, shown = self.images(context)
        squares = self.network.model.forward(images, shown, *self.tokenise(context, advantage_bins), clean, noise, time)
        return squares[..., : self.spec.layout.dim].mean(dim=(1, 2))

    def action_parameters(self) -> list[nn.Parameter]:
        """Weights of the action expert and of the projections into and out of it."""
        model = self.network.model
        parts = [model.paligemma_with_expert.gemma_expert.model]  # its language head is never used
        parts += [model.action_in_proj, model.action_out_proj, model.time_mlp_in, model.time_mlp_out]
        return [weight for part in parts for weight in part.parameters()]

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder / TOKENIZER)

    def save_lerobot(self, folder: Path) -> None:
        """Write LeRobot's pi0.5, whose prompt asks for the best advantage (see `Policy.save_lerobot`)."""
        from rise_agents.policies.pi05_export import write_pi05

        write_pi05(self, folder)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """A policy as `get_config` describes it, with the tokenizer of its checkpoint."""
        from rise_agents.policies.pi05_network import load_tokenizer

        return cls(*cls.parts_of(config), load_tokenizer(folder / TOKENIZER), device=device)

    @classmethod
    def from_lerobot(
        cls,
        path: str | Path,
        spec: TaskSpec,
        *,
        codec: AdvantageCodec | None = None,
        cameras: Mapping[str, str] | None = None,
        data: tuple[torch.Tensor, torch.Tensor] | None = None,
        tokenizer: Any = None,
        device: str | torch.device = "cpu",
        **settings: Any,
    ) -> Self:
        """Start from published weights: a pi0.5 checkpoint of LeRobot.

        Every weight of the file must find its place. (LeRobot's own loading prints a warning where it does not, and
        goes on with random weights.)

        Args:
            path: Directory, or id of a repository on the Hugging Face Hub, e.g. "lerobot/pi05_base".
            spec: Task.
            codec: Meaning of the advantage bins.
            cameras: Camera of the task to image feature of the checkpoint, e.g.
                `{"head": "observation.images.base_0_rgb"}`; the task's own dataset keys when None.
            data: States (N, D) and chunks (N, chunk, D) in rad and m to normalise by (`fit_normalisation`). The
                checkpoint's statistics when None.
            tokenizer: As in `Pi05Policy`.
            device: Where to put the weights.
            **settings: Further settings of `Pi05PolicyConfig`; they outweigh what the checkpoint says.

        Raises:
            ConfigError: If the cameras do not fit the checkpoint.
            CheckpointError: If something is missing, damaged or does not fit.
        """
        from rise_agents.policies.pi05_network import read_published

        found = read_published(path, spec, cameras)
        policy = cls(spec, Pi05PolicyConfig(**{**found.settings, **settings}), codec, tokenizer, device=device)
        found.fill(policy.network)
        policy.relative.copy_(found.relative)
        if data is not None:
            policy.fit_normalisation(*data)
        else:
            for name in ("state", "chunk"):
                policy.set_range(name, *found.range(name))
        return policy.eval()


def _span(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Range of each joint; where there is none, LeRobot's epsilon."""
    return torch.where(high == low, torch.full_like(low, 1e-8), high - low)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every part gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
