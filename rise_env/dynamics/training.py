"""Training of the dynamics: first the autoencoder, then the transformer on latents that are encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.run import DynamicsTraining
from rise_env.dynamics.train_autoencoder import train_autoencoder
from rise_env.dynamics.train_transformer import train_transformer
from rise_env.errors import ConfigError

__all__ = ["train_dynamics"]


def train_dynamics(
    training: DynamicsTraining, autoencoder: str | Path | None = None, initial: str | Path | None = None
) -> LatentDynamics:
    """Train autoencoder and transformer; an interrupted run goes on where it stood.

    Args:
        training: The run.
        autoencoder: Directory of a dynamics model whose autoencoder is taken instead of training one.
        initial: Directory of a dynamics model to go on from, e.g. on new recordings: its autoencoder and its scales
            stay, its transformer is trained on.

    Returns:
        The model with averaged weights, as in `<folder>/model`.

    Raises:
        TrainingError: If a loss is not finite.
        CheckpointError: If a saved state is damaged or belongs to other settings.
        ConfigError: If there is no autoencoder.
    """
    training.start()
    config = training.config
    torch.manual_seed(config.training.seed)
    model = LatentDynamics(config, training.shape)
    _fit_scaler(model, training)
    model.to(training.device)
    if initial is not None:
        first = LatentDynamics.from_pretrained(initial, device=training.device)
        if first.shape != model.shape:
            raise ConfigError(f"{initial} has shape {first.shape}, the task {model.shape}")
        _take_over(model, first, initial)
    elif autoencoder is not None:
        given = LatentDynamics.from_pretrained(autoencoder, device=training.device).autoencoder
        if given.latent_shape != model.autoencoder.latent_shape or type(given) is not type(model.autoencoder):
            raise ConfigError(
                f"the autoencoder of {autoencoder} makes latents {given.latent_shape}, "
                f"the configuration wants {model.autoencoder.latent_shape}"
            )
        model.autoencoder = given
    else:
        train_autoencoder(training, model)
    return train_transformer(training, model)


def _take_over(model: LatentDynamics, first: LatentDynamics, path: str | Path) -> None:
    """Take the weights of another model; a value head that it lacks begins anew."""
    given = first.state_dict()
    new = [name for name in model.state_dict() if name.startswith("transformer.value_head.") and name not in given]
    try:
        model.load_state_dict({**given, **{name: model.state_dict()[name] for name in new}})
    except RuntimeError as error:
        raise ConfigError(f"{path} has other sizes than the configuration: {error}") from error


def _fit_scaler(model: LatentDynamics, training: DynamicsTraining) -> None:
    dataset, pool = training.dataset, training.frames
    chosen = np.linspace(0, len(training.train) - 1, min(len(training.train), 4096)).astype(np.int64)
    batch = training.train.batch(chosen)
    relative = (batch.actions - batch.states[:, -1:]).reshape(-1, dataset.state.shape[1])
    model.scaler.fit(dataset.state[pool], dataset.action[pool], relative)
