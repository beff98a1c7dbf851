"""Figures of a judgement in plain words: what they say, and what they cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rise_agents.evaluation.recorded import ChunkErrors
from rise_env.metrics.agreement import Mean

__all__ = [
    "Statement",
    "interval",
    "judge_policy",
    "judge_recorded",
    "judge_world_model",
    "mean_of",
    "signed",
    "summarise_verdict",
]

_MINUS = "\u2212"
#: Change of the return that matters.
_LEAST_GAIN = 0.005
#: Held-out episodes below which an interval is wide because they are few.
_FEW = 5
#: Part of the distance from recorded chunks from which a change of it matters.
_LEAST_MOVE = 0.05
#: Answer, and whether it is good news, by whether something is above zero, cannot be told from it, or is below.
_ANSWERS: dict[int, tuple[str, bool | None]] = {1: ("yes", True), 0: ("cannot be told", None), -1: ("no", False)}


@dataclass(frozen=True)
class Statement:
    """A question and its answer.

    Attributes:
        question: What a user wants to know.
        answer: In a word or two: "yes", "no", "cannot be told", ...
        good: Whether that is good news; None where it is neither, or unknown.
        text: Why, with numbers.
    """

    question: str
    answer: str
    good: bool | None
    text: str


def signed(value: float, digits: int = 3) -> str:
    """With its sign.

    Example:
        >>> signed(0.25), signed(-0.0001)
        ('+0.250', '0.000')
    """
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", _MINUS)


def interval(mean: Mean, digits: int = 3) -> str:
    """A mean with its interval, in words; with more digits where `digits` would leave less than two that say something.

    Example:
        >>> interval(Mean(0.25, 0.125, 0.375, 9)), interval(Mean(0.0004, 0.0002, 0.0006, 9))[:8]
        ('+0.250 (95 % interval +0.125 to +0.375, 9 episodes)', '+0.00040')
    """
    size = max(abs(mean.mean), 0.0 if mean.groups < 2 else (mean.high - mean.low) / 2)
    digits = min(max(digits, 1 - math.floor(math.log10(size))), 9) if size > 0 else digits
    if mean.groups < 2:
        return f"{signed(mean.mean, digits)} (of one episode: no interval)"
    return (
        f"{signed(mean.mean, digits)} (95 % interval {signed(mean.low, digits)} to {signed(mean.high, digits)}, "
        f"{mean.groups} episodes)"
    )


def judge_policy(change: Mean, before: float, after: float, states: int, seconds: float) -> Statement:
    """Whether a policy got better in imagination.

    Args:
        change: Of the return, state by state.
        before: Mean return before.
        after: Mean return after.
        states: Number of states.
        seconds: How far is imagined from each.
    """
    question = "Did the policy get better in imagination?"
    answer, good = _ANSWERS[change.direction]
    text = (
        f"From the same {states} recorded states, under the same noise, the imagined return (advantages of chunks of "
        f"{seconds:.1f} s, summed) is {signed(before)} before and {signed(after)} after: {interval(change)}."
    )
    if abs(change.mean) < _LEAST_GAIN:
        text += (
            f" Less than {_LEAST_GAIN:g} is nothing where values run from 0 to 1: more chunks to improve with may help."
        )
        return Statement(question, "hardly changed", None, text)
    if change.direction < 0:
        text += " It got worse."
    elif change.direction == 0:
        text += " The interval holds zero: more chunks to improve with, or more states (--judge), may tell."
    return Statement(question, answer, good, text)


def judge_world_model(figures: Mapping[str, Any] | None, starts: Mapping[str, Any] | None) -> list[Statement]:
    """Whether imagination can be believed.

    Args:
        figures: `HeldOut.figures`; None without held-out recordings.
        starts: `evaluate_on_starts`, which is all there is then.
    """
    value = "Does the value rank held-out recordings?"
    shows, reacts = "Does imagination show what happens?", "Does imagination follow the actions?"
    if figures is None:
        return [
            Statement(value, "unknown", None, _starts_ranking(starts)),
            Statement(shows, "unknown", None, "What followed the start states is not in the bundle: give --data."),
            _starts_reaction(reacts, starts),
        ]
    found = [_ranking(value, figures["value"])]
    dynamics = figures["dynamics"]
    if dynamics is None:
        why = figures["not_measured"]["dynamics"]
        return [*found, Statement(shows, "unknown", None, f"Not measured: {why}.")]
    quality, flow = dynamics["psnr"], dynamics["flow_error"]
    gain = mean_of(quality["gain"])
    text = (
        f"At the end of a chunk its pictures are {quality['imagined']:.1f} dB near to the real ones, a copy of the "
        f"last picture {quality['copy']:.1f} dB: {interval(gain, 1)} dB, {dynamics['windows']} chunks."
    )
    if flow.get("imagined") is not None:
        text += f" What moves is misplaced by {flow['imagined']:.2f} pixels, in a copy by {flow['copy']:.2f}."
    found.append(Statement(shows, *_ANSWERS[gain.direction], text + _few(gain)))
    if "dynamics.other_actions" in figures["not_measured"]:
        return [*found, Statement(reacts, "unknown", None, figures["not_measured"]["dynamics.other_actions"])]
    reaction = dynamics["reaction"]
    text = (
        f"With another moment's actions its pictures are {quality['other_actions']:.1f} dB near to the real ones, with "
        f"the right ones {quality['imagined']:.1f} dB: {interval(mean_of(reaction), 1)} dB."
    )
    if reaction["ignored"]:
        text += " It hardly matters what the policy does: nothing can be learned there."
        return [*found, Statement(reacts, *_ANSWERS[-1], text)]
    told = mean_of(reaction)
    return [*found, Statement(reacts, *_ANSWERS[max(0, told.direction)], text + _few(told))]


def judge_recorded(errors: Sequence[ChunkErrors] | None, source: str) -> Statement:
    """Whether the policy after is still near to what was recorded.

    Args:
        errors: By group of joints; None where there is nothing to compare with.
        source: What was compared with, in words.
    """
    question = "Is the policy as near to recorded successes as before?"
    if errors is None:
        return Statement(question, "unknown", None, source)
    words = {-1: "nearer than before", 0: "as near as before", 1: "farther than before", None: "not told from before"}
    parts = [
        f"{one.group} {words[_moved(one)]} ({one.before:.3g}, now {one.after:.3g}{_unit(one)}; "
        f"holding still {one.hold:.3g})"
        for one in errors
    ]
    moves = [_moved(one) for one in errors]
    # One that may have fallen behind a robot that holds still is warned of, certain or not.
    lost = [one.group for one, move in zip(errors, moves, strict=True)
            if one.after > one.hold and (move == 1 or (move is None and one.before <= one.hold))]  # fmt: skip
    text = f"Mean distance of proposed from recorded chunks at {source}: {'; '.join(parts)}."
    if far := [one.group for one in errors if one.before > one.hold]:
        text += f" In {', '.join(far)} the policy before was farther than a robot that holds still, too."
    if lost:
        text += (
            f" In {', '.join(lost)} it is farther from what succeeded than a robot that holds still: look at the films "
            "before anything moves."
        )
    if lost:
        return Statement(question, "no", False, text)
    if 1 in moves:
        return Statement(question, "farther than before", None, text)
    return Statement(question, *_ANSWERS[0 if None in moves else 1], text)


def summarise_verdict(policy: Statement, world: Sequence[Statement], unseen: bool = True) -> str:
    """The first thing that is read.

    Args:
        policy: Of `judge_policy`.
        world: Of `judge_world_model`.
        unseen: Whether nothing says that the world model was trained on what it was measured on.
    """
    where = f"on recordings that it {'has not seen' if unseen else 'may have been trained on'}"
    better = {True: "In imagination the policy got better", False: "In imagination the policy got worse",
              None: "In imagination no change of the policy can be told"}[policy.good]  # fmt: skip
    if policy.answer == "hardly changed":
        better = "In imagination the policy hardly changed"
    if doubts := [one.question for one in world if one.good is False]:
        names = {
            "value": "the value does not rank",
            "show": "it shows no more than a copy",
            "follow": "it ignores actions",
        }
        why = [text for key, text in names.items() if any(key in question for question in doubts)]
        belief = f"but this imagination is not to be believed: {where} {', '.join(why)}"
    elif all(one.good for one in world):
        belief = f"and {where} this imagination holds"
    else:
        belief = "and whether this imagination is to be believed is not known in full"
    return f"{better}, {belief}. Nothing was executed: what the policy is worth shows where it acts."


def _ranking(question: str, value: Mapping[str, Any]) -> Statement:
    correlation, separation = value["correlation"], value["separation"]
    text = (
        "It does not vary." if correlation is None
        else f"Within episodes its rank correlation with time is {signed(correlation, 2)} (1 is right, 0 chance; at "
        f"least {value['least_correlation']:+.2f} is needed), {value['episodes']} episodes."
    )  # fmt: skip
    if separation is not None:
        text += f" A success ends with a higher value than a failure in {separation:.0%} of the pairs (50 % is chance)."
    if (calibration := value["calibration"]) is not None:
        text += f" Frame by frame it is {calibration['error']:.2f} off {calibration['against']}."
    good = value["problem"] is None
    return Statement(question, ("no", "yes")[good], good, text)


def _starts_ranking(starts: Mapping[str, Any] | None) -> str:
    if starts is None or starts["correlation"] is None:
        return "There are no recordings: give --data."
    return (
        "The bundle holds single states and no recordings (give --data), and does not say how its value did on "
        f"held-out ones. Over {starts['states']} start states, some of which it was trained on, the rank correlation "
        f"of value and time since the start of the episode is {signed(starts['correlation'], 2)}."
    )


def _starts_reaction(question: str, starts: Mapping[str, Any] | None) -> Statement:
    reaction = starts["reaction"] if starts else None
    if reaction is None:
        return Statement(question, "unknown", None, "No recorded chunks to exchange: give --data.")
    good = reaction["other_actions"] > 2 * reaction["other_noise"]
    text = (
        f"At {starts['states'] if starts else 0} start states the actions of another state change the end of the "
        f"chunk by {reaction['other_actions']:.1f} grey levels, other noise by {reaction['other_noise']:.1f}. Whether "
        "they change it as they should is not measured: give --data."
    )
    return Statement(question, ("no", "yes")[good], good, text)


def _few(mean: Mean) -> str:
    """Why nothing can be told, where episodes are few."""
    if mean.direction or mean.groups >= _FEW:
        return ""
    return f" {mean.groups} held-out episodes are few: windows of one episode are alike. More recordings would tell."


def mean_of(found: Mapping[str, Any]) -> Mean:
    """A mean as JSON keeps it."""
    mean, low, high = (float("nan") if found[name] is None else found[name] for name in ("mean", "low", "high"))
    return Mean(mean, low, high, found["groups"])


def _moved(one: ChunkErrors) -> int | None:
    """Direction of a change that matters: what is certain and tiny is none; None where it cannot be told."""
    least = _LEAST_MOVE * one.before
    if one.change.direction:
        return one.change.direction if abs(one.change.mean) > least else 0
    return 0 if one.change.high <= least else None


def _unit(one: ChunkErrors) -> str:
    return f" {one.unit}" if one.unit else ""
