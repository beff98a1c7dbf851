"""Ways of proposing action chunks: what an algorithm can choose from bounds what it can learn.

A policy that lacks skill proposes chunks that hardly differ where it matters: it closes beside the object again and
again. Chunks around its own, moved in space or in time, do differ, whatever the policy knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rise_env.errors import ConfigError, requirement
from rise_env.tasks import JointLayout

__all__ = ["PROPOSALS", "ProposalConfig", "check_kinds", "mixed_proposals", "offset_chunks", "warped_chunks"]

#: policy: drawn from the policy; wide: the same with twice the noise; offset: the policy's chunk without noise, moved
#: in space; warp: moved in time; both: one after the other.
PROPOSALS = ("policy", "wide", "offset", "warp", "both")
_WIDE = 2.0  # times the noise


@dataclass(frozen=True)
class ProposalConfig:
    """How far proposals lie from the policy's chunk.

    Attributes:
        offset: Standard deviation of the joint offset of a moved chunk, rad; grippers and other lengths are not moved.
        ramp: Part of the chunk over which the offset builds up.
        least_speed, most_speed: Of a chunk that is moved in time, relative to the policy's.
        most_delay: Largest delay or lead of a chunk that is moved in time, as a part of the chunk.
    """

    offset: float = 0.05
    ramp: float = 0.5
    least_speed: float = 0.5
    most_speed: float = 1.6
    most_delay: float = 0.2

    def __post_init__(self) -> None:
        require = requirement("proposals")
        require.at_least(0, self, "offset", "most_delay")
        require.positive(self, "ramp", "least_speed")
        require(self.least_speed <= self.most_speed, f"least_speed {self.least_speed} is above most_speed")


def check_kinds(kinds: Sequence[str]) -> None:
    """ConfigError unless these are ways of proposing, at least one."""
    if unknown := sorted(set(kinds) - set(PROPOSALS)):
        raise ConfigError(f"proposals {unknown} are unknown; there are {', '.join(PROPOSALS)}")
    if not kinds:
        raise ConfigError(f"no way of proposing is named; there are {', '.join(PROPOSALS)}")


def offset_chunks(
    chunks: torch.Tensor, layout: JointLayout, config: ProposalConfig, generator: torch.Generator
) -> torch.Tensor:
    """Chunks (n, chunk, D), each with an offset of its own in every joint that builds up linearly and then stays."""
    length = chunks.shape[1]
    size = torch.from_numpy(layout.sizes(config.offset, 0.0)).float()
    drawn = size * torch.randn((len(chunks), 1, chunks.shape[2]), generator=generator)
    ramp = (torch.arange(1, length + 1) / (config.ramp * length)).clamp(max=1.0)
    return chunks + drawn * ramp[:, None]


def warped_chunks(
    chunks: torch.Tensor, states: torch.Tensor, config: ProposalConfig, generator: torch.Generator
) -> torch.Tensor:
    """Chunks (n, chunk, D) from joint states (n, D), each run at a speed and with a delay of its own.

    What lies before a chunk is the state, what lies behind it its last target.
    """
    count, length = chunks.shape[:2]
    speed, delay = torch.rand((2, count, 1), generator=generator)
    speed = config.least_speed + (config.most_speed - config.least_speed) * speed
    delay = config.most_delay * length * (2 * delay - 1)
    path = torch.cat([states[:, None], chunks], dim=1)  # place 0 is the state
    place = ((torch.arange(1, length + 1) - delay) * speed).clamp(0, length)
    first = place.floor().clamp(max=length - 1).long()
    share = (place - first)[..., None]
    rows = torch.arange(count)[:, None]
    return (1 - share) * path[rows, first] + share * path[rows, first + 1]


def mixed_proposals(
    kinds: Sequence[str],
    count: int,
    draw: Callable[[int, float], torch.Tensor],
    states: torch.Tensor,
    layout: JointLayout,
    config: ProposalConfig,
    generator: torch.Generator,
) -> torch.Tensor:
    """Proposals for N states, float32 (N, count, chunk, D) in rad and m, within the joint limits.

    Args:
        kinds: Some of `PROPOSALS`, which share the count as evenly as it goes, the first ones ahead.
        count: Proposals per state.
        draw: Draws so many chunks of the policy for every state, from noise of a scale: (N, number, chunk, D).
        states: Joint states, (N, D).
        layout: Tells angles from lengths, and the limits.
        config: How far they lie from the policy's.
        generator: Source of randomness, on the CPU.

    Raises:
        ConfigError: As of `check_kinds`.
    """
    check_kinds(kinds)
    own, parts = None, []
    for number, kind in enumerate(kinds):
        share = count // len(kinds) + (number < count % len(kinds))
        if not share:
            continue
        if kind in ("policy", "wide"):
            parts.append(draw(share, _WIDE if kind == "wide" else 1.0))
            continue
        if own is None:
            own = draw(1, 0.0)[:, 0]
        chunks, where = own.repeat_interleave(share, dim=0), states.repeat_interleave(share, dim=0)
        if kind in ("warp", "both"):
            chunks = warped_chunks(chunks, where, config, generator)
        if kind in ("offset", "both"):
            chunks = offset_chunks(chunks, layout, config, generator)
        parts.append(chunks.unflatten(0, (len(own), share)))
    low, high = (torch.from_numpy(limit).float() for limit in (layout.low, layout.high))
    return torch.minimum(torch.maximum(torch.cat(parts, dim=1), low), high)
