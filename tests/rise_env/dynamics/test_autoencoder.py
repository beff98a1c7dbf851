from __future__ import annotations

import pytest
import torch

from rise_env.dynamics.autoencoder import ImageAutoencoder, VideoAutoencoder, spread, to_pixels, to_unit
from rise_env.dynamics.config import AutoencoderConfig, VideoAutoencoderConfig
from rise_env.errors import ConfigError

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
