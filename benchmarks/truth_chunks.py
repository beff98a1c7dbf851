"""What single chunks tell: counterfactual action fidelity, value prediction, uncertainty calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.truth_ladder import Figure, Heading, chart, graded, mean_of_known, ranged, said
from benchmarks.truth_metrics import WRONG, Imagined, advantages, within_state
from benchmarks.truth_set import TruthSet
from rise_env.metrics import area_under_roc, endpoint_error, outcome_recognition, psnr, rank_correlation
from rise_env.metrics.agreement import Mean, bootstrap, mean_over_groups

__all__ = ["Chunks", "calibration", "chunks_of", "fidelity", "value_prediction"]

#: Gain of the right actions over others, dB, below which imagination hardly reacts to them.
_LEAST_REACTION = 0.25
_BINS = 6
_REACTS = (
    "Other actions are the motion of another moment, begun where the robot is. They tell whether imagination reacts, "
    "not whether it reacts rightly: nobody carried them out. That needs a cell."
)
#: Chunks that are imagined wrongly, and rightly, below which an AUROC says nothing.
_LEAST_WRONG = 5


@dataclass(frozen=True)
class Chunks:
    """Chunks N with what truly came of them and what was imagined. Cameras V, frames of a chunk K.

    Attributes:
        cameras: Names of the cameras.
        group: (N,) state, or recorded episode: what is independent.
        of: What the groups are, in a word.
        imagined: uint8 (N, V, H, W, 3), imagined pictures at the end.
        true: uint8 of the same shape.
        last: uint8 of the same shape: the picture that the chunk starts from.
        other: float64 (N, V): PSNR of pictures imagined for other actions against these true ones, dB.
        advantage: (N,), imagined.
        seen_advantage: (N,), of the value on true pictures.
        true_advantage: (N,), of ground-truth progress; None where nobody knows it.
        uncertainty: (N,).
    """

    cameras: Sequence[str]
    group: np.ndarray
    of: str
    imagined: np.ndarray
    true: np.ndarray
    last: np.ndarray
    other: np.ndarray
    advantage: np.ndarray
    seen_advantage: np.ndarray
    true_advantage: np.ndarray | None
    uncertainty: np.ndarray


def chunks_of(truth: TruthSet, imagined: Imagined, cameras: Sequence[str]) -> Chunks:
    """The chunks of a truth set; other actions are those of the other chunks of a state."""
    states, count = truth.actions.shape[:2]
    guess, true = imagined.frames[:, :, -1], truth.frames[:, :, -1]
    others = [psnr(np.roll(guess, shift, axis=1), true) for shift in range(1, count)]  # (S, C, V) each
    last = np.broadcast_to(truth.history_frames[:, None, -1], true.shape)
    flat = [one.reshape(-1, *one.shape[2:]) for one in (guess, true, last)]
    return Chunks(
        cameras,
        np.repeat(np.arange(states), count),
        "states",
        *flat,
        np.mean(others, axis=0).reshape(states * count, -1),
        advantages(imagined.values, imagined.start_values).ravel(),
        advantages(imagined.true_values, imagined.start_values).ravel(),
        advantages(truth.progress, truth.start_progress).ravel(),
        imagined.uncertainty.ravel(),
    )


# ---------------------------------------------------------------------- fidelity


def fidelity(found: Chunks, count: int | None = None) -> Heading:
    """Whether imagined outcomes follow the actions.

    Args:
        found: Chunks.
        count: Chunks per state, where several start from each; None where another moment's actions were exchanged.
    """
    own, copy = psnr(found.imagined, found.true), psnr(found.last, found.true)  # (N, V)
    reaction = mean_over_groups((own - found.other).mean(1), found.group)
    gain = mean_over_groups((own - copy).mean(1), found.group)
    flow = [
        endpoint_error(*(one.reshape(-1, *one.shape[2:]) for one in (guess, found.true, found.last))).reshape(own.shape)
        for guess in (found.imagined, found.last)
    ]
    figures = [
        Figure(
            "Reaction to actions",
            reaction,
            "PSNR with the chunk's own actions less that with other actions; 0: actions are ignored",
            "dB",
            1,
            found.of,
        ),
        Figure(
            "Above a copy of the last picture",
            gain,
            "PSNR of imagined less that of copied pictures, at chunk end",
            "dB",
            1,
            found.of,
        ),
    ]
    probe, recognised, notes = "another moment's motion, begun here", None, [_REACTS]
    if count is not None:
        probe, notes = "another chunk's, from the same state", []
        shape = (-1, count)
        guess, true, last = (one.reshape(*shape, *one.shape[1:]) for one in (found.imagined, found.true, found.last))
        hits = np.array([outcome_recognition(guess[[s]], true[[s]], last[[s], 0]) for s in range(len(guess))])
        recognised = mean_over_groups(hits, np.arange(len(hits)))
        figures += [
            Figure(
                "Own outcome recognised",
                recognised,
                "share of chunks whose imagined end is nearest to their own true end, "
                f"among the {count} of their state; chance is {1 / count:.2f}",
                "",
                2,
                found.of,
            ),
            Figure(
                "How much actions change",
                _movement(guess, true),
                "difference between imagined ends of one state, as a part of "
                "the difference between the true ends; 1 is right, 0 means actions are ignored, more exaggerates",
                "",
                2,
                found.of,
            ),
        ]
    for view, camera in enumerate(found.cameras):
        figures += [
            Figure(
                f"PSNR, camera {camera}",
                mean_over_groups(own[:, view], found.group),
                f"at chunk end; a copy of the last picture has {copy[:, view].mean():.1f} dB, other actions "
                f"{found.other[:, view].mean():.1f} dB",
                "dB",
                1,
                found.of,
            ),
            Figure(
                f"Flow end-point error, camera {camera}",
                mean_of_known(flow[0][:, view], found.group),
                f"how far off moving things are, lower is nearer; a copy: {_number(flow[1][:, view])} px",
                "px",
                2,
                found.of,
            ),
        ]
    ignored = reaction.mean < _LEAST_REACTION
    answer, good = graded(reaction, _LEAST_REACTION, 0.0)
    if ignored:
        answer, good = "no: actions are ignored", False
    elif good and gain.direction <= 0:
        answer, good = "in part", None
    elif good and count is None:
        answer = "it reacts"
    verdict = (
        f"With its own actions an imagined chunk is {ranged(reaction, 1, True)} dB nearer to the truth than with "
        f"{probe}, and {ranged(gain, 1, True)} dB nearer than a copy of the last picture."
    )
    if recognised is not None:
        share = f"{recognised.mean:.0%} of the outcomes are recognised among those of their state"
        verdict += f" {share} (chance {1 / (count or 1):.0%})."
    verdict += " Actions are ignored." if ignored else " Actions are not ignored." if reaction.direction > 0 else ""
    return Heading("counterfactual_action_fidelity", answer, good, verdict, figures, notes=notes)


def _movement(guess: np.ndarray, true: np.ndarray) -> Mean:
    """Root mean square difference between chunks of a state, imagined as a part of true; (S, C, ...) both."""
    spread = [one.reshape(*one.shape[:2], -1).astype(np.float32).var(axis=1).mean(axis=1) for one in (guess, true)]

    def ratio(rows: np.ndarray) -> float:
        below = float(spread[1][rows].sum())
        return float(np.sqrt(spread[0][rows].sum() / below)) if below else float("nan")

    return bootstrap(ratio, np.arange(len(guess)))


def _number(values: np.ndarray) -> str:
    return "not measured" if not np.isfinite(values).any() else f"{np.nanmean(values):.2f}"


# ---------------------------------------------------------------------- value


def value_prediction(found: Chunks, truth: TruthSet, imagined: Imagined) -> Heading:
    """Whether the better chunk is imagined to be better, where the truth is known."""
    assert found.true_advantage is not None
    guess, seen, true, group = found.advantage, found.seen_advantage, found.true_advantage, found.group

    def correlation(first: np.ndarray, second: np.ndarray, which: np.ndarray | None = None) -> Mean:
        rows = np.arange(len(first)) if which is None else np.flatnonzero(which)
        return bootstrap(lambda chosen: rank_correlation(first[rows[chosen]], second[rows[chosen]]), group[rows])

    within, ordered = within_state(guess, true, group)
    within_seen, _ = within_state(seen, true, group)
    overall, bias = correlation(guess, true), mean_over_groups(guess - true, group)
    gained = (truth.progress[:, :, -1] - truth.start_progress[:, None] > 0.05).ravel()
    frames = truth.progress.shape[2]
    of_frame = np.repeat(group, frames)
    values, progress = imagined.true_values.ravel(), truth.progress.ravel()
    kinds = np.tile(truth.kinds, len(truth.seeds))
    figures = [
        Figure(
            "Order within a state, imagined",
            within,
            "rank correlation of imagined and true advantages of a state's chunks, mean "
            f"over the {ordered} states whose chunks truly differ",
        ),
        Figure(
            "Order within a state, true pictures",
            within_seen,
            "the same for the value of the true pictures: what the value model alone would reach",
        ),
        Figure("Order overall, imagined", overall, "rank correlation over all chunks of all states"),
        Figure("Order overall, true pictures", correlation(seen, true), "the same for the value of the true pictures"),
        Figure(
            "Value against progress",
            bootstrap(lambda rows: rank_correlation(values[rows], progress[rows]), of_frame),
            "rank correlation of value and ground truth, over true pictures",
        ),
        Figure("Bias of imagined advantages", bias, "imagined less true; above 0 imagination flatters", "", 3),
        Figure(
            "Progress foreseen",
            bootstrap(lambda rows: area_under_roc(guess[rows], gained[rows]), group),
            "AUROC of imagined advantage for chunks that truly gain more than 0.05; 0.5 is chance",
        ),
        *(
            Figure(
                f"Order overall, {kind} chunks",
                correlation(guess, true, kinds == kind),
                "rank correlation over chunks of this kind",
            )
            for kind in dict.fromkeys(truth.kinds.tolist())
        ),
    ]
    answer, good = graded(within, 0.5, 0.2)
    verdict = (
        f"Of the chunks of one state, imagination finds the order with a rank correlation of {ranged(within)}, the "
        "value model on true "
        f"pictures with {ranged(within_seen)}; over all chunks {ranged(overall)}. It is {said(bias.mean, 3, True)} off "
        "on average."
    )
    points = _binned(guess, true)
    lines = {"chunks": points, "exact": [(points[0][0], points[0][0]), (points[-1][0], points[-1][0])]}
    shown = chart(
        "True advantage by imagined advantage",
        "imagined advantage",
        "mean true advantage",
        lines,
        "Each dot is a sixth of the chunks. On the dashed line an imagined advantage is worth what it says.",
    )
    return Heading("reward_and_value_prediction", answer, good, verdict, figures, [shown])


# ---------------------------------------------------------------------- uncertainty


def calibration(found: Chunks) -> Heading:
    """Whether large errors of imagined advantages come with large uncertainty."""
    error, doubt, group = np.abs(found.advantage - found.seen_advantage), found.uncertainty, found.group
    wrong = error > WRONG
    auroc = bootstrap(lambda rows: area_under_roc(doubt[rows], wrong[rows]), group)
    order = bootstrap(lambda rows: rank_correlation(doubt[rows], error[rows]), group)
    sure = doubt <= np.median(doubt)

    def difference(rows: np.ndarray) -> float:
        one, other = error[rows][~sure[rows]], error[rows][sure[rows]]
        return float(one.mean() - other.mean()) if len(one) and len(other) else float("nan")

    figures = [
        Figure(
            "AUROC for large errors",
            auroc,
            f"chance that a chunk whose imagined advantage is off by more than {WRONG:g} is less certain "
            f"than one that is not; {wrong.mean():.0%} are; 0.5 is chance",
            "",
            2,
            found.of,
        ),
        Figure("Order of errors", order, "rank correlation of uncertainty and error", "", 2, found.of),
        Figure(
            "Error, less certain half less surer half",
            bootstrap(difference, group),
            f"of imagined advantages; the mean error is {error.mean():.3f}",
            "",
            3,
            found.of,
        ),
    ]
    answer, good = graded(auroc, 0.7, 0.6)
    if min(wrong.sum(), (~wrong).sum()) < _LEAST_WRONG:
        answer, good = "cannot be told", None
    verdict = (
        f"Large errors (above {WRONG:g}) are found by the uncertainty with an AUROC of {ranged(auroc)}; 0.5 is chance."
    )
    if 0 < wrong.sum() < _LEAST_WRONG:
        verdict += f" But only {wrong.sum()} of {len(wrong)} chunks are that far off."
    elif not wrong.any():
        verdict = f"No imagined advantage is off by more than {WRONG:g}: there is nothing to find."
    ordered = np.argsort(doubt, kind="stable")
    shares = [share for share in np.linspace(0.1, 1.0, 10) if round(share * len(doubt)) >= 1]
    kept = [(100 * share, float(error[ordered[: round(share * len(doubt))]].mean())) for share in shares]
    charts = [
        chart(
            "Reliability: error by uncertainty",
            "uncertainty",
            "mean error",
            {"chunks": _binned(doubt, error)},
            "Each dot is a sixth of the chunks, the most certain ones on the left. It should rise.",
        ),
        chart(
            "Error when only the surest chunks are kept",
            "kept, %",
            "mean error",
            {"by uncertainty": kept, "at random": [(kept[0][0], float(error.mean())), (100.0, float(error.mean()))]},
            "The further the line stays below the dashed one, the more the uncertainty is worth.",
        ),
    ]
    return Heading("uncertainty_calibration", answer, good, verdict, figures, charts)


def _binned(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Mean of y by equally many values of x."""
    parts = np.array_split(np.argsort(x, kind="stable"), min(_BINS, len(x)))
    return [(float(x[rows].mean()), float(y[rows].mean())) for rows in parts]
