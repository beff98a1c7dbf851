"""Findings about commands against what was measured: order, units, lag, commands that are none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rise_env.data.check.finding import Finding, listed
from rise_env.data.check.joints import named, possible, spans
from rise_env.data.check.reading import Motion
from rise_env.data.lag import lag_behind

__all__ = ["Lag", "command_findings", "measure_lag"]

#: Correlation of velocities from which on a lag is one.
_CLEAR = 0.3
_LONGEST = 1.0  # s
#: What a chunk lasts where there is no task, s: as `rise init-task` would choose, were the joints quick.
_CHUNK = 1.2
#: A dimension that deviates less than this stands still.
_STILL = 1e-5
#: Correlation of command and motion below which they run against each other: lags of such joints mean nothing.
_TURNED = -0.3


@dataclass(frozen=True)
class Lag:
    """Measured velocity behind commanded, and the other way round: frames and correlation there, each (D,)."""

    behind: np.ndarray
    likeness: np.ndarray
    ahead: np.ndarray
    likeness_ahead: np.ndarray

    def seconds(self, fps: float) -> np.ndarray:
        """Lag of every joint, s; NaN where it shows none."""
        return np.where(self.likeness >= _CLEAR, self.behind / fps, np.nan)


def measure_lag(motion: Motion) -> Lag:
    """Lag of all joints; state and action have the same."""
    action, state = possible(motion.action), possible(motion.state)
    lengths, longest = motion.lengths.tolist(), max(2, round(_LONGEST * motion.fps))
    return Lag(*lag_behind(action, state, lengths, longest), *lag_behind(state, action, lengths, longest))


@np.errstate(invalid="ignore", over="ignore")  # infinite values are findings
def command_findings(motion: Motion, lag: Lag, chunk_seconds: float | None = None) -> list[Finding]:
    """Everything about commands; state and action have the same joints. `chunk_seconds` is what a chunk lasts, None if
    there is no task yet.
    """
    likeness = _likeness(motion)
    own = np.diag(likeness)
    copied = list(_copied(motion))
    late = [] if copied else [*_late(motion, lag, own), *_slow(motion, lag, own, chunk_seconds)]
    lost = [] if copied else _unrelated(motion, lag, own)
    return [*_order(motion, likeness), *_scales(motion, own), *copied, *late, *lost, *_held(motion)]


def _copied(motion: Motion) -> Iterator[Finding]:
    """Actions that are states of the same frame, or of one soon after: a robot guided by hand, or made up later."""
    span = spans(motion.state)
    moving = span > 1e-4
    if not moving.any():
        return
    for shift in range(4):
        far, count = np.zeros(len(span)), 0
        for rows in motion.rows():
            state, action = motion.state[rows][shift:], motion.action[rows][: max(0, rows.stop - rows.start - shift)]
            far, count = far + (np.abs(action - state) > 1e-5 * span + 1e-7).sum(0), count + len(state)
        same = moving & (far <= 0.02 * count)
        if count and same.sum() >= 0.8 * moving.sum():
            where = "of the same frame" if shift == 0 else f"{shift} frame{'s' if shift > 1 else ''} later"
            yield Finding(
                "actions_are_states",
                f"actions of {int(same.sum())} of {int(moving.sum())} moving joints are the recorded states {where}",
                "warning" if shift == 0 else "note",
            )
            return


def _late(motion: Motion, lag: Lag, own: np.ndarray) -> Iterator[Finding]:
    late = (
        (own > _TURNED) & (lag.ahead >= 0.7) & (lag.likeness_ahead > 0.5) & (lag.likeness_ahead > lag.likeness + 0.05)
    )
    if late.any():
        worst = int(np.argmax(np.where(late, lag.ahead, 0)))
        yield Finding(
            "action_late",
            f"actions of {listed(named(motion.state_names, late))} follow what was measured: "
            f"{motion.state_names[worst]} by {lag.ahead[worst]:.1f} frames",
            "error" if lag.ahead[worst] >= 1.5 else "warning",
            named(motion.state_names, late),
        )


def _slow(motion: Motion, lag: Lag, own: np.ndarray, chunk_seconds: float | None) -> Iterator[Finding]:
    seconds = np.nan_to_num(lag.seconds(motion.fps))
    lasts = chunk_seconds or _CHUNK
    slow = (own > _TURNED) & (seconds > lasts / 3)
    if slow.any():
        worst = int(np.where(slow, seconds, 0).argmax())
        yield Finding(
            "lag_long",
            f"{listed(named(motion.state_names, slow))} follow their commands by more than a third "
            f"of a chunk of {lasts:.2f} s ({motion.state_names[worst]}: {seconds[worst]:.2f} s)",
            "warning" if chunk_seconds else "note",
            named(motion.state_names, slow),
        )


def _unrelated(motion: Motion, lag: Lag, own: np.ndarray) -> Iterator[Finding]:
    moving = (_travel(motion, motion.state) > 1e-2) & (_travel(motion, motion.action) > 1e-2)
    lost = moving & (np.abs(own) < 0.3) & (np.maximum(lag.likeness, lag.likeness_ahead) < _CLEAR)
    if lost.any():
        yield Finding(
            "does_not_follow",
            f"measured motion of {listed(named(motion.state_names, lost))} has nothing to do with the commands",
            subjects=named(motion.state_names, lost),
        )


def _travel(motion: Motion, values: np.ndarray) -> np.ndarray:
    """How far every dimension gets within an episode, in half of them at least, (D,)."""
    return np.median([np.ptp(possible(values[rows]), axis=0) for rows in motion.rows()], axis=0)


def _held(motion: Motion) -> Iterator[Finding]:
    """Values that are repeated while the other side moves on: sampled more slowly than the dataset says."""
    pairs = {"state": (motion.state, motion.action, 0.2), "action": (motion.action, motion.state, 0.5)}
    for what, (held, other, most) in pairs.items():
        span = np.maximum(spans(other), 1e-9)
        same = moving = 0
        for rows in motion.rows():
            goes_on = (np.abs(np.diff(other[rows], axis=0)) > 2e-3 * span).any(1)
            moving += int(goes_on.sum())
            same += int((goes_on & (np.diff(held[rows], axis=0) == 0).all(1)).sum())
        if moving >= 20 and same > most * moving:
            rate = motion.fps * (1 - same / moving)
            yield Finding(
                "held_values",
                f"{what}: {same / moving:.0%} of the values are those of the frame before while "
                f"the other side moves: new ones come about {rate:.3g} times a second, not {motion.fps:g}",
                subjects=(what,),
            )


def _order(motion: Motion, likeness: np.ndarray) -> Iterator[Finding]:
    """Joints whose commands look like another joint's motion, or like their own turned round."""
    own = np.diag(likeness)
    best = np.abs(likeness).argmax(1)
    strongest = likeness[np.arange(len(own)), best]
    names = motion.state_names
    turned = own < -0.8
    if turned.any():
        yield Finding(
            "sign",
            f"commands and measured motion of {listed(named(names, turned))} run against each other "
            f"(correlation {own[turned].min():.2f})",
            subjects=named(names, turned),
        )
    swapped = (np.abs(own) < 0.5) & (strongest > 0.9)
    if swapped.any():
        pairs = [f"{names[i]} moves {names[best[i]]}" for i in np.flatnonzero(swapped)]
        yield Finding("joint_order", f"by what they do, the command of {listed(pairs)}", subjects=named(names, swapped))


def _likeness(motion: Motion) -> np.ndarray:
    """Correlation of action i with state j within episodes, (D, D); 0 where one of them stands."""
    dim = motion.state.shape[1]
    products, ours, theirs = np.zeros((dim, dim)), np.zeros(dim), np.zeros(dim)
    both = possible(motion.action), possible(motion.state)
    for rows in motion.rows():
        action, state = (x[rows].astype(np.float64) for x in both)
        action, state = action - action.mean(0), state - state.mean(0)
        products += action.T @ state
        ours, theirs = ours + (action**2).sum(0), theirs + (state**2).sum(0)
    count = max(1, len(motion.state))
    moving = np.minimum(ours, theirs) / count > _STILL**2
    scale = np.sqrt(np.outer(ours, theirs))
    good = np.outer(moving, moving) & (scale > 0)
    return np.divide(products, scale, out=np.zeros_like(products), where=good)


def _scales(motion: Motion, own: np.ndarray) -> Iterator[Finding]:
    """State and action in different units, or actions that are no targets but changes."""
    state, action = spans(motion.state), spans(motion.action)
    names = motion.state_names
    moving = (state > 1e-3) & (action > 1e-6)
    if not moving.any():
        return
    ratio = np.divide(action, state, out=np.ones_like(state), where=moving)
    steps = _step_likeness(motion)
    # Changes follow the speed of the state, and hardly its value.
    changes = moving & (steps > 0.5) & (steps > np.abs(own) + 0.2) & (ratio < 0.5)
    if changes.sum() >= 0.5 * moving.sum():
        yield Finding(
            "actions_relative",
            f"actions of {listed(named(names, changes))} look like changes of the state "
            "from frame to frame, not like targets",
            subjects=named(names, changes),
        )
        return
    # A joint that is held still wobbles: what is commanded and what is measured are alike only where both move.
    other = moving & ((ratio > 8) | (ratio < 1 / 8)) & (np.abs(own) > 0.8)
    if other.any():
        worst = int(np.argmax(np.where(other, np.abs(np.log(ratio)), 0)))
        sizes = {
            "degrees against rad": 180 / math.pi,
            "mm against m": 1000.0,
            "0.001 degrees against rad": 180_000 / math.pi,
        }
        fits = [n for n, size in sizes.items() if 0.7 < max(ratio[worst], 1 / ratio[worst]) / size < 1.4]
        hint = f" ({fits[0]} would fit)" if fits else ""
        yield Finding(
            "units_differ",
            f"{listed(named(names, other))}: actions of {names[worst]} range over "
            f"{action[worst]:.3g}, its state over {state[worst]:.3g}{hint}",
            subjects=named(names, other),
        )


def _step_likeness(motion: Motion) -> np.ndarray:
    """Correlation of the action with the state's next change, (D,)."""
    dim = motion.state.shape[1]
    products, ours, theirs = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    actions, states = possible(motion.action), possible(motion.state)
    for rows in motion.rows():
        if rows.stop - rows.start < 3:
            continue
        change = np.diff(states[rows].astype(np.float64), axis=0)
        action = actions[rows][:-1].astype(np.float64)
        change, action = change - change.mean(0), action - action.mean(0)
        products, ours, theirs = (
            products + (change * action).sum(0),
            ours + (action**2).sum(0),
            theirs + (change**2).sum(0),
        )
    scale = np.sqrt(ours * theirs)
    return np.divide(products, scale, out=np.zeros(dim), where=scale > 1e-12)
