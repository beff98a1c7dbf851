"""The public checkpoint as a dynamics model of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rise_env.data import Dataset
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import DynamicsShape, LatentDynamics
from rise_env.dynamics.official import OfficialTransformer, load_official
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import load_tensors
from rise_env.tasks import TaskSpec

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    weights: str | Path,
    out: str | Path,
    config: DynamicsConfig,
    spec: TaskSpec,
    *,
    caption: str | Path | None = None,
    dataset: Dataset | None = None,
    without_actions: bool = False,
) -> LatentDynamics:
    """Write a dynamics model that holds the released transformer, and return it.

    Args:
        weights: `diffusion_pytorch_model.safetensors` of RISE or Genie-Envisioner.
        out: Directory to make.
        config: Settings with `transformer_kind: official`; `video_autoencoder.weights` says where the LTX autoencoder
            is.
        spec: Task, whose cameras come in the order top head, left hand, right hand.
        caption: safetensors file with the one tensor (n, 4096): T5-XXL's embedding of the empty caption. Without it
            zeros are used, which the released weights were not trained with.
        dataset: Recorded episodes from which the range of the joints is taken, as the release does; the limits of the
            task's layout when omitted.
        without_actions: Accept weights that have no action encoder (Genie-Envisioner's).

    Raises:
        CheckpointError: If a file is missing, damaged or does not fit, name by name.
        ConfigError: If the configuration is not the official one.
    """
    model = LatentDynamics(config, DynamicsShape.of(spec))
    if not isinstance(model.transformer, OfficialTransformer):
        raise ConfigError("dynamics.transformer_kind must be official to hold the public checkpoint (preset official)")
    text = None
    if caption is not None:
        tensors = load_tensors(Path(caption))
        if len(tensors) != 1:
            raise CheckpointError(f"{caption} holds {len(tensors)} tensors, expected the caption embedding alone")
        text = next(iter(tensors.values()))
    load_official(model.transformer, load_tensors(Path(weights)), caption=text, without_actions=without_actions)
    if dataset is None:
        limits = np.stack([spec.layout.low, spec.layout.high])
        model.scaler.fit(limits, limits, limits - limits.mean(axis=0))
    else:
        model.scaler.fit(dataset.state, dataset.action, dataset.action - dataset.state)
    model.eval().save_pretrained(out)
    return model
