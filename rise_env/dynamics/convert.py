"""The public checkpoint as a dynamics model of this project."""

from __future__ import annotations

from pathlib import Path

import torch

from rise_env.data import Dataset
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import DynamicsShape, LatentDynamics
from rise_env.dynamics.official import OfficialTransformer, load_official
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import TaskSpec

__all__ = ["convert_checkpoint", "read_safetensors"]


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
    """Write a dynamics model that holds the released transformer.

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

    Returns:
        The model.

    Raises:
        CheckpointError: If a file is missing, damaged or does not fit, name by name.
        ConfigError: If the configuration is not the official one.
    """
    model = LatentDynamics(config, DynamicsShape.of(spec))
    if not isinstance(model.transformer, OfficialTransformer):
        raise ConfigError("dynamics.transformer_kind must be official to hold the public checkpoint (preset official)")
    text = None
    if caption is not None:
        tensors = read_safetensors(caption)
        if len(tensors) != 1:
            raise CheckpointError(f"{caption} holds {len(tensors)} tensors, expected the caption embedding alone")
        text = next(iter(tensors.values())).float()
    load_official(model.transformer, read_safetensors(weights), caption=text, without_actions=without_actions)
    if dataset is None:
        limits = torch.stack([torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)]).numpy()
        model.scaler.fit(limits, limits, limits - limits.mean(axis=0))
    else:
        model.scaler.fit(dataset.state, dataset.action, dataset.action - dataset.state)
    model.eval().save_pretrained(out)
    return model


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is cut short or damaged: {error}. Copy it again.") from error
