"""The seven headings of the truth report: questions, verdicts, figures with intervals; JSON-ready.

They are those of the evaluation ladder for world models of arXiv 2606.15032. Each rung needs those below it: an
imagination that ignores actions ranks no policies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rise_env.metrics.agreement import Mean, mean_over_groups

__all__ = [
    "RUNGS",
    "Figure",
    "Heading",
    "Rung",
    "bounded",
    "chart",
    "graded",
    "intervals",
    "mean_of_known",
    "needs",
    "ranged",
    "said",
]

_MINUS = "\u2212"


@dataclass(frozen=True)
class Rung:
    """What a heading asks, whatever is found.

    Attributes:
        title: Its name on the ladder.
        question: In plain words.
        reading: How to read what stands there.
        cannot_say: What it leaves open.
        needs: Why recordings alone do not answer it; empty where they do.
    """

    title: str
    question: str
    reading: str
    cannot_say: str
    needs: str = ""


RUNGS: Mapping[str, Rung] = {
    "counterfactual_action_fidelity": Rung(
        "Counterfactual action fidelity",
        "If the robot did something else from here, does imagination show what would then happen?",
        "Other actions start from the same state. If imagination ignored the actions, the pictures imagined "
        "for "
        "one chunk would be as near to what truly came of another: a reaction of 0 dB, and a recognition at chance. A "
        "copy "
        "of the last picture is what an imagination has to beat. Cameras are listed one by one because a wrist camera "
        "moves with the arm, so that nearly every pixel of it has to be made anew.",
        "Whether contact is right: a gripper that closes beside the brick is a few pixels, which hardly move any of "
        "these numbers. Look at the films.",
    ),
    "closed_loop_validity": Rung(
        "Closed-loop validity",
        "Does imagination stay true when it goes on from what it has itself imagined?",
        "Chunk after chunk is imagined from imagined pictures, so errors add up. The very same actions are then "
        "carried out "
        "for real. As long as the imagined line is above the copy of the first picture, imagination still knows more "
        "than that nothing happens.",
        "What comes after the last chunk shown. Errors of a policy that goes where no recording went may add up "
        "faster.",
    ),
    "reward_and_value_prediction": Rung(
        "Reward and value prediction",
        "Does imagination know which of several chunks is better?",
        "The advantage of a chunk is what an algorithm learns from: mean value over the chunk less the value before "
        "it. 1 is "
        "the right order, 0 chance. The order within a state is what improvement depends on; the overall one is "
        "easier, as it also "
        "counts that some states are easier than others. The value on true pictures shows what the value model alone "
        "loses.",
        "Whether the order holds among chunks that differ by a hair, as the proposals of one policy do: see "
        "exploitability.",
    ),
    "policy_ranking": Rung(
        "Policy ranking",
        "Of several policies, does imagination say which one is better?",
        "Every policy acts from the same states, once in the cell and once in imagination, under the same noise. What "
        "counts is "
        "the order, not the distance of the two dots of a policy. The interval is over states: it says what other "
        "states might have shown for these policies, not what other policies might.",
        "Whether two policies that are nearly as good are told apart. An order of policies that differ a lot, such as "
        "an expert and random actions, is the easy part; the figure among trained policies is the hard one.",
        "nobody carried these policies out: recordings show what one policy did, not what others would have done",
    ),
    "optimisation_lift": Rung(
        "Optimisation lift",
        "If a policy gets better in imagination, does it get better in truth?",
        "Both lifts are printed side by side, from the same states. Choosing the best of a few proposals is the "
        "smallest "
        "optimiser there is and trains nothing; improved policies are those that were named. The truly best proposal "
        "is what a perfect imagination would choose: it bounds what choosing can bring.",
        "What an optimiser would reach with more proposals, more time or another algorithm.",
        "what an improved policy truly gains shows only where it acts",
    ),
    "exploitability": Rung(
        "Exploitability",
        "How much of what is gained in imagination is real?",
        "Whoever optimises a score also finds its errors. The share is the true gain divided by the imagined one: 1 is "
        "honest, 0 "
        "means that all of it was flattery. Where the imagined line goes on rising with the number of proposals and "
        "the true line does not, the optimiser has begun to feed on errors.",
        "How an optimiser that goes on for longer would be deceived: errors are found by whoever looks for them "
        "longest.",
        "the true gain is missing",
    ),
    "uncertainty_calibration": Rung(
        "Uncertainty calibration",
        "Does imagination know when it is wrong?",
        "The uncertainty is the disagreement of the value ensemble. It is useful if large errors come with large "
        "uncertainty: the "
        "reliability line rises, and the error falls when the least certain chunks are left out. An AUROC of 0.5 is "
        "chance, 1 would find every large error first.",
        "Whether it also warns of what no training data resembled, such as another gripper or another light.",
    ),
}


@dataclass(frozen=True)
class Figure:
    """A number with its interval.

    Attributes:
        name: What it is.
        mean: The number, and its 95 % interval; None where it cannot be measured.
        note: What it means, or why it is missing.
        unit: Its unit.
        digits: Digits after the point.
        of: What its groups are.
    """

    name: str
    mean: Mean | None
    note: str
    unit: str = ""
    digits: int = 2
    of: str = "states"

    def plain(self) -> dict[str, Any]:
        """For JSON; limits that do not exist, and what is not measured, are null."""
        value, low, high, groups = (None, None, None, 0) if self.mean is None else self.mean
        limits = [None if one is None or not math.isfinite(one) else float(one) for one in (value, low, high)]
        return {
            "name": self.name,
            **dict(zip(("value", "low", "high"), limits, strict=True)),
            "groups": groups,
            "of": self.of,
            "unit": self.unit,
            "digits": self.digits,
            "note": self.note,
        }


@dataclass(frozen=True)
class Heading:
    """What was found under a heading.

    Attributes:
        key: One of `RUNGS`.
        answer: In a word or two.
        good: Whether that is good news; None where it is neither, or unknown.
        verdict: A sentence with the numbers that decide.
        figures: All numbers.
        charts: Of `chart` and `intervals`.
        notes: Further sentences.
    """

    key: str
    answer: str
    good: bool | None
    verdict: str
    figures: Sequence[Figure] = ()
    charts: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = field(default=())

    def plain(self) -> dict[str, Any]:
        """For JSON: all that the page shows."""
        rung = RUNGS[self.key]
        return {
            "key": self.key,
            "title": rung.title,
            "question": rung.question,
            "answer": self.answer,
            "good": self.good,
            "verdict": self.verdict,
            "figures": [one.plain() for one in self.figures],
            "charts": list(self.charts),
            "notes": list(self.notes),
            "reading": rung.reading,
            "cannot_say": rung.cannot_say,
        }


def needs(what: str, key: str, why: str = "") -> Heading:
    """A heading that nothing at hand answers: `what` is missing, "cell" or "trained policy"."""
    return Heading(key, f"needs a {what}", None, f"Not measured: {why or RUNGS[key].needs}.")


def chart(
    title: str, x_label: str, y_label: str, lines: Mapping[str, Sequence[tuple[float, float]]], reading: str = ""
) -> dict[str, Any]:
    """Lines over an axis; points that are not finite are left out."""
    kept = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in lines.items()
    }
    return {
        "kind": "lines",
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "reading": reading,
        "lines": {name: points for name, points in kept.items() if points},
    }


def intervals(title: str, label: str, rows: Mapping[str, Mapping[str, Mean]], reading: str = "") -> dict[str, Any]:
    """Numbers with intervals, row by row."""
    plain = {
        name: {
            series: [one.mean, *(limit if math.isfinite(limit) else one.mean for limit in (one.low, one.high))]
            for series, one in values.items()
        }
        for name, values in rows.items()
    }
    return {"kind": "intervals", "title": title, "label": label, "rows": plain, "reading": reading}


def bounded(found: Mean) -> Mean:
    """The mean of correlations, which lie from -1 to 1 as its limits do."""
    return found._replace(low=max(found.low, -1.0), high=min(found.high, 1.0))


def mean_of_known(values: np.ndarray, group: np.ndarray) -> Mean | None:
    """`mean_over_groups` of what is finite; None if nothing is."""
    known = np.isfinite(values)
    return mean_over_groups(values[known], group[known]) if known.any() else None


def graded(found: Mean | None, good: float, bad: float) -> tuple[str, bool | None]:
    """Answer, and whether it is good news: yes where the interval is above `good`, no where it is below `bad`."""
    if found is None or not math.isfinite(found.mean):
        return "not measured", None
    if not math.isfinite(found.low):
        return "cannot be told", None
    if found.low >= good:
        return "yes", True
    if found.high <= bad:
        return "no", False
    return ("in part", None) if found.low > bad else ("cannot be told", None)


def said(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number as people write it.

    Example:
        >>> said(-0.5, 1), said(0.25, sign=True)
        ('\u22120.5', '+0.25')
    """
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", _MINUS)


def ranged(found: Mean | None, digits: int = 2, sign: bool = False, unit: str = "") -> str:
    """A number with its interval, in words."""
    if found is None or not math.isfinite(found.mean):
        return "not measured"
    text = f"{said(found.mean, digits, sign)}{f' {unit}' if unit else ''}"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{text} (no interval)"
    return f"{text} ({said(found.low, digits, sign)} to {said(found.high, digits, sign)})"
