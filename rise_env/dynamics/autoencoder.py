"""Images to normalised latents and back, behind one small interface: per frame, or LTX video.

Latents are normalised: over the training data every channel has mean 0 and standard deviation 1. The statistics are
buffers of the model and travel with its weights.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, override

import torch
from torch import nn
from torch.nn import functional

from rise_env.dynamics.compiling import Call, plain
from rise_env.dynamics.config import AutoencoderConfig, VideoAutoencoderConfig
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import local_directory, read_weights

__all__ = ["Autoencoder", "ImageAutoencoder", "VideoAutoencoder", "load_vae", "spread", "to_pixels", "to_unit"]

#: As the release decodes, with autoencoders that are conditioned on a time: that time, and the share of noise.
_DECODE_TIME, _DECODE_NOISE = 0.03, 0.025
#: Held while torch's own generator is borrowed.
_drawing = threading.Lock()


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    """Frames uint8 (..., H, W, 3) to float (..., 3, H, W) in [-1, 1].

    Raises:
        ConfigError: If the frames are not uint8: their range would be a guess.
    """
    if frames.dtype != torch.uint8:
        raise ConfigError(f"frames are {frames.dtype}, expected uint8 pixels (..., height, width, 3)")
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1.0)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Images (..., 3, H, W) in [-1, 1] to uint8 (..., H, W, 3), clipped."""
    return images.float().add(1.0).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).movedim(-3, -1)


def spread(latents: torch.Tensor) -> float:
    """Standard deviation of latents (n, C, h, w) across samples, averaged over places and channels.

    Where an encoder has collapsed, it falls towards zero while the overall standard deviation looks normal.
    """
    return float(latents.float().std(dim=0, unbiased=False).mean())


class Autoencoder(nn.Module, ABC):
    """What the dynamics model needs of an autoencoder.

    Attributes:
        latent_shape: (C, h, w) of one latent frame.
        per_frame: Whether every frame has its own latent; else only single frames and whole chunks have.
    """

    latent_shape: tuple[int, int, int]
    per_frame: bool
    latents_mean: torch.Tensor
    latents_std: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("latents_mean", torch.zeros(channels))
        self.register_buffer("latents_std", torch.ones(channels))

    def normalise(self, latents: torch.Tensor) -> torch.Tensor:
        """Raw latents (..., C, h, w) to mean 0, standard deviation 1 per channel."""
        return (latents.float() - self.latents_mean[:, None, None]) / self.latents_std[:, None, None]

    def denormalise(self, latents: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`."""
        return latents.float() * self.latents_std[:, None, None] + self.latents_mean[:, None, None]

    @abstractmethod
    def latent_frames(self, frames: int) -> int:
        """Latent frames of a chunk of `frames` imagined frames."""

    @abstractmethod
    def encode_frames(self, frames: torch.Tensor, call: Call = plain) -> torch.Tensor:
        """Single frames uint8 (n, H, W, 3) to normalised latents (n, C, h, w); `call` calls the encoder."""

    @abstractmethod
    def decode_chunk(self, latents: torch.Tensor, frames: int, call: Call = plain) -> torch.Tensor:
        """Normalised latents (n, F, C, h, w) of a chunk to uint8 (n, frames, H, W, 3); `call` calls the decoder."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))): no normalisation, which is slow on CPUs; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class ImageEncoder(nn.Sequential):
    """Layers under a name of their own, which messages about compiling give."""


class ImageDecoder(nn.Sequential):
    """See `ImageEncoder`."""


class ImageAutoencoder(Autoencoder):
    """Convolutional autoencoder of single frames; all views share it.

    Most of the work happens at low resolution, because decoding is what imagination spends its time on.

    Args:
        config: Its sizes.
        image_size: Height and width of the images; multiples of `config.downsample` after padding at the bottom right.
    """

    per_frame = True

    def __init__(self, config: AutoencoderConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config.latent_channels)
        self.config = config
        self.image_size = image_size
        step = config.downsample
        self.padding = tuple(-size % step for size in image_size)
        height, width = (size + pad for size, pad in zip(image_size, self.padding, strict=True))
        self.latent_shape = (config.latent_channels, height // step, width // step)
        levels = list(zip(config.channels, config.blocks, strict=True))
        encoder: list[nn.Module] = [nn.Conv2d(3 * config.fold**2, config.channels[0], 3, padding=1)]
        decoder: list[nn.Module] = [nn.Conv2d(config.latent_channels, config.channels[-1], 3, padding=1)]
        for level, (channels, blocks) in enumerate(levels):
            if level:
                encoder += [nn.Conv2d(config.channels[level - 1], channels, 4, stride=2, padding=1)]
            encoder += [ResidualBlock(channels) for _ in range(blocks)]
        for level, (channels, blocks) in reversed(list(enumerate(levels))):
            decoder += [ResidualBlock(channels) for _ in range(blocks)]
            if level:
                decoder += [nn.Conv2d(channels, 4 * config.channels[level - 1], 1), nn.PixelShuffle(2)]
        encoder += [nn.ReLU(), nn.Conv2d(config.channels[-1], config.latent_channels, 3, padding=1)]
        decoder += [nn.ReLU(), nn.Conv2d(config.channels[0], 3 * config.fold**2, 3, padding=1)]
        self.encoder = ImageEncoder(*encoder)
        self.decoder = ImageDecoder(*decoder)

    @override
    def latent_frames(self, frames: int) -> int:
        return frames

    def encode_images(self, images: torch.Tensor, call: Call = plain) -> torch.Tensor:
        """Images float (n, 3, H, W) in [-1, 1] to raw latents (n, C, h, w)."""
        bottom, right = self.padding
        if bottom or right:
            images = functional.pad(images, (0, right, 0, bottom), mode="replicate")
        return call(self.encoder, functional.pixel_unshuffle(images, self.config.fold))

    def decode_images(self, latents: torch.Tensor, call: Call = plain) -> torch.Tensor:
        """Raw latents (n, C, h, w) to images float (n, 3, H, W), not clipped."""
        images = functional.pixel_shuffle(call(self.decoder, latents), self.config.fold)
        return images[..., : self.image_size[0], : self.image_size[1]]

    @override
    def encode_frames(self, frames: torch.Tensor, call: Call = plain) -> torch.Tensor:
        return self.normalise(self.encode_images(to_unit(frames), call))

    @override
    def decode_chunk(self, latents: torch.Tensor, frames: int, call: Call = plain) -> torch.Tensor:
        if latents.shape[1] != frames:
            raise ConfigError(f"{latents.shape[1]} latent frames cannot be {frames} frames: one latent is one frame")
        images = self.decode_images(self.denormalise(latents.flatten(0, 1)), call)
        return to_pixels(images).unflatten(0, latents.shape[:2])


class VideoAutoencoder(Autoencoder):
    """The video autoencoder of LTX: 8 frames and 32 x 32 pixels to one latent.

    As the official model trains it, history frames are encoded one at a time and the imagined frames of a chunk
    jointly: 25 frames are 4 latent frames, so that chunks must be 8 n + 1 frames long.

    Args:
        config: Its sizes, and where its weights are.
        image_size: Height and width of the images, multiples of 32.
        architecture: Settings of `AutoencoderKLLTXVideo`, as `architecture` gives them; weights are still to come then,
            and `config` is not read. The published autoencoders differ in more than their sizes.
    """

    per_frame = False

    def __init__(
        self,
        config: VideoAutoencoderConfig,
        image_size: tuple[int, int],
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config.latent_channels)
        from diffusers import AutoencoderKLLTXVideo

        if any(size % 32 for size in image_size):
            raise ConfigError(f"image_size {image_size}: the LTX autoencoder needs multiples of 32 pixels")
        self.config = config
        self.latent_shape = (config.latent_channels, image_size[0] // 32, image_size[1] // 32)
        if architecture is not None:
            self.vae = AutoencoderKLLTXVideo.from_config(dict(architecture))
        elif config.weights:
            self.vae = load_vae(config.weights)
            _check_ratios(self.vae, config)
            self.latents_mean.copy_(self.vae.latents_mean)
            self.latents_std.copy_(self.vae.latents_std)
        else:
            self.vae = AutoencoderKLLTXVideo(
                latent_channels=config.latent_channels,
                block_out_channels=config.channels,
                decoder_block_out_channels=config.channels,
                layers_per_block=config.layers,
                decoder_layers_per_block=config.layers,
            )
        # Keyed once: the statistics above are the ones that travel.
        for name in ("latents_mean", "latents_std"):
            if name in self.vae._buffers:
                del self.vae._buffers[name]

    @property
    def architecture(self) -> dict[str, Any]:
        """Settings of the diffusers model, plain values: with the weights, all that is needed to make it again."""
        return {name: value for name, value in self.vae.config.items() if not name.startswith("_")}

    @override
    def latent_frames(self, frames: int) -> int:
        if frames % 8 != 1:
            raise ConfigError(
                f"{frames} imagined frames: the LTX autoencoder takes 8 n + 1 (25 for chunk 50, stride 2)"
            )
        return (frames - 1) // 8 + 1

    @override
    def encode_frames(self, frames: torch.Tensor, call: Call = plain) -> torch.Tensor:
        return self.encode_chunk(frames[:, None], call)[:, 0]

    def encode_chunk(
        self, frames: torch.Tensor, call: Call = plain, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Chunks of consecutive imagined frames uint8 (n, K, H, W, 3) to (n, F, C, h, w).

        They are the mode of the posterior or, given a generator, a sample of it.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        self.latent_frames(frames.shape[1])
        size = self._videos_at_once(frames.shape[1])
        moments = torch.cat([call(self.vae.encoder, to_unit(some).transpose(1, 2)) for some in frames.split(size)])
        if generator is None:
            latents = moments[:, : self.config.latent_channels]  # the means
        else:
            latents = DiagonalGaussianDistribution(moments).sample(generator)
        return self.normalise(latents.transpose(1, 2))

    def _videos_at_once(self, frames: int) -> int:
        """Videos per call: activations are large, those of a few hundred frames fit anywhere."""
        return max(1, self.config.frames_at_once // frames)

    @override
    def decode_chunk(self, latents: torch.Tensor, frames: int, call: Call = plain) -> torch.Tensor:
        if latents.shape[1] != self.latent_frames(frames):
            raise ConfigError(f"{latents.shape[1]} latent frames are not a chunk of {frames} frames")
        raw = self.denormalise(latents).transpose(1, 2).to(self.vae.dtype)
        videos = [self._decode(some, call) for some in raw.split(self._videos_at_once(frames))]
        return torch.cat([to_pixels(some.transpose(1, 2)) for some in videos])

    def _decode(self, raw: torch.Tensor, call: Call) -> torch.Tensor:
        """Raw latents (n, C, F, h, w) to images; autoencoders that take a time get the published one, and noise.

        The noise is the same for every clip and every call: an environment's pictures depend on its latents alone.
        """
        inputs = [raw]
        if self.vae.config.timestep_conditioning:
            noise = torch.randn(raw.shape[1:], generator=torch.Generator().manual_seed(0)).to(raw)
            inputs = [torch.lerp(raw, noise, _DECODE_NOISE), raw.new_full((len(raw),), _DECODE_TIME)]
        if not any(self.vae.config.decoder_inject_noise):
            return call(self.vae.decoder, *inputs)
        # More noise, one picture for all clips, for which diffusers takes torch's own generator.
        with _drawing, torch.random.fork_rng([raw.device] if raw.device.type == "cuda" else []):
            torch.manual_seed(0)
            images: torch.Tensor = self.vae.decoder(*inputs)
        return images


def load_vae(path: str) -> Any:
    """The LTX autoencoder in a directory, in its sub-folder `vae`, or in that of a Hub id.

    diffusers only warns where its file lacks a weight, and leaves memory as it finds it: here the file must fit.

    Raises:
        CheckpointError: If something is missing, damaged, or does not fit.
    """
    from diffusers import AutoencoderKLLTXVideo

    root = local_directory(path, "LTX autoencoder", ["vae/*.json", "vae/*.safetensors"], ["vae/config.json"])
    folder = root / "vae" if (root / "vae").is_dir() else root
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"no LTX autoencoder at {root}: expected vae/config.json and vae/diffusion_pytorch_model.safetensors, as "
            "Lightricks/LTX-Video has them (--vae, dynamics.video_autoencoder.weights)"
        )
    try:
        vae = AutoencoderKLLTXVideo.from_config(AutoencoderKLLTXVideo.load_config(folder, local_files_only=True))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{folder} holds no LTX autoencoder, its config.json cannot be used: {error}") from error
    vae.load_state_dict(read_weights(folder, vae.state_dict(), "diffusion_pytorch_model.safetensors"))
    return vae


def _check_ratios(vae: Any, config: VideoAutoencoderConfig) -> None:
    found = (vae.config.latent_channels, vae.spatial_compression_ratio, vae.temporal_compression_ratio)
    if found != (config.latent_channels, 32, 8):
        raise ConfigError(
            f"the autoencoder of {config.weights} has {found[0]} channels, {found[1]} pixels and {found[2]} frames per "
            f"latent; expected {config.latent_channels} (dynamics.video_autoencoder.latent_channels), 32 and 8"
        )
