"""The public checkpoint as a dynamics model of this project."""

from __future__ import annotations

from pathlib import Path

from rise_env.dynamics.caption import read_caption
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialTransformer, load_official
from rise_env.dynamics.ranges import ActionRanges
from rise_env.dynamics.shape import DynamicsShape
from rise_env.errors import ConfigError
from rise_env.files import refuse_existing
from rise_env.foreign_weights import load_weights, names_of
from rise_env.tasks import TaskSpec

__all__ = ["convert_checkpoint"]


def convert_checkpoint(
    weights: str | Path,
    out: str | Path,
    config: DynamicsConfig,
    spec: TaskSpec,
    *,
    caption: str | Path | None,
    ranges: ActionRanges | None,
    without_actions: bool = False,
    prefix: str | None = None,
) -> LatentDynamics:
    """Write a dynamics model that holds the released transformer, and return it.

    Args:
        weights: Weights of RISE or Genie-Envisioner, in any form of `rise_env.foreign_weights.load_weights`.
        out: Directory to make; must not exist.
        config: Settings with `transformer_kind: official`; `video_autoencoder.weights` says where the LTX autoencoder
            is.
        spec: Task, whose cameras come in the order top head, left hand, right hand.
        caption: File with T5-XXL's embedding of the empty caption; see `rise_env.dynamics.caption`.
        ranges: By which the released model normalises actions; see `rise_env.dynamics.ranges`.
        without_actions: Accept weights that have no action encoder (Genie-Envisioner's).
        prefix: See `rise_env.foreign_weights.names_of`.

    Raises:
        CheckpointError: If a file is missing, damaged or does not fit, name by name.
        ConfigError: If the configuration is not the official one, something is missing without which the model would
            be useless, or `out` exists.
    """
    refuse_existing(out)
    if config.transformer_kind != "official":
        raise ConfigError("dynamics.transformer_kind must be official to hold the public checkpoint (preset official)")
    if ranges is None:
        raise ConfigError(
            "the released weights normalise actions by ranges of their own, and without them would read every action "
            "wrongly: give the file that holds them (--ranges FILE, with min_val and max_val) or the dataset that they "
            "were fine-tuned on (--data DIR)"
        )
    if caption is None:
        raise ConfigError(
            "the released weights read T5-XXL's embedding of the empty caption, without which they imagine noise: make "
            "it (rise convert caption T5_FOLDER --out caption.safetensors) and give it (--caption FILE)"
        )
    if config.autoencoder_kind == "video" and not config.video_autoencoder.weights:
        raise ConfigError(
            "the released weights need the LTX video autoencoder: give its directory or Hub id (--vae), or set "
            "dynamics.video_autoencoder.weights"
        )
    text, tensors = read_caption(caption), load_weights(weights)  # before two billion numbers are drawn
    model = LatentDynamics(config, DynamicsShape.of(spec))
    assert isinstance(model.transformer, OfficialTransformer)
    given = names_of(tensors, model.transformer.network.state_dict(), prefix)
    load_official(model.transformer, given, text, without_actions=without_actions)
    model.scaler.set_ranges(ranges.shift, ranges.scale)
    model.eval().save_pretrained(out)
    return model
