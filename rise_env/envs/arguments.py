"""Checks of arguments: autoreset modes, seeds, masks, options and actions."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.errors import ActionError, ConfigError, requirement
from rise_env.tasks import JointLayout

if TYPE_CHECKING:
    import torch

__all__ = [
    "autoreset_mode",
    "checked_actions",
    "checked_candidates",
    "checked_target",
    "mask_of",
    "option_of",
    "options_of",
    "real_numbers",
    "seeds_of",
]


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


def real_numbers(values: Any, what: str = "actions") -> np.ndarray:
    """Values of any kind, tensors too, as an array of real numbers.

    Raises:
        ActionError: If they are none: complex, objects, texts, dates, durations, truth values, or ragged lists.

    Example:
        >>> real_numbers(["1.0"])
        Traceback (most recent call last):
        ...
        rise_env.errors.ActionError: actions have data type <U3, expected real numbers; nothing was executed
    """
    try:
        if callable(getattr(values, "detach", None)):  # NumPy knows no bfloat16
            values = values.detach().cpu()
            values = values.double() if values.is_floating_point() else values
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ActionError(f"{what} are no array of real numbers: {error}; nothing was executed") from error
    if array.dtype.kind not in "fiu":
        raise ActionError(f"{what} have data type {array.dtype}, expected real numbers; nothing was executed")
    return array


def checked_target(target: Any, layout: JointLayout, steps: tuple[int, ...] = ()) -> np.ndarray:
    """Joint targets as float64 (*steps, D); ActionError if the shape is wrong or a value is not finite."""
    target = real_numbers(target)
    expected = (*steps, layout.dim)
    if target.shape != expected:
        order = f"absolute joint targets in the order {', '.join(layout.names)}"
        raise ActionError(f"action has shape {target.shape}, expected {expected}: {order}")
    finite = np.isfinite(target).reshape(-1, layout.dim).all(0)
    if not finite.all():
        bad = ", ".join(itertools.compress(layout.names, ~finite))
        raise ActionError(f"action is not finite at: {bad} (NaN or infinity); nothing was executed")
    return target.astype(np.float64)


def checked_candidates(actions: Any, num_envs: int, chunk: int, layout: JointLayout) -> Any:
    """Several chunks per environment, (num_envs, G, chunk, D), as an array or the tensor that they are.

    Raises:
        ActionError: If they have another shape, or are no real numbers.
    """
    array = actions if hasattr(actions, "detach") else real_numbers(actions, "candidate chunks")
    expected = (num_envs, "G", chunk, layout.dim)
    if array.ndim != 4 or not array.shape[1] or (array.shape[0], *array.shape[2:]) != (num_envs, chunk, layout.dim):
        raise ActionError(f"candidate chunks have shape {tuple(array.shape)}, expected {expected}")
    return array


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
        actions = torch.from_numpy(np.array(real_numbers(actions), np.float32))
    elif actions.is_complex() or actions.dtype == torch.bool:
        raise ActionError(f"actions have data type {actions.dtype}, expected real numbers; nothing was executed")
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
