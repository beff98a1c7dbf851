from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from dynamics_world import CONFIG, SPEC, TINY_OFFICIAL, World
from safetensors.torch import save_file

from rise_env.dynamics.config import DynamicsConfig, VideoAutoencoderConfig
from rise_env.dynamics.convert import convert_checkpoint
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialNetwork
from rise_env.errors import CheckpointError, ConfigError

SPEC_30 = dataclasses.replace(SPEC, image_size=(32, 32), chunk=18)
OFFICIAL = dataclasses.replace(TINY_OFFICIAL, action_tokens=9, caption_tokens=12)
VIDEO = VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1))
SETTINGS = DynamicsConfig("video", "official", "target", video_autoencoder=VIDEO, official=OFFICIAL)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(OfficialNetwork(OFFICIAL).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_public_weights_become_a_dynamics_model(tmp_path: Path, weights: Path) -> None:
    save_file({"caption": torch.ones(12, OFFICIAL.caption_dim)}, tmp_path / "caption.safetensors")
    world = World(spec=SPEC_30)
    convert_checkpoint(
        weights, tmp_path / "model", SETTINGS, SPEC_30, caption=tmp_path / "caption.safetensors", dataset=world
    )
    loaded = LatentDynamics.from_pretrained(tmp_path / "model")
    assert bool((loaded.transformer.caption == 1).all())
    low = torch.from_numpy(world.action.min(axis=0))[None, None].expand(1, 18, 2)
    tokens = loaded.scaler.tokens(low, torch.zeros(1, 2))
    torch.testing.assert_close(tokens[..., :2], torch.full((1, 9, 2), -1.0))  # min-max to [-1, 1]
    assert tokens.shape == (1, 9, OFFICIAL.action_dim)  # padded with zeros
    assert not bool(tokens[..., 2:].any())


def test_limits_of_the_layout_serve_without_data(tmp_path: Path, weights: Path) -> None:
    model = convert_checkpoint(weights, tmp_path / "model", SETTINGS, SPEC_30)
    assert model.scaler.action_scale.tolist() == [1, 1]


def test_what_does_not_fit_is_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ConfigError, match="transformer_kind must be official"):
        convert_checkpoint(weights, tmp_path / "model", CONFIG, SPEC)
    with pytest.raises(CheckpointError, match="does not exist"):
        convert_checkpoint(tmp_path / "none", tmp_path / "model", SETTINGS, SPEC_30)
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        convert_checkpoint(weights, tmp_path / "model", SETTINGS, SPEC_30)
    assert not (tmp_path / "model").exists()
