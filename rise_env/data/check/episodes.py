"""Findings about episodes: time stamps, lengths, duplicates, standing still, instructions, outcomes, coverage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rise_env.data.check.finding import Finding, listed
from rise_env.data.check.joints import spans
from rise_env.data.check.reading import Motion

__all__ = [
    "coverage_findings",
    "duplicates",
    "episode_findings",
    "length_findings",
    "outcome_findings",
    "text_findings",
]

#: Episodes and failures below which a value model has ranked held-out data badly (lab notebook).
_FEW, _FEW_FAILURES = 20, 5
#: Part of the smaller of two episodes that the other repeats, frame by frame.
_SAME = 0.5


@np.errstate(invalid="ignore", over="ignore")  # infinite values are findings
def episode_findings(motion: Motion) -> list[Finding]:
    """Everything about time stamps, duplicates and standing still."""
    return [*_times(motion), *_duplicates(motion), *_idle(motion)]


def length_findings(
    lengths: np.ndarray, numbers: np.ndarray, needed: int, fps: float, total: int | None = None
) -> list[Finding]:
    """Number of episodes, and lengths that are too short or unlike the others.

    Args:
        lengths: Frames of every episode, int (E,).
        numbers: Their numbers, int (E,).
        needed: Frames that a training window takes: a chunk and the frame before it.
        fps: Frames per second.
        total: Episodes of the dataset, if these are a part of it.
    """
    found = []
    count = total or len(lengths)
    if count < 2:
        found.append(Finding("one_episode", "there is 1 episode, and none to hold out"))
    elif count < _FEW:
        minutes = lengths.mean() * count / fps / 60
        found.append(Finding("few_episodes", f"there are {count} episodes, {minutes:.1f} minutes"))
    short = lengths < needed
    if short.any():
        text = f"{int(short.sum())} of {len(lengths)} episodes have less than {needed} frames"
        found.append(
            Finding(
                "too_short",
                f"{text}: {listed(numbers[short].tolist())}",
                "error" if short.all() else "warning",
                episodes=tuple(numbers[short].tolist()),
            )
        )
    middle = float(np.median(lengths))
    odd = ((lengths < middle / 4) | (lengths > middle * 4)) & ~short
    if len(lengths) >= 5 and odd.any():
        each = [f"{number} ({length / fps:.1f} s)" for number, length in zip(numbers[odd], lengths[odd], strict=True)]
        found.append(
            Finding(
                "odd_length",
                f"half of the episodes are longer than {middle / fps:.1f} s; episodes "
                f"{listed(each)} are not a quarter, or more than four times that",
                episodes=tuple(numbers[odd].tolist()),
            )
        )
    return found


def _times(motion: Motion) -> Iterator[Finding]:
    if motion.times is None:
        return
    steps = np.diff(motion.times) * motion.fps
    inside = np.ones(len(steps), bool)
    inside[motion.starts[1:] - 1] = False
    if not inside.any():
        return
    pace = float(np.median(steps[inside]))
    if not 0.9 < pace < 1.1:
        real = f"{motion.fps / pace:.3g}" if pace > 0 else "no"
        yield Finding("rate", f"info.json says {motion.fps:g} frames per second, time stamps {real}")
        return
    uneven = np.flatnonzero(inside & ~(np.abs(steps - 1) <= 0.5))
    if len(uneven):
        worst = int(uneven[np.argmax(np.abs(np.nan_to_num(steps[uneven])))])
        yield Finding(
            "gaps",
            f"{len(uneven)} of {int(inside.sum())} frames come earlier or later than they should by more than half "
            f"a frame; the longest gap is {steps[worst] / motion.fps:.2f} s, in episode {motion.episode_of(worst)}",
            episodes=tuple(np.unique(motion.episode_of(uneven)).tolist()),
        )


def duplicates(motion: Motion) -> list[tuple[int, int, float]]:
    """Pairs of episodes of which one repeats the other: their numbers, and the part of the shorter one."""
    # A frame's values as one number: two that differ get the same once in 2 to the power of 64.
    weights = np.random.default_rng(0).integers(
        0, 2**64, 2 * max(motion.state.shape[1], motion.action.shape[1]), np.uint64
    )
    kinds, owners = [], []
    for episode, rows in enumerate(motion.rows()):
        state = motion.state[rows]
        values = np.concatenate([state, motion.action[rows]], axis=1)
        # Frames that stand say nothing: robots wait in the same place.
        moves = np.concatenate([[True], (np.diff(state, axis=0) != 0).any(1)])
        bits = values[moves].view(np.uint32).astype(np.uint64)
        kinds.append((bits * weights[: bits.shape[1]]).sum(1))
        owners.append(np.full(len(bits), episode))
    kind, owner = np.concatenate(kinds), np.concatenate(owners)
    order = np.argsort(kind, kind="stable")
    kind, owner = kind[order], owner[order]
    counts: dict[tuple[int, int], int] = {}
    for group in np.split(owner, np.flatnonzero(np.diff(kind)) + 1):
        members = np.unique(group).tolist() if len(group) > 1 else []
        for i, a in enumerate(members[:8]):  # a frame that many share tells no two of them from the others
            for b in members[i + 1 : 8]:
                counts[a, b] = counts.get((a, b), 0) + 1
    distinct = np.bincount(owner, minlength=len(motion.lengths))
    found = []
    for (a, b), count in counts.items():
        part = count / max(1, min(distinct[a], distinct[b]))
        if part >= _SAME and count >= 3:
            found.append((int(motion.numbers[a]), int(motion.numbers[b]), float(part)))
    return found


def _duplicates(motion: Motion) -> Iterator[Finding]:
    pairs = duplicates(motion)
    if pairs:
        each = [f"{a} and {b}" + ("" if part > 0.99 else f" ({part:.0%})") for a, b, part in pairs]
        yield Finding(
            "duplicates",
            f"the same motion, number by number, in episodes {listed(each)}",
            episodes=tuple(sorted({n for a, b, _ in pairs for n in (a, b)})),
        )


def _idle(motion: Motion) -> Iterator[Finding]:
    """Long stretches in which nothing moves, at the ends of episodes."""
    span = np.maximum(spans(motion.state), 1e-9)
    noise = 5e-3 * span
    idle: dict[str, list[int]] = {"begin": [], "end": []}
    longest = 0.0
    for number, rows in zip(motion.numbers.tolist(), motion.rows(), strict=True):
        state, action = motion.state[rows], motion.action[rows]
        length = len(state)
        away = {
            "begin": (np.abs(state - state[0]) > noise).any(1),
            "end": (np.abs(state - state[-1]) > noise).any(1)[::-1],
        }
        for side, moved in away.items():
            still = int(moved.argmax()) if moved.any() else length
            commands = action[:still] if side == "begin" else action[length - still :]
            if still and np.ptp(commands, axis=0).max(initial=0) > 0.2 * span.max():
                continue  # commands move on although the robot does not
            if still > max(2 * motion.fps, 0.25 * length):
                idle[side].append(number)
                longest = max(longest, still / motion.fps)
    for side, numbers in idle.items():
        if len(numbers) > 0.05 * len(motion.numbers):
            yield Finding(
                "idle",
                f"{len(numbers)} of {len(motion.numbers)} episodes {side} with a long pause, up to "
                f"{longest:.1f} s: {listed(numbers)}",
                episodes=tuple(numbers),
            )


def text_findings(prompts: Mapping[int, str]) -> list[Finding]:
    """Instructions, by number of the episode."""
    empty = tuple(number for number, text in prompts.items() if not text.strip())
    found = []
    if empty:
        found.append(Finding("no_instruction", f"{len(empty)} of {len(prompts)} episodes have none", episodes=empty))
    texts = dict.fromkeys(text for text in prompts.values() if text.strip())
    if len(texts) > 1:
        found.append(Finding("several_tasks", f"{len(texts)}: {listed([repr(text)[:60] for text in texts], 4)}"))
    return found


def outcome_findings(
    numbers: Sequence[int],
    outcomes: Mapping[int, bool],
    unclear: Mapping[int, str],
    assumed: bool | None = None,
    part: bool = False,
) -> list[Finding]:
    """Successes, failures, and what is not recorded.

    Args:
        numbers: Numbers of all episodes.
        outcomes: Those that are recorded.
        unclear: Why others cannot be understood.
        assumed: Whether the task takes every episode for a success; None if there is no task.
        part: Whether these are not all episodes of the dataset.
    """
    if assumed:
        failed = [number for number in numbers if outcomes.get(number) is False]
        return [
            Finding(
                "outcomes_assumed",
                "the task takes every episode for a success (value.labels.outcome)"
                + (f"; the dataset says of {len(failed)} that they failed" if failed else ""),
                "warning" if failed else "note",
                episodes=tuple(failed),
            )
        ]
    if unclear:
        return [
            Finding(
                "outcomes_unclear",
                f"{len(unclear)} episodes, for example: {next(iter(unclear.values()))}",
                episodes=tuple(unclear),
            )
        ]
    missing = tuple(number for number in numbers if number not in outcomes)
    severity = "warning" if assumed is None else "error"
    if len(missing) == len(numbers):
        return [Finding("outcomes_missing", "no episode has a recorded outcome", severity)]
    if missing:
        text = f"{len(missing)} of {len(numbers)} episodes have no recorded outcome"
        return [Finding("outcomes_missing", text, severity, episodes=missing)]
    seen = " that were looked at" if part else ""
    failures = sum(not good for good in outcomes.values())
    if failures == len(outcomes):
        return [Finding("no_successes", f"all {failures} episodes{seen} failed", "warning" if part else "error")]
    if failures == 0:
        return [Finding("no_failures", f"all {len(outcomes)} episodes{seen} succeeded")]
    if min(failures, len(outcomes) - failures) < _FEW_FAILURES:
        return [Finding("few_outcomes", f"{failures} of {len(outcomes)} episodes{seen} failed")]
    return []


def coverage_findings(motion: Motion) -> list[Finding]:
    """Whether episodes begin in different places."""
    if len(motion.lengths) < 5:
        return []
    first = motion.state[motion.starts]
    span = spans(motion.state)
    moving = span > 1e-3
    spread = np.divide(np.ptp(np.nan_to_num(first), axis=0), span, out=np.zeros_like(span), where=moving)
    if moving.any() and spread[moving].max() < 0.01:
        return [
            Finding(
                "same_start",
                f"all {len(first)} episodes begin with the joints in one place, to "
                f"{spread[moving].max():.1%} of their range",
            )
        ]
    return []
