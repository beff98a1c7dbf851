"""Ways of proposing action chunks: what there is to choose from.

A policy that lacks skill proposes chunks that hardly differ where it matters: it closes beside the object again and
again. Chunks around its own, moved in space or in time, do differ, whatever the policy knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_env.errors import ConfigError, requirement
from rise_env.tasks import JointLayout

__all__ = [
    "PROPOSALS",
    "ExploringActor",
    "ProposalConfig",
    "check_kinds",
    "mixed_proposals",
    "offset_chunks",
    "turned_chunks",
    "warped_chunks",
]

#: policy: drawn from the policy; wide: the same with twice the noise; offset: the policy's chunk without noise, moved
#: in space; warp: moved in time; both: one after the other; turn: with some joints, e.g. of the wrists, turned far.
PROPOSALS = ("policy", "wide", "offset", "warp", "both", "turn")
_WIDE = 2.0  # times the noise
_STILL = 0.1  # rad: an arm none of whose joints goes farther in a chunk has nothing to turn for


@dataclass(frozen=True)
class ProposalConfig:
    """How far proposals lie from the policy's chunk.

    Attributes:
        offset: Standard deviation of the joint offset of a moved chunk, rad; grippers and other lengths are not moved.
        ramp: Part of the chunk over which the offset builds up.
        least_speed: Lowest speed of a chunk that is moved in time, relative to the policy's.
        most_speed: Its highest speed.
        turn: Standard deviation of the offset of each joint that is turned, rad.
        turn_joints: Names of these joints, or their endings (`_joint6`).
        most_delay: Largest delay or lead of a chunk that is moved in time, as a part of the chunk.
    """

    offset: float = 0.05
    ramp: float = 0.5
    least_speed: float = 0.5
    most_speed: float = 1.6
    most_delay: float = 0.2
    turn: float = 0.6
    turn_joints: tuple[str, ...] = ("_joint6",)

    def __post_init__(self) -> None:
        require = requirement("proposals")
        require.at_least(0, self, "offset", "most_delay", "turn")
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
    return _moved(chunks, layout.sizes(config.offset, 0.0), config.ramp, generator)


def turned_chunks(
    chunks: torch.Tensor, layout: JointLayout, config: ProposalConfig, generator: torch.Generator
) -> torch.Tensor:
    """Chunks (n, chunk, D) with an offset of its own in every joint that is to be turned; it builds up, then stays.

    A policy that does not see how an object lies takes hold of it crosswise. Offsets of all joints that are large
    enough to repair that would miss the object. An arm that rests in a chunk (joints that are named alike but for the
    ending move by less than 0.1 rad) is not turned: nothing would tell whether that is right, and it would be learned.

    Raises:
        ConfigError: If no joint has such a name, or one that has is a length.
    """
    turned = np.array([any(name.endswith(end) for end in config.turn_joints) for name in layout.names])
    if not turned.any() or not layout.angles[turned].all():
        raise ConfigError(
            f"turn_joints {list(config.turn_joints)} name no joint, or one that does not turn; there are "
            f"{', '.join(layout.names)}"
        )
    moved = _moved(chunks, np.where(turned, config.turn, 0.0), config.ramp, generator)
    way = (chunks - chunks[:, :1]).abs().amax(dim=1)  # (n, D)
    for joint in np.flatnonzero(turned).tolist():
        name = layout.names[joint]
        stem = next(name.removesuffix(end) for end in config.turn_joints if name.endswith(end))
        arm = [other for other, one in enumerate(layout.names) if one.startswith(stem) and layout.angles[other]]
        rests = way[:, arm].amax(dim=1) < _STILL
        moved[rests, :, joint] = chunks[rests, :, joint]
    return moved


def _moved(chunks: torch.Tensor, sizes: np.ndarray, ramp: float, generator: torch.Generator) -> torch.Tensor:
    """Chunks with a normal offset of such deviations, (D,), that builds up over a part of them."""
    length = chunks.shape[1]
    drawn = torch.from_numpy(sizes).float() * torch.randn((len(chunks), 1, chunks.shape[2]), generator=generator)
    share = (torch.arange(1, length + 1) / (ramp * length)).clamp(max=1.0)
    return chunks + drawn * share[:, None]


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
    own: torch.Tensor,
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
        own: The policy's chunks without noise, (N, chunk, D): what is moved.
        states: Joint states, (N, D).
        layout: Tells angles from lengths, and the limits.
        config: How far they lie from the policy's.
        generator: Source of randomness, on the CPU.

    Raises:
        ConfigError: As of `check_kinds`.
    """
    check_kinds(kinds)
    parts = []
    for number, kind in enumerate(kinds):
        share = count // len(kinds) + (number < count % len(kinds))
        if not share:
            continue
        if kind in ("policy", "wide"):
            parts.append(draw(share, _WIDE if kind == "wide" else 1.0))
            continue
        chunks, where = own.repeat_interleave(share, dim=0), states.repeat_interleave(share, dim=0)
        if kind in ("warp", "both"):
            chunks = warped_chunks(chunks, where, config, generator)
        if kind == "turn":
            chunks = turned_chunks(chunks, layout, config, generator)
        if kind in ("offset", "both"):
            chunks = offset_chunks(chunks, layout, config, generator)
        parts.append(chunks.unflatten(0, (len(own), share)))
    low, high = (torch.from_numpy(limit).float() for limit in (layout.low, layout.high))
    return torch.minimum(torch.maximum(torch.cat(parts, dim=1), low), high)


class ExploringActor(PolicyActor):
    """A policy that now and then does something else than it would: its recordings show a world model what comes of it.

    Args:
        policy: Policy.
        kinds: Some of `PROPOSALS`, one of which is drawn wherever it explores.
        share: Part of the decisions at which it explores.
        config: How far from its chunk it goes.
        **how: As of `PolicyActor`.
    """

    def __init__(
        self,
        policy: Policy,
        kinds: Sequence[str],
        share: float = 0.5,
        config: ProposalConfig | None = None,
        **how: Any,
    ) -> None:
        super().__init__(policy, **how)
        check_kinds(kinds)
        if not 0 <= share <= 1:
            raise ConfigError(f"a share of {share:g} of the decisions: expected a number in [0, 1]")
        self.kinds, self.share, self.config = tuple(kinds), share, config or ProposalConfig()
        self.supports_rtc = False

    @torch.no_grad()
    def act(self, observations: Mapping[str, Any]) -> np.ndarray:
        """Action chunks float32 (N, chunk, D), rad and m, within the joint limits."""
        chunks, policy = super().act(observations), self.policy
        states = torch.as_tensor(observations["state"]).float().cpu()
        drawn = [torch.rand(2, generator=generator) for generator in self._generators]
        for row, (explore, which) in enumerate(drawn):
            if explore >= self.share:
                continue
            generator, kind = self._generators[row], self.kinds[int(which * len(self.kinds))]
            context = policy.context_of({key: value[row : row + 1] for key, value in observations.items()})

            def draw(number: int, scale: float, context: Any = context, generator: Any = generator) -> torch.Tensor:
                noise = scale * policy.draw_noise([generator] * number)
                seen = context[torch.zeros(number, dtype=torch.long, device=policy.device)]
                asked = torch.full((number,), self.advantage_bin, device=policy.device)
                drawn = policy.sample(seen, asked, noise, guidance=self.guidance, steps=self.steps)
                return policy.within_limits(drawn).cpu()[None]

            own = torch.from_numpy(chunks[row : row + 1])
            found = mixed_proposals(
                [kind], 1, draw, own, states[row : row + 1], policy.spec.layout, self.config, generator
            )
            chunks[row] = found[0, 0].numpy()
        return chunks
