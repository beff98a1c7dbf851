"""LatentDynamics: autoencoder, transformer and sampler as a `rise_env.protocols.Dynamics`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rise_env.config import decode, rename_keys
from rise_env.dynamics.actions import JointScaler, hash_text
from rise_env.dynamics.autoencoder import Autoencoder, ImageAutoencoder, VideoAutoencoder
from rise_env.dynamics.compiling import Call, Compiler, plain
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.flow import draw_noise, euler, sigma_schedule, to_velocity
from rise_env.dynamics.precision import computes_bf16, precision
from rise_env.dynamics.session import Chunk, DynamicsState, LatentPrediction, Pending
from rise_env.dynamics.settings import changed
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.transformer import Denoised, LatentTransformer
from rise_env.errors import ConfigError
from rise_env.pretrained import PretrainedMixin, Upgrades
from rise_env.protocols import History, Prediction, ValueEstimate

__all__ = ["LatentDynamics"]


class LatentDynamics(PretrainedMixin, nn.Module):
    """Imagines chunks in the latent space of an autoencoder.

    Args:
        config: Every setting.
        shape: Cameras, joints and time raster of the task.
        video: Architecture of the video autoencoder, whose weights are then still to come; see `VideoAutoencoder`.

    Attributes:
        device: Where sessions live.

    Example:
        >>> from rise_env.dynamics.config import load_dynamics_config
        >>> from rise_env.dynamics.shape import DynamicsShape
        >>> from rise_env.tasks import load_task
        >>> shape = DynamicsShape.of(load_task("brick_sorting", "tiny"))
        >>> model = LatentDynamics(load_dynamics_config("brick_sorting", "tiny"), shape)
        >>> model.shape.frames
        4
    """

    kind = "rise-dynamics"
    title = "dynamics model"
    format_version = 2  # 1: older names of the settings
    upgrades: ClassVar[Upgrades] = {
        1: lambda config: {**config, "dynamics": rename_keys(DynamicsConfig, config["dynamics"])}
    }

    def __init__(self, config: DynamicsConfig, shape: DynamicsShape, video: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.autoencoder: Autoencoder
        if config.autoencoder_kind == "image":
            self.autoencoder = ImageAutoencoder(config.autoencoder, shape.image_size)
        else:
            self.autoencoder = VideoAutoencoder(config.video_autoencoder, shape.image_size, video)
        self.future = self.autoencoder.latent_frames(shape.frames)
        joints = len(shape.joints)
        official = config.transformer_kind == "official"
        self.scaler = JointScaler(
            joints,
            shape.stride,
            config.alignment,
            relative=not official and config.transformer.relative_actions,
            width=config.official.action_dim if official else None,
            form="min_max" if official else "mean_std",
        )
        self.transformer: nn.Module
        if official:
            from rise_env.dynamics.official import OfficialTransformer

            self.transformer = OfficialTransformer(config.official, history=shape.history)
        else:
            self.transformer = LatentTransformer(
                config.transformer,
                views=len(shape.cameras),
                latent_shape=self.autoencoder.latent_shape,
                history=shape.history,
                future=self.future,
                frames=shape.frames,
                action_dim=self.scaler.width,
                joints=joints,
            )
        self.device = torch.device("cpu")
        #: Whether `freeze` has shortened the weights.
        self.frozen = False
        self._compiler = Compiler(_backend(config))

    @property
    def predicts_values(self) -> bool:
        """Whether its predictions come with the values of their frames."""
        return self.config.predicts_values

    @property
    def thread_safe(self) -> bool:
        """Whether several threads may imagine at once."""
        return not self.config.compile

    # ------------------------------------------------------------------ the model

    def denoise(
        self,
        noisy: Tensor,
        history: Tensor,
        sigma: Tensor,
        *inputs: Tensor,
        current: Tensor | None = None,
        call: Call = plain,
        **more: Any,
    ) -> Denoised:
        """One evaluation of the transformer.

        Args:
            noisy: (B, V, F, C, h, w).
            history: (B, V, T, C, h, w).
            sigma: (B,).
            *inputs: Action tokens (B, K, A), normalised joint state (B, D), text (B, W).
            current: Clean latents of the current frame (B, V, 1, C, h, w); the last of `history` when omitted.
            call: Calls the transformer.
            **more: Further inputs of the transformer that the steps of a chunk share.

        Returns:
            Its latents are velocity or clean latents, whichever is `config.flow.target`.
        """
        output: Denoised = call(self.transformer, noisy, history, sigma, *inputs, **more)
        if self.config.flow.target == "x0_residual":
            output = output._replace(latents=output.latents + (history[:, :, -1:] if current is None else current))
        return output

    def sample(self, noise: Tensor, history: Tensor, tokens: Tensor, *inputs: Tensor) -> Denoised:
        """Clean latents of a chunk (B, V, F, C, h, w), float32, and what goes with them; arguments as in `denoise`.

        Values are those of the first step: their head learns from pure noise alone, and knows nothing of other levels.
        """
        states, values, flow = None, None, self.config.flow
        # Actions and caption are encoded once per chunk, not once per step, where the transformer lets us.
        transformer: Any = self.transformer
        official = self.config.transformer_kind == "official"
        shared = {"conditioning": transformer.condition(noise, history, tokens)} if official else {}

        def velocity(sample: Tensor, level: float) -> Tensor:
            nonlocal states, values
            sigma = torch.full((len(sample),), level, device=sample.device)
            output, states, logits = self.denoise(
                sample, history, sigma, tokens, *inputs, call=self._compiler, **shared
            )
            if values is None and logits is not None:
                values = logits.clone()  # a CUDA graph writes the next step into the same memory
            return output if flow.target == "velocity" else to_velocity(sample, output.float(), level)

        latents = euler(velocity, noise, sigma_schedule(flow.steps, flow.sigmas))
        return Denoised(latents, states, values)

    # ------------------------------------------------------------------ the session

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same model, weights and all, that imagines in another way; see `rise_env.dynamics.settings`.

        Raises:
            ConfigError: If a setting is wrong, or wants digits that `freeze` has left out.
        """
        other = copy.copy(self)
        other.config = changed(self.config, settings)
        if self.frozen and not computes_bf16(other.config.flow.precision, self.device):
            raise ConfigError(
                "flow.precision: the weights are in bf16 already; give the setting when the model is loaded"
            )
        if _backend(other.config) != self._compiler.backend:
            other._compiler = Compiler(_backend(other.config))
        return other

    def freeze(self) -> None:
        """Keep no more digits of the weights than imagination reads, for good: the model is not trained any more.

        Those of the official transformer's blocks become bf16, where imagination computes in bf16; nothing else does.
        """
        if isinstance(self.transformer, LatentTransformer) or not computes_bf16(
            self.config.flow.precision, self.device
        ):
            return
        transformer: Any = self.transformer
        transformer.network.halve()
        self.frozen = True

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of any module; also moves where sessions live, and whereto `onload` goes."""
        moved = super().to(*args, **kwargs)
        self.device = moved.scaler.state_shift.device
        return moved

    @torch.no_grad()
    def open(self, history: History) -> DynamicsState:
        """Start sessions at recorded frames (see `rise_env.protocols.Dynamics`)."""
        self._check_frames(history.frames)
        if history.frames.shape[1] != self.shape.history:
            raise ConfigError(f"the history has {history.frames.shape[1]} frames, expected {self.shape.history}")
        details = torch.zeros((len(history.frames), 0), dtype=torch.uint8, device=self.device)
        with self._inference():
            latents = self._encode_history(history.frames)
            if self.config.details:
                actual = history.frames[:, -1:].to(self.device)
                details = torch.cat([actual, self._decode(latents[:, -1:])], dim=1)
        state = history.states[:, -1].to(self.device, torch.float32)
        text = hash_text(history.prompts, self._text_buckets).to(self.device)
        return DynamicsState(latents, state, text, details)

    @torch.no_grad()
    def predict(
        self, state: DynamicsState, actions: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, DynamicsState]:
        """Imagine one chunk (see `rise_env.protocols.Dynamics`).

        Raises:
            ConfigError: If the shape of the actions or the number of generators is wrong.
        """
        count = len(state.state)
        expected = (count, self.shape.chunk, len(self.shape.joints))
        if tuple(actions.shape) != expected or len(generators) != count:
            raise ConfigError(
                f"actions have shape {tuple(actions.shape)} and there are {len(generators)} generators, "
                f"expected {expected} (environments, chunk, joints) and {count}"
            )
        actions = actions.to(self.device, torch.float32)
        shape = (len(self.shape.cameras), self.future, *self.autoencoder.latent_shape)
        with self._inference():
            known = state.history
            if state.pending is not None:
                known = state.pending.taken_in(known, self._decode, self._encode)
            history = known.transpose(1, 2)
            tokens, normalised = self.scaler.tokens(actions, state.state), self.scaler.normalise_state(state.state)
            inputs = (history, tokens, normalised, state.text)
            latents, residual, logits = self.sample(draw_noise(shape, generators, self.device), *inputs)
            uncertainty = None
            if self.config.flow.disagreement:
                again = self.sample(draw_noise(shape, generators, self.device), *inputs).latents
                uncertainty = (latents - again).square().flatten(1).mean(dim=1).sqrt()
            values = None
            if logits is not None:
                members = logits.sigmoid()
                values = ValueEstimate(members.mean(0), members.std(0, correction=0))
            latents = latents.transpose(1, 2)
            command = self.scaler.command_at_frames(actions)
            states = None if residual is None else self.scaler.add_residual(command, residual)
            end = command[:, -1] if states is None else states[:, -1]
        if self.autoencoder.per_frame:
            following = torch.cat([known, latents], dim=1)[:, -self.shape.history :].contiguous()
            prediction = LatentPrediction(latents, states, uncertainty, values, state.details)
            return prediction, DynamicsState(following, end, state.text, state.details)
        chunk = Chunk(latents)
        pending = Pending(chunk, torch.ones(count, dtype=torch.bool, device=self.device))
        prediction = LatentPrediction(latents, states, uncertainty, values, state.details, chunk)
        return prediction, DynamicsState(known, end, state.text, state.details, pending)

    @torch.no_grad()
    def decode(self, prediction: Prediction, index: Sequence[int]) -> Tensor:
        """Pixels of imagined frames (see `rise_env.protocols.Dynamics`); only those are decoded, where possible."""
        index = [range(self.shape.frames)[k] for k in index]
        assert isinstance(prediction, LatentPrediction)
        assert prediction.latents is not None
        assert prediction.details is not None
        with self._inference():
            if prediction.chunk is not None:
                return prediction.chunk.frames(self._decode)[:, index]
            return self.with_details(self._decode(prediction.latents[:, index]), prediction.details)

    def with_details(self, pixels: Tensor, details: Tensor) -> Tensor:
        """Imagined frames uint8 (B, K, V, H, W, 3) with the details of the frame they started from; see the config."""
        if not self.config.details or not details.shape[1]:
            return pixels
        actual, coded = details[:, :1].float(), details[:, 1:].float()
        imagined = pixels.float()
        change = (imagined - coded).abs().mean(dim=-1, keepdim=True) / self.config.details
        return (imagined + torch.exp(-change.square()) * (actual - coded)).round().clamp(0, 255).to(torch.uint8)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Latents of single frames (see `rise_env.protocols.Dynamics`)."""
        self._check_frames(frames)
        with self._inference():
            return self._encode(frames)

    def select(self, state: DynamicsState, index: Tensor) -> DynamicsState:
        """Sessions of some environments."""
        return state.select(index.to(self.device))

    def merge(self, state: DynamicsState, index: Tensor, other: DynamicsState) -> DynamicsState:
        """Copy of `state` in which the environments `index` are those of `other`."""
        return state.merge(index.to(self.device), other)

    def close(self, state: DynamicsState) -> None:
        """End sessions; nothing is held outside their state."""

    def offload(self) -> None:
        """Move the weights to the CPU; sessions stay where they are."""
        super().to("cpu")

    def onload(self) -> None:
        """Move the weights back."""
        super().to(self.device)

    # ------------------------------------------------------------------ files

    @property
    def storage(self) -> str:
        """See `PretrainedMixin`."""
        return self.config.storage

    def get_config(self) -> dict[str, Any]:
        """See `PretrainedMixin`."""
        config: dict[str, Any] = {"dynamics": self.config, "shape": self.shape}
        if isinstance(self.autoencoder, VideoAutoencoder):
            config["video"] = self.autoencoder.architecture
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """See `PretrainedMixin`."""
        settings = decode(DynamicsConfig, config["dynamics"], "key 'dynamics'")
        shape = decode(DynamicsShape, config["shape"], "key 'shape'")
        video = dataclasses.replace(settings.video_autoencoder, weights="")  # they are in the checkpoint
        model = cls(dataclasses.replace(settings, video_autoencoder=video), shape, config.get("video"))
        model.config = settings
        return model

    # ------------------------------------------------------------------ inside

    @property
    def _text_buckets(self) -> int:
        return self.config.transformer.text_buckets if self.config.transformer_kind == "rise" else 0

    def _check_frames(self, frames: Tensor) -> None:
        expected = (len(self.shape.cameras), *self.shape.image_size, 3)
        if frames.dtype != torch.uint8 or frames.dim() != 6 or tuple(frames.shape[2:]) != expected:
            raise ConfigError(
                f"frames are {frames.dtype} of shape {tuple(frames.shape)}, expected uint8 (environments, frames, "
                f"{', '.join(map(str, expected))}) for the cameras {', '.join(self.shape.cameras)}"
            )

    def _encode_history(self, frames: Tensor) -> Tensor:
        """Latents of the history; frames that nobody will read are left at zero, which spares their encoding."""
        used = list(range(self.shape.history))
        if isinstance(self.transformer, LatentTransformer) and self.shape.frames >= self.shape.history:
            used = sorted({*self.transformer.context, self.shape.history - 1})
        latents = frames.new_zeros((*frames.shape[:3], *self.autoencoder.latent_shape), dtype=torch.float32)
        latents = latents.to(self.device)
        latents[:, used] = self._encode(frames[:, used])
        return latents

    def _encode(self, frames: Tensor) -> Tensor:
        latents = self.autoencoder.encode_frames(frames.to(self.device).flatten(0, 2), self._compiler)
        return latents.unflatten(0, frames.shape[:3])

    def _decode(self, latents: Tensor) -> Tensor:
        """(B, F, V, C, h, w) to uint8 (B, K, V, H, W, 3)."""
        batch, count = latents.shape[:2]
        frames = count if self.autoencoder.per_frame else self.shape.frames
        pixels = self.autoencoder.decode_chunk(latents.transpose(1, 2).flatten(0, 1), frames, self._compiler)
        return pixels.unflatten(0, (batch, -1)).transpose(1, 2)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode, given back as it was; bf16 where `config.flow.precision` has it."""
        modes = [(module, module.training) for module in self.modules() if module.training]
        self.eval()
        try:
            with precision(self.config.flow.precision, self.device):
                yield
        finally:
            for module, training in modes:
                module.training = training


def _backend(config: DynamicsConfig) -> str | None:
    return config.compile_backend if config.compile else None
