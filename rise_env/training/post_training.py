"""Post-training: a dynamics model goes on learning from what an agent did, a few updates at a time."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rise_env.data import ShuffledSampler, WindowBatch
from rise_env.dynamics.evaluation import psnr
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.run import FrameValues, draw_seed
from rise_env.dynamics.training import transformer_loss
from rise_env.errors import ConfigError, requirement
from rise_env.protocols import History
from rise_env.training.config import LoopConfig
from rise_env.training.loop import Budget, Loop
from rise_env.world_model import CompositionalWorldModel

__all__ = ["PostTraining", "Rollout"]

_MOVED = 0.08  # a pixel moves if it changes by more than this until the end of the chunk
_BATCH = 64  # frames, or windows, at once


@dataclass(frozen=True)
class Rollout:
    """An episode, observed every `stride` control steps from its first frame on.

    Attributes:
        frames: uint8 (F, V, H, W, 3).
        states: float32 (F, D), rad and m.
        actions: float32 (F - 1, stride, D), executed between two frames, rad and m.
    """

    frames: np.ndarray
    states: np.ndarray
    actions: np.ndarray


@dataclass
class _Kept:
    """Episodes one after another: `pictures` are latents, float16 (N, V, C, h, w), or the frames themselves."""

    pictures: torch.Tensor
    states: torch.Tensor
    actions: torch.Tensor  # (N, stride, D); zero after the last frame
    values: torch.Tensor
    lengths: torch.Tensor

    def with_episodes(self, others: _Kept, most: int) -> _Kept:
        """The last `most` episodes of both."""
        lengths = torch.cat([self.lengths, others.lengths])[-most:]
        frames = int(lengths.sum())

        def column(name: str) -> torch.Tensor:
            return torch.cat([getattr(self, name), getattr(others, name)])[-frames:].clone()

        return _Kept(column("pictures"), column("states"), column("actions"), column("values"), lengths)


class PostTraining:
    """Trains the transformer of a world model's dynamics on an agent's own rollouts; the autoencoder stays.

    The value head, where there is one, learns what the value model says of the frames.

    Args:
        world_model: Where it starts; not changed.
        updates: Updates of a call of `train`.
        batch_size: Windows per update.
        learning_rate: Its peak; it rises and falls in every call.
        episodes: Rollouts that are kept, the newest ones.
        held_out: Every so manieth rollout is kept aside, for the PSNR.
        seed: Seed of everything random.

    Attributes:
        world_model: With the dynamics model that is trained, a copy.
        trainings: Calls of `train` so far that had something to learn from.

    Raises:
        ConfigError: If the dynamics model cannot be trained here.
    """

    def __init__(
        self,
        world_model: CompositionalWorldModel,
        *,
        updates: int = 8,
        batch_size: int = 16,
        learning_rate: float = 1e-4,
        episodes: int = 400,
        held_out: int = 8,
        seed: int = 0,
    ) -> None:
        require, dynamics = requirement("post-training"), world_model.dynamics
        if not isinstance(dynamics, LatentDynamics) or not dynamics.autoencoder.per_frame:
            raise ConfigError(
                f"{type(dynamics).__name__} is no LatentDynamics with an image autoencoder: only those are trained "
                "here; leave post-training out (post_updates=0)"
            )
        require.at_least(1, updates=updates, batch_size=batch_size, episodes=episodes)
        require.at_least(2, held_out=held_out)
        self.world_model = copy.copy(world_model)
        self._first, self._model = dynamics, copy.deepcopy(dynamics)
        self.world_model.dynamics = self._model
        self._updates, self._held_out, self._episodes, self._seed = updates, held_out, episodes, seed
        self._config = LoopConfig(batch_size=batch_size, learning_rate=learning_rate, warmup_steps=updates, ema_decay=0,
                                  weight_decay=0.0, checkpoint_seconds=1e9, seed=seed)  # fmt: skip
        self.trainings = self._seen = 0
        self._train: _Kept | None = None
        self._test: _Kept | None = None

    # ------------------------------------------------------------------ rollouts

    def add(self, rollouts: Sequence[Rollout]) -> None:
        """Take in rollouts; those too short for a window are left out."""
        spec = self.world_model.spec
        for rollout in rollouts:
            if len(rollout.frames) <= spec.frames_per_chunk:
                continue
            self._seen += 1
            aside = self._seen % self._held_out == 0
            new, before = self._encoded(rollout, aside), self._test if aside else self._train
            most = max(1, self._episodes // (self._held_out if aside else 1))
            kept = new if before is None else before.with_episodes(new, most)
            self._test, self._train = (kept, self._train) if aside else (self._test, kept)

    @torch.no_grad()
    def _encoded(self, rollout: Rollout, aside: bool) -> _Kept:
        model, spec, frames = self.world_model, self.world_model.spec, torch.from_numpy(rollout.frames)
        latents, values = [], []
        for some in frames.split(_BATCH) if not aside else ():
            shown = some[:, None].to(model.device)
            latents.append(model.dynamics.encode(shown)[:, 0].half().cpu())
            values.append(model.score_frames(shown, [spec.prompt] * len(some)).value[:, 0].float().cpu())
        actions = np.concatenate([rollout.actions, np.zeros_like(rollout.actions[:1])])
        return _Kept(
            frames if aside else torch.cat(latents),
            torch.from_numpy(rollout.states), torch.from_numpy(actions),
            torch.zeros(len(frames)) if aside else torch.cat(values),
            torch.tensor([len(frames)]),
        )  # fmt: skip

    def _windows(self, kept: _Kept) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Current frame, first frame of the episode, and number of the episode, of every window."""
        lengths = kept.lengths.numpy()
        first, chunk = np.cumsum(lengths) - lengths, self.world_model.spec.frames_per_chunk
        parts = [np.arange(start, start + length - chunk) for start, length in zip(first, lengths, strict=True)]
        owner = np.repeat(np.arange(len(lengths)), lengths - chunk)
        return np.concatenate(parts), first[owner], owner

    def _batch(self, kept: _Kept, which: np.ndarray) -> WindowBatch:
        spec = self.world_model.spec
        current, first, owner = (column[which] for column in self._windows(kept))
        history = np.maximum(current[:, None] + np.arange(1 - spec.history, 1), first[:, None])
        future = current[:, None] + np.arange(1, spec.frames_per_chunk + 1)
        actions = kept.actions.numpy()[future - 1].reshape(len(which), spec.chunk, -1)
        states, prompts = kept.states.numpy(), [spec.prompt] * len(which)
        return WindowBatch(current, owner, current - first, history, future, actions, states[history], states[future],
                           prompts)  # fmt: skip

    # ------------------------------------------------------------------ learning

    def train(self) -> dict[str, float]:
        """Make the updates, if there is a window to learn from.

        Returns:
            Mean "loss" of the updates and, where rollouts were kept aside, in dB at the end of a chunk of the newest
            windows: "psnr_bundle" of the model as it was given, "psnr_before" and "psnr" of this training, and the
            same with "_moved", of the pixels that change.

        Raises:
            TrainingError: If the loss is not finite.
        """
        kept, found = self._train, dict[str, float]()
        if kept is None:
            return found
        if self._test is not None:
            found |= self._quality(self._first, "psnr_bundle") | self._quality(self._model, "psnr_before")
        order = draw_seed(self._seed, self.trainings)
        sampler = ShuffledSampler(len(self._windows(kept)[0]), self._config.batch_size, order)
        values = FrameValues(kept.values.numpy(), np.ones(len(kept.values), bool))
        learned, losses = values if self._model.predicts_values else None, list[float]()

        def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            batch = self._batch(kept, sampler.draw(step))
            generator = torch.Generator().manual_seed(draw_seed(self._seed, self.trainings, 1 + step))
            history, future = (kept.pictures[torch.from_numpy(index)].to(self._model.device).transpose(1, 2).float()
                               for index in (batch.history_index, batch.future_index))  # fmt: skip
            total, metrics = transformer_loss(self._model, batch, history, future, generator, "auto", learned)
            losses.append(float(metrics["loss"]))
            return total, metrics

        with tempfile.TemporaryDirectory() as folder:
            loop = Loop("post_training", Path(folder), self._model.transformer, loss, self._config,
                        Budget(self._updates), {})  # fmt: skip
            loop.run()
        self._model.eval()
        self.trainings += 1
        found["loss"] = float(np.mean(losses))
        return found | (self._quality(self._model, "psnr") if self._test is not None else {})

    @torch.no_grad()
    def _quality(self, model: LatentDynamics, name: str) -> dict[str, float]:
        """PSNR of what a model imagines of the newest windows that are kept aside."""
        kept = self._test
        assert kept is not None
        count = len(self._windows(kept)[0])
        batch = self._batch(kept, np.arange(max(0, count - _BATCH), count))
        frames = kept.pictures[torch.from_numpy(batch.history_index)].to(model.device)
        session = model.open(History(frames, torch.from_numpy(batch.states).to(model.device), batch.prompts))
        noise = [torch.Generator().manual_seed(number) for number in range(len(batch))]
        imagined, after = model.predict(session, torch.from_numpy(batch.actions), noise)
        end = model.decode(imagined, [-1])[:, 0].cpu()
        true, current = kept.pictures[torch.from_numpy(batch.future_index[:, -1])], frames[:, -1].cpu()
        model.close(after)
        moved = (true.float() - current.float()).abs().mean(dim=-1, keepdim=True) > 255 * _MOVED
        return {name: psnr(end, true), f"{name}_moved": psnr(end, true, moved)}

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Full state: the trained weights and all that is kept."""
        kept = {"train": self._train, "test": self._test}
        return {"transformer": self._model.transformer.state_dict(), "trainings": self.trainings, "seen": self._seen,
                **{name: {} if one is None else dict(vars(one)) for name, one in kept.items()}}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._model.transformer.load_state_dict(state["transformer"])
        self.trainings, self._seen = int(state["trainings"]), int(state["seen"])
        self._train, self._test = (_Kept(**state[name]) if state[name] else None for name in ("train", "test"))
