"""Fakes that satisfy the protocols exactly, for tests of environments and agents: no training, no weights, no noise in
the arithmetic (a row's result never depends on the other rows).

A frame is one flat colour that tells everything: red counts control steps, green is the progress, blue is the noise
that was drawn for it. Progress rises while the actions stay near the middle of the joint range and falls far from it,
so that an agent has something to learn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from rise_env.alignment import align_actions
from rise_env.envs.starts import StartStates
from rise_env.pretrained import PretrainedMixin
from rise_env.protocols import History, Prediction, ValueEstimate
from rise_env.tasks import JointLayout, TaskSpec, task_from_section
from rise_env.world_model import CompositionalWorldModel

__all__ = [
    "CountingState",
    "FrameCountingDynamics",
    "LinearValue",
    "counting_envs",
    "counting_spec",
    "counting_starts",
    "counting_world_model",
]

_COUNT, _PROGRESS, _NOISE = range(3)


def counting_spec(**changes: Any) -> TaskSpec:
    """A small task: two cameras of 36 x 40 pixels, three joints, chunks of 8, stride 2, history 4."""
    layout = JointLayout("counting", ("shoulder", "elbow", "gripper"), ("rad", "rad", "m"), (-1, -2, 0), (1, 2, 0.25))
    spec = TaskSpec(
        name="counting",
        prompt="Count the frames.",
        cameras={"head": "observation.images.head", "wrist": "observation.images.wrist"},
        image_size=(36, 40),
        layout=layout,
        fps=10,
        chunk=8,
        stride=2,
        history=4,
        execute=4,
        max_seconds=4.0,
    )
    return replace(spec, **changes)


@dataclass(frozen=True)
class CountingState:
    """State of `FrameCountingDynamics`: float32 (B, T, 3), step, progress and noise of frames seen, oldest first."""

    history: torch.Tensor


class FrameCountingDynamics(PretrainedMixin, nn.Module):
    """Imagines frames that count.

    Args:
        spec: Task.
        gain: Progress per imagined frame with every joint in the middle of its range; as much is lost at the limits.
        predicts_states: Predict joint states (the mean of the commanded and the middle pose) instead of leaving them
            "as commanded".
        device: Where tensors lie.
    """

    kind, title = "counting-dynamics", "dynamics model"
    middle: torch.Tensor

    def __init__(
        self, spec: TaskSpec, gain: float = 0.0625, predicts_states: bool = False, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.spec, self.gain, self.predicts_states = spec, gain, predicts_states
        self.device = torch.device(device)
        #: History (B, T, 3) that each of the last calls of `predict` started from.
        self.seen: deque[torch.Tensor] = deque(maxlen=64)
        self.register_buffer("middle", torch.as_tensor((spec.layout.low + spec.layout.high) / 2, device=self.device))
        self._half = torch.as_tensor((spec.layout.high - spec.layout.low) / 2, device=self.device)

    def open(self, history: History) -> CountingState:
        """Read the counters off the pixels of the first view."""
        return CountingState(self.encode(history.frames)[:, :, 0, :, 0, 0])

    def predict(
        self, state: CountingState, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, CountingState]:
        """Count on by the stride."""
        frames, stride = self.spec.frames_per_chunk, self.spec.stride
        self.seen.append(state.history.clone())
        last = state.history[:, -1]
        tokens = align_actions(actions, stride, "last")
        distance = torch.stack([row.mean(-1) for row in (tokens - self.middle).abs() / self._half])
        progress, new = last[:, _PROGRESS], []
        for k in range(frames):
            progress = (progress + self.gain * (1 - 2 * distance[:, k])).clamp(0, 1)
            noise = torch.stack([torch.rand((), generator=generator) for generator in generators])
            new.append(torch.stack([last[:, _COUNT] + stride * (k + 1), progress, noise.to(self.device)], dim=-1))
        imagined = torch.stack(new, dim=1)
        history = torch.cat([state.history, imagined], dim=1)[:, -state.history.shape[1] :]
        latents = imagined[:, :, None, :, None, None].expand(-1, -1, len(self.spec.cameras), -1, 1, 1)
        states = (tokens + self.middle) / 2 if self.predicts_states else None
        return Prediction(latents, states), CountingState(history)

    def decode(self, prediction: Prediction, index: Sequence[int]) -> torch.Tensor:
        """Flat pictures in the colour of the counters."""
        assert prediction.latents is not None
        chosen = prediction.latents[:, list(index), :, :, 0, 0]
        scale = torch.tensor([1.0, 255.0, 255.0], device=self.device)
        colour = (chosen * scale).round().to(torch.int64).remainder(256).to(torch.uint8)
        height, width = self.spec.image_size
        return colour[:, :, :, None, None].expand(-1, -1, -1, height, width, -1).contiguous()

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Counters of pixels."""
        scale = torch.tensor([1.0, 255.0, 255.0], device=frames.device)
        return (frames[:, :, :, 0, 0].float() / scale)[..., None, None]

    def select(self, state: CountingState, index: torch.Tensor) -> CountingState:
        """Rows of a state."""
        return CountingState(state.history[index])

    def merge(self, state: CountingState, index: torch.Tensor, other: CountingState) -> CountingState:
        """Copy with some rows replaced."""
        return CountingState(state.history.index_copy(0, index, other.history))

    def close(self, state: CountingState) -> None:
        """Nothing to end."""

    def offload(self) -> None:
        """No weights to move."""

    def onload(self) -> None:
        """No weights to move."""

    def get_config(self) -> dict[str, Any]:
        """See `PretrainedMixin`."""
        return {"task": self.spec, "gain": self.gain, "predicts_states": self.predicts_states}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """See `PretrainedMixin`."""
        return cls(task_from_section(config["task"]), config["gain"], config["predicts_states"], device)


class LinearValue(PretrainedMixin, nn.Module):
    """Reads the progress off the frames of `FrameCountingDynamics`: value = scale * progress + offset.

    Args:
        scale: Factor.
        offset: Added to it.
        doubt: Spread of a frame per unit of its noise.
        reads_latents: Read latents instead of pixels.
        device: Where tensors lie.
    """

    kind, title = "linear-value", "value model"

    def __init__(
        self,
        scale: float = 1.0,
        offset: float = 0.0,
        doubt: float = 0.0,
        reads_latents: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.scale, self.offset, self.doubt, self.reads_latents = scale, offset, doubt, reads_latents
        self.device = torch.device(device)
        #: Shape of the frames of each of the last calls of `estimate`.
        self.calls: deque[tuple[int, ...]] = deque(maxlen=64)

    def estimate(self, frames: torch.Tensor, prompts: Sequence[str]) -> ValueEstimate:
        """Values of pixels, or of latents."""
        self.calls.append(tuple(frames.shape))
        counters = frames[:, :, 0, :, 0, 0] if self.reads_latents else frames[:, :, 0, 0, 0].float() / 255
        value = counters[..., _PROGRESS] * self.scale + self.offset
        return ValueEstimate(value, counters[..., _NOISE] * self.doubt)

    def get_config(self) -> dict[str, Any]:
        """See `PretrainedMixin`."""
        return {name: getattr(self, name) for name in ("scale", "offset", "doubt", "reads_latents")}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """See `PretrainedMixin`."""
        return cls(config["scale"], config["offset"], config["doubt"], config["reads_latents"], device)


def counting_world_model(
    spec: TaskSpec | None = None, *, gain: float = 0.0625, doubt: float = 0, reads_latents: bool = False, **kwargs: Any
) -> CompositionalWorldModel:
    """`FrameCountingDynamics` and `LinearValue`, of these arguments, as a `CompositionalWorldModel` of further ones."""
    spec = spec or counting_spec()
    value = LinearValue(doubt=doubt, reads_latents=reads_latents)
    return CompositionalWorldModel(FrameCountingDynamics(spec, gain), value, spec, **kwargs)


def counting_starts(spec: TaskSpec | None = None, count: int = 12, per_episode: int = 4) -> StartStates:
    """Start states for the fakes: red counts control steps, green (progress) rises from state to state.

    The last third of the episodes is held out.
    """
    spec = spec or counting_spec()
    number, episode = np.arange(count), np.arange(count) // per_episode
    current = 40 + 3 * number
    steps = current[:, None] - spec.stride * np.arange(spec.history - 1, -1, -1)
    frames = np.zeros((count, spec.history, len(spec.cameras), *spec.image_size, 3), np.uint8)
    frames[..., _COUNT] = steps[:, :, None, None, None] % 256
    frames[..., _PROGRESS] = (25 + 100 * number // count)[:, None, None, None, None]
    middle = (spec.layout.low + spec.layout.high) / 2
    episodes = int(episode.max()) + 1
    return StartStates.build(
        spec,
        frames,
        np.broadcast_to(middle, (count, spec.history, spec.layout.dim)).copy(),
        episode_index=episode,
        frame_index=current,
        split=np.where(episode >= episodes - max(1, episodes // 3), "heldout", "train") if episodes > 1 else "train",
        success=(episode % 2).astype(np.int8),
        actions=np.broadcast_to(middle, (count, spec.chunk, spec.layout.dim)).copy(),
        source="rise_env.testing",
    )


def counting_envs(num_envs: int = 2, **kwargs: Any) -> Any:
    """An `ImaginationVectorEnv` on the fakes; further arguments are passed on to it."""
    from rise_env.envs.vector import ImaginationVectorEnv

    world_model = kwargs.pop("world_model", None) or counting_world_model()
    starts = kwargs.pop("starts", None) or counting_starts(getattr(world_model, "spec", None))
    return ImaginationVectorEnv(num_envs, starts=starts, world_model=world_model, **kwargs)
