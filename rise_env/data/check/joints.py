"""Findings about joint values: what cannot be, what never moves, noise, spikes, units, limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rise_env.data.check.finding import Finding, listed
from rise_env.data.check.reading import Motion
from rise_env.data.limits import impossible
from rise_env.tasks import JointLayout

__all__ = ["joint_findings", "named", "possible", "spans"]

#: A dimension that moves less than this part of its largest value, or of 1, stands still.
_STILL = 1e-5
#: Noise above this part of a joint's range drowns small motions; clean recordings have up to 0.01.
_NOISY = 0.05
#: A jump there and back by this part of a joint's range, within three frames, is no motion.
_SPIKE = 1.0
#: No hinge turns further without a unit other than rad: three turns.
_TURNS = 6 * math.pi


def possible(values: np.ndarray) -> np.ndarray:
    """The values, (N, D), with 0 in place of those that are told as not finite or impossible."""
    wrong = impossible(values, None)
    return np.where(wrong, 0, values) if wrong.any() else values


def spans(values: np.ndarray) -> np.ndarray:
    """Range of every dimension, from its 1st to its 99th percentile, float64 (D,); NaN is left out."""
    if not len(values):
        return np.zeros(values.shape[1])
    known = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    known[:, np.isnan(known).all(0)] = 0.0
    low, high = np.nanquantile(known, [0.01, 0.99], axis=0)
    return high - low


@np.errstate(invalid="ignore", over="ignore")  # infinite values are findings
def joint_findings(motion: Motion, layout: JointLayout | None = None) -> list[Finding]:
    """Everything about state and action as they are; `layout` has units and limits, where they are known."""
    found = [*_impossible(motion, layout), *_still(motion), *_noise(motion), *_spikes(motion), *_wraps(motion)]
    return [*found, *(_units(motion) if layout is None else _limits(motion, layout))]


def _both(motion: Motion) -> Iterator[tuple[str, np.ndarray, tuple[str, ...]]]:
    yield "state", motion.state, motion.state_names
    yield "action", motion.action, motion.action_names


def named(names: Sequence[str], which: np.ndarray) -> tuple[str, ...]:
    """Those of the names that are meant, by a bool (D,)."""
    return tuple(names[i] for i in np.flatnonzero(which))


def _impossible(motion: Motion, layout: JointLayout | None) -> Iterator[Finding]:
    for what, values, names in _both(motion):
        fits = layout if layout is not None and layout.dim == values.shape[1] else None
        lacking = ~np.isfinite(values)
        for code, wrong in (("not_finite", lacking), ("impossible", impossible(values, fits) & ~lacking)):
            rows, columns = np.nonzero(wrong)
            if not len(rows):
                continue
            episodes = np.unique(motion.episode_of(rows)).tolist()
            first = int(rows[0] - motion.starts[np.searchsorted(motion.starts, rows[0], side="right") - 1])
            yield Finding(
                code,
                f"{what}: {len(rows)} values, the first in episode {motion.episode_of(rows[0])}, frame {first}: "
                f"{names[columns[0]]} is {values[rows[0], columns[0]]:g}",
                subjects=named(names, wrong.any(0)),
                episodes=tuple(episodes),
            )


def _still(motion: Motion) -> Iterator[Finding]:
    still = {what: _ranges(values) <= _STILL * np.maximum(1.0, _largest(values)) for what, values, _ in _both(motion)}
    if not motion.paired:
        for what, _, names in _both(motion):
            if still[what].any():
                yield Finding(
                    "constant_joint",
                    f"{what}: {listed(named(names, still[what]))} never change",
                    subjects=named(names, still[what]),
                )
        return
    names = motion.state_names
    cases = {
        "constant_joint": (still["state"] & still["action"], "neither state nor action of {} ever changes"),
        "dead_sensor": (still["state"] & ~still["action"], "commands of {} change, the measured state never does"),
        "dead_command": (~still["state"] & still["action"], "the measured state of {} changes, commands never do"),
    }
    for code, (which, text) in cases.items():
        if which.any():
            yield Finding(code, text.format(listed(named(names, which))), subjects=named(names, which))


def _noise(motion: Motion) -> Iterator[Finding]:
    for what, values, names in _both(motion):
        bends = [
            np.diff(values[rows].astype(np.float64), 2, axis=0) for rows in motion.rows() if rows.stop > rows.start + 2
        ]
        if not bends:
            continue
        # White noise of deviation s bends a curve by s times the root of 6; a motion bends it in few frames only.
        bend = np.nanmedian(np.abs(np.nan_to_num(np.concatenate(bends))), axis=0)
        size = 1.4826 * bend / math.sqrt(6)
        span = spans(values)
        part = np.divide(size, span, out=np.zeros_like(size), where=span > 0)
        for which in [part > _NOISY] if (part > _NOISY).any() else []:
            worst = int(part.argmax())
            yield Finding(
                "noisy_joint",
                f"{what}: {listed(named(names, which))}; noise of {names[worst]} is {size[worst]:.2g}, "
                f"its whole range {span[worst]:.2g}",
                subjects=named(names, which),
            )


def _spikes(motion: Motion) -> Iterator[Finding]:
    for what, values, names in _both(motion):
        span = spans(values)
        steps = [np.abs(np.diff(possible(values[rows]).astype(np.float64), axis=0)) for rows in motion.rows()]
        fastest = np.quantile(np.concatenate(steps), 0.995, axis=0) if sum(map(len, steps)) else np.zeros(len(span))
        # Commands may jump: of them only what leaves the usual range by half of it is taken for a mistake.
        least = np.maximum((1.5 if what == "action" else _SPIKE) * span, 10 * fastest)
        away = np.concatenate([_away(values[rows].astype(np.float64)) for rows in motion.rows()])
        # A reader that fails writes zeros.
        lost = (values == 0).all(1) & (away > 0.3 * span).any(1) & (what == "state")
        if lost.any():
            rows = np.flatnonzero(lost)
            episodes = np.unique(motion.episode_of(rows)).tolist()
            text = f"{what}: {len(rows)} frames in which all values are 0, the first in episode {episodes[0]}"
            yield Finding("spikes", text, subjects=names, episodes=tuple(episodes))
        rows, joints = np.nonzero((away > least) & (span > _STILL) & ~lost[:, None])
        if len(rows):
            which = np.isin(np.arange(values.shape[1]), joints)
            first = int(rows[0] - motion.starts[np.searchsorted(motion.starts, rows[0], side="right") - 1])
            yield Finding(
                "spikes",
                f"{what}: {len(rows)} values of {listed(named(names, which))} jump away and back, the first "
                f"{names[joints[0]]} in episode {motion.episode_of(rows[0])}, frame {first}",
                subjects=named(names, which),
                episodes=tuple(np.unique(motion.episode_of(rows)).tolist()),
            )


def _away(x: np.ndarray) -> np.ndarray:
    """How far values are from the median of three frames before to three after, float64 (n, D)."""
    if len(x) < 7:
        return np.zeros(x.shape)
    x = np.nan_to_num(x)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((3, 3), (0, 0)), mode="edge"), 7, axis=0)
    return np.asarray(np.abs(x - np.median(around, axis=-1)))


def _wraps(motion: Motion) -> Iterator[Finding]:
    """Jumps by a whole turn, in rad or in degrees: an angle that is only known up to one."""
    for what, values, names in _both(motion):
        for turn, unit in ((2 * math.pi, "rad"), (360.0, "degrees")):
            inside = np.ones(max(0, len(values) - 1), bool)
            inside[motion.starts[1:] - 1] = False
            jumps = np.abs(np.diff(values.astype(np.float64), axis=0))
            hit = inside[:, None] & (np.abs(jumps - turn) < 0.05 * turn) & (spans(values) < 1.2 * turn)
            if hit.any():
                rows, _ = np.nonzero(hit)
                yield Finding(
                    "angle_wraps",
                    f"{what}: {listed(named(names, hit.any(0)))} jump by a turn ({turn:.4g}, {unit}) "
                    f"{len(rows)} times, the first in episode {motion.episode_of(rows[0])}",
                    subjects=named(names, hit.any(0)),
                    episodes=tuple(np.unique(motion.episode_of(rows)).tolist()),
                )


def _units(motion: Motion) -> Iterator[Finding]:
    """Without a layout all joints count as rad: is that likely?"""
    names = motion.state_names
    largest = np.nan_to_num(_largest(motion.state))
    whole = np.all(motion.state == np.round(motion.state), axis=0) & (_ranges(motion.state) > 20)
    far = (largest > _TURNS) & (largest < 1e6)
    if not far.any():
        return
    most = float(largest[far].max())
    unit = (
        "steps of an encoder"
        if whole[far].any() or most > 4000
        else "degrees"
        if most <= 720
        else "mm or 0.001 degrees"
    )
    yield Finding(
        "unit_unlikely",
        f"{listed(named(names, far))} reach {most:.4g}, no angle in rad: {unit}?",
        "note" if unit == "degrees" else "warning",
        subjects=named(names, far),
    )


def _limits(motion: Motion, layout: JointLayout) -> Iterator[Finding]:
    for what, values, _ in _both(motion):
        if values.shape[1] != layout.dim:
            continue
        known = np.where(np.isfinite(values), values, layout.low)
        outside = layout.furthest_outside(known)
        if outside is None or outside.excess <= layout.tolerance:
            continue
        slack = layout.tolerance * (layout.high - layout.low)
        beyond = (known > layout.high + slack) | (known < layout.low - slack)
        rows = np.flatnonzero(beyond.any(1))
        yield Finding(
            "limits",
            f"{what}: {outside.message}, in episode {motion.episode_of(outside.row)}; {len(rows)} of "
            f"{len(known)} frames are beyond the tolerance",
            subjects=named(layout.names, beyond.any(0)),
            episodes=tuple(np.unique(motion.episode_of(rows)).tolist()),
        )


def _ranges(values: np.ndarray) -> np.ndarray:
    known = np.where(np.isfinite(values), values, np.nan)
    known[:, np.isnan(known).all(0)] = 0.0
    return np.asarray(np.nanmax(known, axis=0) - np.nanmin(known, axis=0), np.float64)


def _largest(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(np.where(np.isfinite(values), values, 0.0)).max(0), np.float64)
