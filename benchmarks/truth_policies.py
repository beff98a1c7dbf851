"""Which policies are ranked by the truth report: those that are named, and such as everybody has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.loading import advantage_bin_of
from rise_agents.policies.resolve import find_policy, resolve_policy
from rise_agents.policies.scripted import RandomPolicy
from rise_env.acting import Actor
from rise_env.bundle import Bundle
from rise_env.errors import ConfigError
from rise_env.spaces import action_space

__all__ = ["Contender", "contenders", "named"]

#: Fewer than so many names are filled up, to so many.
_LEAST, _FILLED = 6, 8


@dataclass(frozen=True)
class Contender:
    """A policy that is ranked.

    Attributes:
        name: What it is called on the page.
        about: What it does, in words.
        actor: Makes it; None for a scripted policy, which sees the ground truth and so cannot act in imagination: what
            it does in the cell is imagined.
        script: Name of the scripted policy.
        policy: The trained policy behind it.
    """

    name: str
    about: str
    actor: Callable[[], Actor] | None = None
    script: str | None = None
    policy: Policy | None = None


def named(name: str, bundle: Bundle, scripted: Sequence[str], device: str | torch.device) -> Contender:
    """A policy by its name or path.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name == "random":
        return Contender(name, "uniformly random targets", lambda: RandomPolicy(action_space(bundle.spec)))
    if name in scripted:
        return Contender(name, "scripted, sees the truth; what it did in the cell is imagined", script=name)
    if find_policy(name, bundle=bundle) is None:
        raise ConfigError(
            f"policy {name!r}: expected 'base', a run folder, a checkpoint, random, {', '.join(scripted)}"
        )
    policy = resolve_policy(name, bundle=bundle, device=device)
    return Contender(name, "asked for the best", lambda: PolicyActor(policy), policy=policy)


def contenders(
    names: Sequence[str], improved: Sequence[str], bundle: Bundle, scripted: Sequence[str], device: str | torch.device
) -> list[Contender]:
    """The named policies, then the improved ones, filled up where they are fewer than six.

    Raises:
        ConfigError: If one of them does not exist.
    """
    found = {name: named(name, bundle, scripted, device) for name in dict.fromkeys([*names, *improved])}
    if len(found) >= _LEAST:
        return list(found.values())
    for one in _common(bundle, scripted, device):
        if len(found) < _FILLED:
            found.setdefault(one.name, one)
    return list(found.values())


def _common(bundle: Bundle, scripted: Sequence[str], device: str | torch.device) -> list[Contender]:
    """What everybody has: the base in several moods, scripted policies, random actions."""
    found = []
    if bundle.policy is not None:
        base = resolve_policy("base", bundle=bundle, device=device)
        moods = {"base": "best", "base (middle)": "middle", "base (worst)": "worst"}
        for name, mood in moods.items():
            asked = advantage_bin_of(base, mood)
            found.append(
                Contender(name, f"asked for the {mood}", functools.partial(PolicyActor, base, asked), policy=base)
            )
        found.append(
            Contender(
                "base (noise)",
                "its chunks drawn at full noise",
                lambda: PolicyActor(base, noise_scale=1.0),
                policy=base,
            )
        )
    for name in ("operator", "expert", "operator-clumsy", "random", *scripted):
        if name == "random" or name in scripted:
            found.append(named(name, bundle, scripted, device))
    return found
