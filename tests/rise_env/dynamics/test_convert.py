from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from dynamics_world import CONFIG, SPEC, TINY_OFFICIAL, World
from safetensors.torch import save_file

from rise_env.dynamics.autoencoder import load_vae, to_pixels, to_unit
from rise_env.dynamics.config import DynamicsConfig, FlowConfig, VideoAutoencoderConfig
from rise_env.dynamics.convert import convert_checkpoint
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialNetwork
from rise_env.dynamics.ranges import ActionRanges, ranges_of
from rise_env.errors import CheckpointError, ConfigError

SPEC_30 = dataclasses.replace(SPEC, image_size=(32, 32), chunk=18)
OFFICIAL = dataclasses.replace(TINY_OFFICIAL, action_tokens=9, caption_tokens=12)
VIDEO = VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1))
FLOW = FlowConfig(precision="fp32")
SETTINGS = DynamicsConfig("video", "official", "target", video_autoencoder=VIDEO, official=OFFICIAL, flow=FLOW)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Given(NamedTuple):
    """What the release has, at a tiny size."""

    folder: Path
    weights: dict[str, torch.Tensor]
    config: DynamicsConfig
    ranges: ActionRanges

    def convert(self, out: Path, **changes: Any) -> LatentDynamics:
        given = {
            "weights": self.folder / "weights.safetensors", "config": self.config, "spec": SPEC_30,
            "caption": self.folder / "caption.safetensors", "ranges": self.ranges, **changes,
        }  # fmt: skip
        return convert_checkpoint(out=out, **given)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    weights = OfficialNetwork(OFFICIAL).state_dict()
    save_file(weights, folder / "weights.safetensors")
    save_file({"caption": torch.ones(1, 12, OFFICIAL.caption_dim)}, folder / "caption.safetensors")
    # Unlike the settings: its decoder is of another size, takes a time and injects noise, as later releases do.
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_block_out_channels=(8, 8, 8, 8), decoder_layers_per_block=(1, 1, 2, 1, 1),
        decoder_inject_noise=(True, True, False, False, False), timestep_conditioning=True,
    )  # fmt: skip
    vae.latents_mean.fill_(0.5)
    vae.save_pretrained(folder / "vae")
    video = dataclasses.replace(VIDEO, weights=str(folder))
    config = dataclasses.replace(SETTINGS, video_autoencoder=video)
    return Given(folder, weights, config, ranges_of(World(spec=SPEC_30)))


@pytest.fixture(scope="module")
def converted(given: Given, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    given.convert(out)
    return out


def test_public_weights_become_a_dynamics_model(given: Given, converted: Path) -> None:
    loaded = LatentDynamics.from_pretrained(converted)
    network = loaded.transformer.network.state_dict()
    assert all(torch.equal(network[name], tensor) for name, tensor in given.weights.items())
    assert bool((loaded.transformer.caption == 1).all())
    low = torch.from_numpy(World(spec=SPEC_30).action.min(axis=0))[None, None].expand(1, 18, 2)
    tokens = loaded.scaler.tokens(low, torch.zeros(1, 2))
    torch.testing.assert_close(tokens[..., :2], torch.full((1, 9, 2), -1.0))  # min-max to [-1, 1]
    assert tokens.shape == (1, 9, OFFICIAL.action_dim)  # padded with zeros
    assert not bool(tokens[..., 2:].any())


def test_the_autoencoder_is_kept_as_it_is(given: Given, converted: Path, tmp_path: Path) -> None:
    loaded = LatentDynamics.from_pretrained(converted)
    original = load_vae(str(given.folder))
    assert loaded.autoencoder.vae.config.decoder_layers_per_block == original.config.decoder_layers_per_block
    assert bool((loaded.autoencoder.latents_mean == 0.5).all())
    loaded.save_pretrained(tmp_path / "again")
    again = LatentDynamics.from_pretrained(tmp_path / "again")
    history = pixels(2, 3, 2, 32, 32, 3)
    latents = loaded.encode(history)
    torch.testing.assert_close(again.encode(history), latents)
    mean = original.encode(to_unit(history[0, 0, :1]).transpose(0, 1)[None]).latent_dist.mode()[0, :, 0]
    torch.testing.assert_close(latents[0, 0, 0] + 0.5, mean)


@torch.no_grad()
def test_a_time_conditioned_autoencoder_decodes_as_published(given: Given, converted: Path) -> None:
    autoencoder, original = LatentDynamics.from_pretrained(converted).autoencoder, load_vae(str(given.folder))
    latents = torch.randn(3, 2, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    frames = autoencoder.decode_chunk(latents, 9)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(autoencoder.decode_chunk(latents, 9), frames)
    alone = autoencoder.decode_chunk(latents[2:], 9).int()
    assert int((alone - frames[2:].int()).abs().max()) <= 1  # as in a batch, but for the last bits
    raw = (latents[2:] + 0.5).transpose(1, 2)
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    expected = original.decode(0.975 * raw + 0.025 * noise, torch.tensor([0.03])).sample
    assert int((to_pixels(expected.transpose(1, 2)).int() - frames[2:].int()).abs().max()) <= 1
    torch.manual_seed(0)
    other = original.decode(raw, torch.tensor([0.0])).sample
    assert not torch.allclose(other, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranges": None}, "--ranges FILE.*--data DIR"),
        ({"caption": None}, "rise convert caption"),
        ({"config": SETTINGS}, "need the LTX video autoencoder"),
        ({"config": CONFIG, "spec": SPEC}, "transformer_kind must be official"),
        ({"weights": "none"}, "does not exist"),
    ],
)
def test_without_what_it_needs_nothing_is_written(given: Given, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message):
        given.convert(tmp_path / "model", **changes)
    assert not (tmp_path / "model").exists()


def test_an_existing_model_is_not_overwritten(given: Given, converted: Path) -> None:
    with pytest.raises(ConfigError, match="not overwritten"):
        given.convert(converted)


def test_weights_with_nan_or_of_another_network_are_refused(given: Given, tmp_path: Path) -> None:
    first = next(iter(given.weights))
    for name, change, message in (
        ("nan", {first: torch.full_like(given.weights[first], float("nan"))}, f"{first} is not finite"),
        ("more", {"extra.weight": torch.ones(1)}, "unexpected extra.weight"),
        ("shape", {first: torch.ones(1)}, f"{first} has shape"),
    ):
        save_file({**given.weights, **change}, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=message) as caught:
            given.convert(tmp_path / "model", weights=tmp_path / f"{name}.safetensors")
        assert len(str(caught.value)) < 600


def test_a_missing_or_foreign_autoencoder_is_told(given: Given, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sizes = (8, 8, 8, 8), (1, 1, 1, 1, 1)
    other = AutoencoderKLLTXVideo(
        latent_channels=6, block_out_channels=sizes[0], layers_per_block=sizes[1],
        decoder_block_out_channels=sizes[0], decoder_layers_per_block=sizes[1],
    )  # fmt: skip
    other.save_pretrained(tmp_path / "six" / "vae")
    for name, message in {
        "empty": "expected vae/config.json",
        "none": "no LTX autoencoder at",
        "six": "has 6 channels, 32 pixels and 8 frames per latent; expected 4",
    }.items():
        video = dataclasses.replace(VIDEO, weights=str(tmp_path / name))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            given.convert(tmp_path / "model", config=dataclasses.replace(SETTINGS, video_autoencoder=video))
