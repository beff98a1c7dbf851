"""The networks of `FlowPolicy`: an image encoder per view and a denoiser of action chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from rise_env.errors import requirement

__all__ = ["ChunkDenoiser", "NetworkConfig", "ViewEncoder", "time_features"]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a `FlowPolicy`.

    Attributes:
        patch: Side of the pixel squares that the first convolution reads at once.
        channels: Width of the convolutions; each but the first halves the picture.
        embed: Features per view.
        width: Channels of the denoiser.
        depth: Its residual blocks.
        expand: Inner width of a block over `width`.
        condition: Channels of what modulates the blocks.
        dropout: Part of the inner units of a block, and of the features, that is left out in training.
    """

    patch: int = 4
    channels: tuple[int, ...] = (48, 64, 96)
    embed: int = 128
    width: int = 384
    depth: int = 4
    expand: int = 2
    condition: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require = requirement("policy.network")
        require.at_least(1, self, "patch", "embed", "width", "depth", "expand", "condition")
        require(self.channels and min(self.channels) >= 1, f"channels {self.channels} must be positive")


class ViewEncoder(nn.Module):
    """Features of one camera: its moments stacked on channels, strided convolutions, one linear layer.

    Args:
        moments: Pictures stacked on channels.
        size: Height and width in pixels.
        config: Sizes.
    """

    def __init__(self, moments: int, size: tuple[int, int], config: NetworkConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        # Large steps first: at full resolution the convolutions of a CPU wait for memory, not for arithmetic.
        before, height, width = 3 * moments, size[0] // config.patch, size[1] // config.patch
        for level, channels in enumerate(config.channels):
            if level:
                layers.append(nn.Conv2d(before, channels, 3, 2, 1))
                height, width = (height + 1) // 2, (width + 1) // 2
            else:
                layers.append(nn.Conv2d(before, channels, config.patch, config.patch))
            layers += [nn.GroupNorm(math.gcd(channels, 8), channels), nn.SiLU()]
            before = channels
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(before * height * width, config.embed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3 moments, H, W) in [-1, 1] to (B, embed)."""
        return self.project(self.convolutions(images).flatten(1))


def time_features(time: torch.Tensor, count: int = 64) -> torch.Tensor:
    """Sines and cosines of a time in [0, 1], (B,) to (B, count)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(200.0), count // 2, device=time.device))
    angles = 2.0 * time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ChunkDenoiser(nn.Module):
    """Velocity of a noisy chunk: a residual MLP whose blocks are modulated by time, advantage bin and features.

    Args:
        size: Numbers in a chunk.
        features: Features of the observation.
        conditions: Advantage bins, the unconditional one included.
        config: Sizes.
    """

    def __init__(self, size: int, features: int, conditions: int, config: NetworkConfig) -> None:
        super().__init__()
        width, condition = config.width, config.condition
        self.read_chunk = nn.Linear(size, width)
        self.read_features = nn.Linear(features, width)
        self.condition_features = nn.Linear(features, condition)
        self.condition_time = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        # Named as in shipped weights. Of the size of everything else from the start: a faint embedding is ignored.
        self.level = nn.Embedding(conditions, condition)
        self.dropout = nn.Dropout(config.dropout)
        inner = config.expand * width
        self.blocks = nn.ModuleList([_Block(width, inner, condition, config.dropout) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, size)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(
        self, noisy: torch.Tensor, features: torch.Tensor, time: torch.Tensor, advantage_bins: torch.Tensor
    ) -> torch.Tensor:
        """(B, size), (B, features), (B,), (B,) to the velocity (B, size)."""
        features = self.dropout(features)
        condition = self.condition_features(features) + self.condition_time(time_features(time))
        condition = functional.silu(condition + self.level(advantage_bins))
        hidden = self.read_chunk(noisy) + self.read_features(features)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.write(self.norm(hidden))


class _Block(nn.Module):
    def __init__(self, width: int, inner: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(condition, 3 * width)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift, gate = self.modulate(condition).chunk(3, dim=-1)
        inner = functional.silu(self.inner(self.norm(hidden) * (1 + scale) + shift))
        return hidden + (1 + gate) * self.outer(self.dropout(inner))
