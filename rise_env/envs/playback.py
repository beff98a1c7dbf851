"""Roll-outs of vector environments, recorded, inspected and compared bit for bit (the tools of `rise_env.checks`)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.infos import info_of
from rise_env.errors import RiseError

__all__ = ["Inspector", "Moment", "Run", "VectorEnvCheckError", "arrays_of", "difference", "join_actions", "timelines"]

_API = "https://gymnasium.farama.org/api/vector/"
_AUTORESET = "https://farama.org/Vector-Autoreset-Mode"
#: What an object array of infos may hold where its mask is True.
_PLAIN = (str, bytes, bool, int, float, np.generic, np.ndarray, dict, tuple)

type Act = Callable[[VectorEnv, Any], Any]


class VectorEnvCheckError(RiseError, AssertionError):
    """A vector environment breaks a rule; the message names the rule, what came, what was expected and the cure."""


@dataclass
class Moment:
    """What one reset or step returned; `mask`, bool (num_envs,), tells which environments took part."""

    observation: Any
    infos: dict[str, Any]
    mask: np.ndarray
    rewards: Any = None
    terminated: Any = None
    truncated: Any = None

    @property
    def over(self) -> np.ndarray:
        """Environments whose episode ended, bool (num_envs,)."""
        return np.zeros_like(self.mask) if self.terminated is None else self.terminated | self.truncated


@dataclass
class Run:
    """A roll-out.

    Attributes:
        moments: Everything that was returned, in order.
        actions: Batched actions of all steps.
        disturbed: Index of the moment of the reset that was asked for in between.
    """

    moments: list[Moment] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    disturbed: int = 0

    def first_end(self) -> int | None:
        """Index of the first moment, but for the last one, at which an episode ended."""
        return next((i for i, moment in enumerate(self.moments[:-1]) if moment.over.any()), None)


class Inspector:
    """Plays vector environments and inspects everything that they return.

    Args:
        act: Gives batched actions from an environment and its last observation.
    """

    def __init__(self, act: Act) -> None:
        self.act = act
        #: Name of the check in progress, for messages.
        self.rule = ""

    def require(self, condition: Any, where: str, got: Any, expected: Any, cure: str = "") -> None:
        """Raise an error that tells all of this unless `condition` is true."""
        if not condition:
            page = _AUTORESET if self.rule in ("next_step", "same_step", "disabled", "reset_mask") else _API
            text = f"[{self.rule}] {where}: got {got}, expected {expected}."
            raise VectorEnvCheckError(" ".join(part for part in (text, cure, f"See {page}") if part))

    def attempt(self, function: Callable[[], Any], where: str) -> Any:
        """Call what must not fail."""
        try:
            return function()
        except Exception as error:  # noqa: BLE001  (any error breaks the rule)
            try:
                self.require(False, where, f"{type(error).__name__}: {error}", "no error")
            except VectorEnvCheckError as broken:
                raise broken from error

    def reset(self, envs: VectorEnv, **kwargs: Any) -> Moment:
        """Reset and inspect the result."""
        mask = (kwargs.get("options") or {}).get("reset_mask")
        mask = np.ones(envs.num_envs, bool) if mask is None else mask.copy()
        result = self.attempt(functools.partial(envs.reset, **kwargs), f"reset({', '.join(kwargs)})")
        self.require(isinstance(result, tuple) and len(result) == 2, "reset()", type(result), "(observation, infos)")
        moment = Moment(result[0], result[1], mask)
        self._inspect(envs, moment, "reset()")
        return moment

    def step(self, envs: VectorEnv, actions: Any) -> Moment:
        """Step and inspect the result."""
        result = self.attempt(functools.partial(envs.step, actions), "step()")
        parts = "(observation, rewards, terminated, truncated, infos)"
        self.require(isinstance(result, tuple) and len(result) == 5, "step()", type(result), parts)
        observation, rewards, terminated, truncated, infos = result
        moment = Moment(observation, infos, np.ones(envs.num_envs, bool), rewards, terminated, truncated)
        self._inspect(envs, moment, "step()")
        return moment

    def play(
        self,
        envs: VectorEnv,
        seed: Any,
        steps: int,
        replay: list[Any] | None = None,
        *,
        until: Callable[[np.ndarray], Any] | None = None,
        disturb: tuple[int, dict[str, Any]] | None = None,
    ) -> Run:
        """Roll out from a seeded reset; in autoreset mode "disabled" what has ended is reset at once.

        Args:
            envs: Environment.
            seed: Seed or seeds of the reset.
            steps: Number of steps.
            replay: Actions to take; None asks `act`.
            until: Stops the roll-out, given which environments have ended at least once.
            disturb: Number of steps after which to reset in between, with the arguments of that reset.
        """
        run, copies = Run(), []

        def add(moment: Moment) -> Moment:
            run.moments.append(moment)
            copies.append(copy.deepcopy(moment))
            return moment

        moment = add(self.reset(envs, seed=seed))
        ended = np.zeros(envs.num_envs, bool)
        for number in range(steps):
            if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and moment.over.any():
                moment = add(self.reset(envs, options={"reset_mask": moment.over}))
            if disturb is not None and number == disturb[0]:
                run.disturbed = len(run.moments)
                moment = add(self.reset(envs, **disturb[1]))
            actions = self.act(envs, moment.observation) if replay is None else replay[number]
            run.actions.append(copy.deepcopy(actions))
            moment = add(self.step(envs, actions))
            change = difference(actions, run.actions[-1])
            what = f"actions given to step(){change}"
            self.require(not change, what, "changed by the call", "the caller's, untouched")
            ended |= moment.over
            if until is not None and until(ended):
                break
        for number, (moment, before) in enumerate(zip(run.moments, copies, strict=True)):
            change = difference(moment, before)
            cure = "Return fresh arrays from every call."
            self.require(not change, f"what call {number} returned{change}", "a later change", "what it was", cure)
        return run

    def compare(self, ours: list[Any], theirs: list[Any], what: str, cure: str = "") -> None:
        """Require equality, bit for bit, of nested values in order."""
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
            change = difference(mine, other)
            self.require(not change, f"{what}, call {number}{change}", "a difference", "the same bits", cure)

    def _inspect(self, envs: VectorEnv, moment: Moment, where: str) -> None:
        space, count = envs.observation_space, envs.num_envs
        for path, got, wanted in _dtypes(space, moment.observation, f"{where} observation"):
            self.require(got == wanted, path, got, wanted, "Return observations of the declared space.")
        inside = space.contains(moment.observation)
        self.require(inside, f"{where} observation", "something outside of its space", space)
        if moment.rewards is not None:
            for name, kind in {"rewards": np.floating, "terminated": np.bool_, "truncated": np.bool_}.items():
                array = getattr(moment, name)
                fits = isinstance(array, np.ndarray) and array.shape == (count,) and np.issubdtype(array.dtype, kind)
                self.require(fits, f"{where} {name}", _describe(array), f"NumPy {kind.__name__} of shape ({count},)")
        self._inspect_infos(moment.infos, count, f"{where} infos", masked=False)

    def _inspect_infos(self, infos: Any, count: int, where: str, masked: bool) -> None:
        self.require(isinstance(infos, dict), where, _describe(infos), "a dict")
        for key, value in infos.items():
            path = f"{where}[{key!r}]"
            if key.startswith("_") and key[1:] in infos:
                fits = isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == (count,)
                self.require(fits, path, _describe(value), f"a bool mask of shape ({count},)")
                continue
            mask = infos.get(f"_{key}")
            self.require(mask is not None or masked, path, "no mask", f"a bool array under '_{key}'")
            if isinstance(value, dict):
                self._inspect_infos(value, count, path, masked=True)
                continue
            fits = isinstance(value, np.ndarray) and value.shape[:1] == (count,)
            self.require(fits, path, _describe(value), f"a NumPy array of {count} rows, one per environment")
            for entry in value[mask] if mask is not None and value.dtype == object else ():
                self.require(isinstance(entry, _PLAIN), path, _describe(entry), "plain values where the mask is True")


def join_actions(envs: VectorEnv, actions: list[Any]) -> Any:
    """Batch single actions."""
    space = envs.single_action_space
    return concatenate(space, actions, create_empty_array(space, len(actions)))  # type: ignore[arg-type]


def timelines(envs: VectorEnv, run: Run) -> list[list[dict[str, Any]]]:
    """Per environment, its rows of the calls it took part in."""
    lines: list[list[dict[str, Any]]] = [[] for _ in range(envs.num_envs)]
    for moment in run.moments:
        observations = list(iterate(envs.observation_space, moment.observation))
        for i in np.flatnonzero(moment.mask):
            infos = info_of(moment.infos, int(i), plain=False)
            row = {"observation": observations[i], "over": bool(moment.over[i]), "infos": infos}
            if moment.rewards is not None:
                row |= {key: getattr(moment, key)[i] for key in ("rewards", "terminated", "truncated")}
            lines[i].append(row)
    return lines


def arrays_of(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of numbers within a nested value, with their places."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield path, value
    for key, part in (_parts(value) or {}).items():
        if key != " mask":
            yield from arrays_of(part, path + key)


def difference(ours: Any, theirs: Any, path: str = "") -> str:
    """Where two nested values first differ, bit for bit; empty where they do not."""
    mine, other = _parts(ours), _parts(theirs)
    if mine is not None and other is not None:
        if mine.keys() != other.keys():
            return f"{path} (keys {sorted(mine.keys() ^ other.keys())})"
        return next((found for key in mine if (found := difference(mine[key], other[key], path + key))), "")
    left, right = np.asarray(ours), np.asarray(theirs)
    if left.dtype == object or right.dtype == object:
        return "" if ours is theirs or bool(np.all(ours == theirs)) else path or " (value)"
    if left.dtype != right.dtype or left.shape != right.shape:
        return f"{path} ({left.dtype} {left.shape}, {right.dtype} {right.shape})"
    if left.tobytes() == right.tobytes():
        return ""
    return f"{path} ({np.count_nonzero(left != right)} of {left.size} values)"


def _parts(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        return {f"[{key}]": part for key, part in enumerate(value)}
    return {f" {key}": part for key, part in vars(value).items()} if isinstance(value, Moment) else None


def _dtypes(space: gymnasium.Space, value: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Data types of a nested observation, as they are and as the space wants them."""
    if isinstance(space, gymnasium.spaces.Dict) and isinstance(value, Mapping):
        for key, part in space.items():
            if key in value:
                yield from _dtypes(part, value[key], f"{path}[{key!r}]")
    elif isinstance(space, gymnasium.spaces.Tuple) and isinstance(value, tuple):
        for number, (part, item) in enumerate(zip(space, value, strict=False)):
            yield from _dtypes(part, item, f"{path}[{number}]")
    elif space.dtype is not None and space.shape is not None:
        yield path, getattr(value, "dtype", type(value)), space.dtype


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r:.60}"
