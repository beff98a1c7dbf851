"""Checks of arguments: autoreset modes, seeds, masks, options and actions."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.errors import ActionError, ConfigError, requirement
from rise_env.tasks import JointLayout

if TYPE_CHECKING:
    import torch

__all__ = ["autoreset_mode", "checked_actions", "mask_of", "option_of", "options_of", "seeds_of"]


def autoreset_mode(name: str | AutoresetMode) -> AutoresetMode:
    """Mode by name ("next_step", "same_step", "disabled", or as Gymnasium spells it); a ConfigError for other names."""
    if isinstance(name, AutoresetMode):
        return name
    for mode in AutoresetMode:
        if str(name).replace("_", "").lower() == mode.value.replace("_", "").lower():
            return mode
    raise ConfigError(
        f"unknown autoreset_mode {name!r}. Known modes: {', '.join(mode.name.lower() for mode in AutoresetMode)}."
    )


def seeds_of(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """One seed per environment, an int s standing for s, s + 1, ...; a ConfigError if their number is another, or one
    is no whole number from 0.
    """
    require = requirement("reset")
    if _single(seed):
        require.whole(0, seed=seed)
        return [None if seed is None else operator.index(seed) + i for i in range(count)]  # type: ignore[arg-type]
    seeds = list(seed)  # type: ignore[arg-type]
    if len(seeds) != count:
        raise ConfigError(f"got {len(seeds)} seeds for {count} environments")
    require.whole(0, **{f"seed[{i}]": one for i, one in enumerate(seeds)})
    return [None if one is None else operator.index(one) for one in seeds]


def options_of(options: Any) -> dict[str, Any]:
    """Options of a reset as a dict, empty for None; a ConfigError if they are something else."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"reset: options are {options!r:.80}, expected a dict or None")
    return dict(options or {})


def mask_of(mask: Any, count: int) -> np.ndarray:
    """Environments to reset, bool (count,), None being all; a ConfigError for other shapes and types, or no True."""
    if mask is None:
        return np.ones(count, bool)
    try:
        mask = np.array(mask.cpu() if hasattr(mask, "cpu") else mask)
    except ValueError as error:  # a ragged list
        raise ConfigError(f"reset_mask must be bool with shape ({count},): {error}") from error
    if mask.shape != (count,) or mask.dtype != np.bool_ or not mask.any():
        raise ConfigError(
            f"reset_mask must be bool with shape ({count},) and at least one True, got {mask.dtype} {mask.shape}"
        )
    return mask


def option_of(key: str, value: Any, rows: Iterable[int], count: int) -> list[int | None]:
    """Entries of an option for the `rows` of `count` environments, from one number for all or one (or None) each."""
    values = [value] * count if _single(value) else list(value)
    if len(values) != count:
        raise ConfigError(f"option {key!r} has {len(values)} entries for {count} environments")
    chosen = [values[i] for i in rows]
    for one in chosen:
        requirement("reset").whole(0, **{f"option {key}": one})
    return [None if one is None else operator.index(one) for one in chosen]


def _single(value: Any) -> bool:
    """Whether this is one value and not one per environment."""
    return isinstance(value, str | bytes) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0


def checked_actions(
    actions: Any, running: np.ndarray, chunk: int, layout: JointLayout, device: torch.device
) -> tuple[torch.Tensor, np.ndarray]:
    """Actions within the joint limits.

    Args:
        actions: (N, chunk, D), an array or a tensor.
        running: Environments whose actions count, bool (N,).
        chunk: Control steps per chunk.
        layout: Joints and their limits.
        device: Where the actions are wanted.

    Returns:
        float32 (N, chunk, D), and the number of components that had to be clamped, int64 (N,).

    Raises:
        ActionError: If shape or type is another, or an action that counts is not finite.
    """
    import torch  # the work cell, which uses the rest of this file, does without

    if not isinstance(actions, torch.Tensor):
        try:
            actions = np.asarray(actions)
        except ValueError as error:  # a ragged list
            raise ActionError(f"actions are no array: {error}") from error
        if not np.issubdtype(actions.dtype, np.number):
            raise ActionError(f"actions are {actions.dtype}, expected numbers")
        actions = torch.from_numpy(np.array(actions, np.float32))
    expected = (len(running), chunk, layout.dim)
    if tuple(actions.shape) != expected:
        raise ActionError(
            f"actions have shape {tuple(actions.shape)}, expected {expected}: (num_envs, chunk, joints), absolute "
            f"targets in the order {', '.join(layout.names)}"
        )
    actions = actions.detach().to(device, torch.float32)
    finite = torch.isfinite(actions).all(dim=2).all(dim=1).cpu().numpy()
    if not finite[running].all():
        bad = np.flatnonzero(running & ~finite).tolist()
        raise ActionError(f"actions of environments {bad} are not finite (NaN or infinity); nothing was imagined")
    low, high = (torch.as_tensor(limit, device=device) for limit in (layout.low, layout.high))
    within = torch.clamp(actions, low, high)
    return within, (within != actions).sum(dim=(1, 2)).cpu().numpy()
