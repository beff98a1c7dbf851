"""What the transformer is trained and evaluated on: encoded frames, and the conditions of a batch of windows."""

from __future__ import annotations

import numpy as np
import torch

from rise_env.data import WindowBatch
from rise_env.dynamics.actions import hash_text
from rise_env.dynamics.autoencoder import VideoAutoencoder
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.dynamics.run import DynamicsTraining
from rise_env.training.loop import Progress
from rise_env.value.latents import weights_digest

__all__ = ["Latents", "conditions"]


class Latents:
    """Latents of a dataset's frames, made once, kept in memory as float16."""

    def __init__(self, model: LatentDynamics, training: DynamicsTraining) -> None:
        self.model, self.dataset, self.device = model, training.dataset, training.device
        dataset, device, autoencoder = self.dataset, self.device, model.autoencoder

        def make(index: np.ndarray) -> np.ndarray:
            with torch.no_grad(), precision(model.config.flow.precision, device):
                frames = torch.from_numpy(dataset.frames(index)).to(device)
                latents = autoencoder.encode_frames(frames.flatten(0, 1))
            return latents.unflatten(0, frames.shape[:2]).half().cpu().numpy()

        def progress(done: int, total: int) -> None:
            if training.report is not None:
                training.report(Progress("encoding", done, done / total, 0.0, {}))

        shape = (len(model.shape.cameras), *autoencoder.latent_shape)
        tag = f"latents-{weights_digest(autoencoder)}"
        made = dataset.cached(tag, shape, np.float16, make, batch=64, progress=progress)
        self.frames = torch.from_numpy(np.array(made)).to(device)

    def history(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, T, C, h, w)."""
        return self.frames[torch.from_numpy(batch.history_index).to(self.device)].transpose(1, 2).float()

    def future(self, batch: WindowBatch) -> torch.Tensor:
        """(n, V, F, C, h, w)."""
        autoencoder = self.model.autoencoder
        if not isinstance(autoencoder, VideoAutoencoder):
            return self.frames[torch.from_numpy(batch.future_index).to(self.device)].transpose(1, 2).float()
        frames = torch.from_numpy(self.dataset.frames(batch.future_index)).to(self.device)
        with torch.no_grad():
            latents = autoencoder.encode_chunk(frames.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (len(batch), -1))


def conditions(
    model: LatentDynamics, batch: WindowBatch, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """(Action tokens, normalised current state), target of the state head, and text of a batch, as in imagination."""
    actions = torch.from_numpy(batch.actions).to(device)
    current = torch.from_numpy(batch.states[:, -1]).to(device)
    future = torch.from_numpy(batch.future_states).to(device)
    states = model.scaler.residual(future, model.scaler.command_at_frames(actions))
    text = hash_text(batch.prompts, model._text_buckets).to(device)
    return (model.scaler.tokens(actions, current), model.scaler.normalise_state(current)), states, text
