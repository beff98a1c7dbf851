from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rise_env.dynamics.autoencoder import ImageAutoencoder, VideoAutoencoder, load_vae, spread, to_pixels, to_unit
from rise_env.dynamics.config import AutoencoderConfig, VideoAutoencoderConfig
from rise_env.errors import CheckpointError, ConfigError

SMALL = AutoencoderConfig(channels=(4, 8), blocks=(1, 1), latent_channels=3, fold=2)
VIDEO = VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1))


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixels_survive_the_way_to_floats_and_back() -> None:
    frames = pixels(2, 4, 5, 3)
    assert float(to_unit(frames).min()) >= -1
    assert torch.equal(to_pixels(to_unit(frames)), frames)


def test_floats_are_not_guessed_at() -> None:
    with pytest.raises(ConfigError, match="expected uint8"):
        to_unit(torch.zeros(1, 4, 4, 3))


@pytest.mark.parametrize("size", [(8, 12), (9, 10)])
def test_image_sizes(size: tuple[int, int]) -> None:
    model = ImageAutoencoder(SMALL, size)
    frames = pixels(5, *size, 3)
    latents = model.encode_frames(frames)
    assert latents.shape == (5, *model.latent_shape) == (5, 3, -(-size[0] // 4), -(-size[1] // 4))
    decoded = model.decode_chunk(latents[:, None], 1)
    assert decoded.shape == (5, 1, *size, 3)
    assert decoded.dtype == torch.uint8


def test_normalisation_is_undone() -> None:
    model = ImageAutoencoder(SMALL, (8, 8))
    model.latents_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    model.latents_std.copy_(torch.tensor([2.0, 0.1, 1.0]))
    latents = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(model.denormalise(model.normalise(latents)), latents)


def test_spread_sees_a_collapsed_encoder() -> None:
    same = torch.randn(1, 4, 3, 3).expand(16, -1, -1, -1)
    assert float(same.std()) > 0.5
    assert spread(same) == pytest.approx(0.0, abs=1e-6)
    assert spread(torch.randn(64, 4, 3, 3)) > 0.8


def test_a_latent_of_an_image_is_one_frame() -> None:
    with pytest.raises(ConfigError, match="one latent is one frame"):
        ImageAutoencoder(SMALL, (8, 8)).decode_chunk(torch.zeros(1, 2, 3, 2, 2), 3)


def test_video_autoencoder() -> None:
    model = VideoAutoencoder(VIDEO, (32, 64)).eval()
    assert model.latent_shape == (4, 1, 2)
    assert (model.latent_frames(25), model.latent_frames(1)) == (4, 1)
    model.latents_mean.fill_(0.3)
    model.latents_std.fill_(2.0)
    with torch.no_grad():
        assert model.encode_frames(pixels(2, 32, 64, 3)).shape == (2, 4, 1, 2)
        latents = model.encode_chunk(pixels(1, 9, 32, 64, 3))
        assert latents.shape == (1, 2, 4, 1, 2)
        assert model.decode_chunk(latents, 9).shape == (1, 9, 32, 64, 3)
    assert not [name for name in model.state_dict() if name.startswith("vae.latents")]


def test_video_lengths_and_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        VideoAutoencoder(VIDEO, (48, 64))
    with pytest.raises(ConfigError, match="8 n"):
        VideoAutoencoder(VIDEO, (32, 32)).latent_frames(8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LTX autoencoder as diffusers writes it."""
    folder = tmp_path_factory.mktemp("ltx")
    vae = VideoAutoencoder(VIDEO, (32, 32)).vae
    vae.register_buffer("latents_mean", torch.full((4,), 0.5))
    vae.register_buffer("latents_std", torch.full((4,), 2.0))
    vae.save_pretrained(folder / "vae")
    return folder


def test_published_weights_are_taken_over(published: Path) -> None:
    config = dataclasses.replace(VIDEO, weights=str(published))
    first, second = (VideoAutoencoder(config, (32, 32)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["latents_mean"].unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors, name: tensors.pop(name), "missing encoder"),
        (lambda tensors, name: tensors.update(extra=torch.ones(1)), "unexpected extra"),
        (lambda tensors, name: tensors[name].fill_(float("nan")), "not finite"),
        (lambda tensors, name: tensors.update({name: tensors[name] * 1j}), "complex64"),
        (lambda tensors, name: tensors.update({name: tensors[name].int()}), "int32"),
        (lambda tensors, name: tensors.update({name: tensors[name][:1].clone()}), "has shape"),
        (None, "does not exist"),
    ],
)
def test_published_weights_must_fit(published: Path, tmp_path: Path, damage, message: str) -> None:
    shutil.copytree(published, tmp_path / "ltx")
    file = tmp_path / "ltx" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    if damage is not None:
        damage(tensors, next(name for name in tensors if name.startswith("encoder") and name.endswith("weight")))
        save_file(tensors, file)
    with pytest.raises(CheckpointError, match=f"diffusion_pytorch_model.safetensors.*{message}"):
        load_vae(str(tmp_path / "ltx"))
    (tmp_path / "ltx" / "vae" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="holds no LTX autoencoder"):
        load_vae(str(tmp_path / "ltx"))
