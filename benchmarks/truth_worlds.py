"""What policies tell that act in both worlds: closed-loop validity, ranking, optimisation lift, exploitability."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

from benchmarks.truth_ladder import Figure, Heading, chart, graded, intervals, ranged, said
from benchmarks.truth_rollouts import Course, Proposals
from rise_agents.evaluation.results import wilson_interval
from rise_env.metrics import psnr, rank_correlation
from rise_env.metrics.agreement import Mean, bootstrap, kendall, mean_over_groups

__all__ = ["Both", "Chain", "closed_loop", "exploitability", "lift", "policy_ranking", "table_of"]

#: Difference of mean value and mean progress from which imagination counts as biased.
_BIAS = 0.1
_BEST_OF = "best of {} proposals"


class Chain(NamedTuple):
    """Chunks imagined one upon the other, and what truly came of the same actions.

    Attributes:
        cameras: Names of the cameras.
        group: (S,) what is independent.
        of: What the groups are, in a word.
        seconds: Time that a chunk takes.
        first: uint8 (S, V, H, W, 3), the true pictures that all starts from.
        imagined: uint8 (S, n, V, H, W, 3), after every chunk.
        true: uint8 of the same shape.
        value: (S, n + 1), imagined, at the start and after every chunk.
        level: (S, n + 1), what it should be.
        level_name: What that is, in words.
        own: (S, n + 1): true progress of the policy where it sees the true pictures; None where it did not act.
    """

    cameras: Sequence[str]
    group: np.ndarray
    of: str
    seconds: float
    first: np.ndarray
    imagined: np.ndarray
    true: np.ndarray
    value: np.ndarray
    level: np.ndarray
    level_name: str
    own: np.ndarray | None


class Both(NamedTuple):
    """A policy in both worlds.

    Attributes:
        about: What it is, in words.
        trained: Whether it is a trained policy, which acts by what it sees.
        imagined: In imagination.
        true: In the cell.
    """

    about: str
    trained: bool
    imagined: Course
    true: Course


# ---------------------------------------------------------------------- closed loop


def closed_loop(found: Chain) -> Heading:
    """Whether imagination holds when it goes on from what it has imagined."""
    own = psnr(found.imagined, found.true)  # (S, n, V)
    copy = psnr(np.broadcast_to(found.first[:, None], found.true.shape), found.true)
    gains = [mean_over_groups((own - copy)[:, depth].mean(1), found.group) for depth in range(own.shape[1])]
    times = [found.seconds * (depth + 1) for depth in range(own.shape[1])]
    figures = [
        Figure(
            f"Above a copy of the first picture, after {number} chunk{'s' * (number > 1)}",
            gain,
            f"{time:.1f} s ahead: {own[:, number - 1].mean():.1f} dB, a copy {copy[:, number - 1].mean():.1f} dB",
            "dB",
            1,
            found.of,
        )
        for number, (gain, time) in enumerate(zip(gains, times, strict=True), start=1)
    ]
    figures += [
        Figure(
            f"PSNR at the end, camera {camera}",
            mean_over_groups(own[:, -1, view], found.group),
            f"a copy of the first picture: {copy[:, -1, view].mean():.1f} dB",
            "dB",
            1,
            found.of,
        )
        for view, camera in enumerate(found.cameras)
    ]
    value, level = found.value[:, -1], found.level[:, -1]
    order = bootstrap(lambda rows: rank_correlation(value[rows], level[rows]), found.group)
    bias = mean_over_groups(value - level, found.group)
    figures += [
        Figure(
            "Order of the ends",
            order,
            f"rank correlation of imagined value and {found.level_name} after the last chunk",
            "",
            2,
            found.of,
        ),
        Figure(
            "Bias at the end",
            bias,
            f"imagined value less {found.level_name}; above 0 imagination flatters",
            "",
            3,
            found.of,
        ),
    ]
    gap = None if found.own is None else mean_over_groups(value - found.own[:, -1], found.group)
    if gap is not None:
        note = "imagined value where the policy acts in imagination, less true progress where it acts in the cell"
        figures.append(Figure("Gap between the two loops", gap, note, "", 3))
    answer, good = graded(gains[-1], 0.0, 0.0)
    biased = any(one is not None and one.direction != 0 and abs(one.mean) > _BIAS for one in (bias, gap))
    if good and (biased or order.low <= 0):
        answer, good = "in part", None
    verdict = (
        f"After {len(gains)} chunks ({times[-1]:.1f} s) imagined pictures are {ranged(gains[-1], 1, True)} dB nearer "
        "to the truth than the "
        f"first picture; imagined values order the ends with a rank correlation of {ranged(order)} and are "
        f"{ranged(bias, 2, True)} off."
    )
    if gap is not None:
        verdict += f" They are {ranged(gap, 2, True)} off what the policy reaches where it acts in the cell instead."
    if biased:
        verdict += f" Imagination {'flatters' if (gap or bias).mean > 0 else 'belittles'} what comes of it."
    courses = {"imagined value": found.value.mean(0), f"{found.level_name}, same actions": found.level.mean(0)}
    if found.own is not None:
        courses["true progress, acting in the cell"] = found.own.mean(0)
    starts = np.arange(found.value.shape[1]) * found.seconds
    charts = [
        chart(
            "How near pictures stay to the truth",
            "seconds imagined",
            "PSNR, dB",
            {
                "imagined": list(zip(times, own.mean((0, 2)).tolist(), strict=True)),
                "copy of the first picture": list(zip(times, copy.mean((0, 2)).tolist(), strict=True)),
            },
            "Higher is nearer. Where the lines meet, imagination knows no more than the first picture.",
        ),
        chart(
            "What imagination believes, and what is true",
            "seconds imagined",
            "mean over the states",
            {name: list(zip(starts.tolist(), line.tolist(), strict=True)) for name, line in courses.items()},
            "A gap between the first two lines is flattery or pessimism about the same actions."
            + (
                " The third line is the same policy with its eyes on the true pictures."
                if found.own is not None
                else ""
            ),
        ),
    ]
    return Heading("closed_loop_validity", answer, good, verdict, figures, charts)


# ---------------------------------------------------------------------- ranking


def policy_ranking(policies: Mapping[str, Both]) -> Heading:
    """Whether imagination puts policies into the right order."""
    names = list(policies)
    guess, true = (
        np.stack([getattr(one, world).level[:, -1] for one in policies.values()]) for world in ("imagined", "true")
    )
    won_guess, won = (
        np.stack([getattr(one, world).success for one in policies.values()]) for world in ("imagined", "true")
    )
    states = np.arange(guess.shape[1])

    def over(statistic: Any, first: np.ndarray, second: np.ndarray) -> Mean:
        return bootstrap(lambda rows: statistic(first[:, rows].mean(1), second[:, rows].mean(1)), states)

    order = over(rank_correlation, guess, true)
    trained = np.array([one.trained for one in policies.values()])
    hard = over(rank_correlation, guess[trained], true[trained]) if trained.sum() > 2 else None
    figures = [
        Figure(
            "Rank correlation, progress",
            order,
            f"Spearman, of {len(names)} policies: mean imagined value and mean true progress at the end",
        ),
        Figure(
            "Kendall's tau, progress",
            over(kendall, guess, true),
            "share of pairs in the right order less that in the wrong one",
        ),
        Figure(
            "Rank correlation, success",
            over(rank_correlation, won_guess, won),
            "Spearman of imagined and true success rates, which have few levels",
        ),
        Figure(
            "Among trained policies",
            hard,
            f"Spearman of the {trained.sum()} that act by what they see, in both worlds: the hard part",
        ),
        Figure(
            "Pairs told rightly",
            over(_pairs, guess, true),
            "share of all pairs of policies of which imagination prefers the better one",
        ),
    ]
    answer, good = graded(order, 0.5, 0.2)
    if good and not (hard is not None and hard.low > 0):
        answer, good = "in part", None
    best = names[int(true.mean(1).argmax())], names[int(guess.mean(1).argmax())]
    verdict = (
        f"Imagination orders {len(names)} policies with a rank correlation of {ranged(order)} to their true progress. "
        f"The truly best is {best[0]}; imagination prefers {'it, too' if best[0] == best[1] else best[1]}. "
        f"Among the {trained.sum()} trained policies alone, which differ less, it is {ranged(hard)}."
    )
    rows = {
        names[i]: {
            "imagined value": mean_over_groups(guess[i], states),
            "true progress": mean_over_groups(true[i], states),
        }
        for i in np.argsort(-true.mean(1), kind="stable")
    }
    shown = intervals(
        "Where policies get to, in both worlds",
        "mean at the end, 0 to 1",
        rows,
        "The truly best policy is on top. If the upper dots fall from row to row as the lower ones do, imagination "
        "ranks rightly. Lines are 95 % intervals over the states.",
    )
    return Heading("policy_ranking", answer, good, verdict, figures, [shown])


def table_of(policies: Mapping[str, Both]) -> list[dict[str, Any]]:
    """Every policy in both worlds, for JSON: means with intervals over states, success rates with Wilson's."""
    table = []
    for name, one in policies.items():
        row: dict[str, Any] = {"policy": name, "about": one.about, "trained": one.trained}
        for world, course in (("imagined", one.imagined), ("true", one.true)):
            states = np.arange(len(course.level))
            row[world] = {
                "end": mean_over_groups(course.level[:, -1], states)._asdict(),
                "success_rate": float(course.success.mean()),
                "success_interval": wilson_interval(int(course.success.sum()), len(course.success)),
            }
        table.append(row)
    return table


def _pairs(first: np.ndarray, second: np.ndarray) -> float:
    """Share of pairs in the same order."""
    upper = np.triu_indices(len(first), 1)
    signs = [np.sign(np.subtract.outer(one, one))[upper] for one in (first, second)]
    told = signs[1] != 0
    return float((signs[0][told] == signs[1][told]).mean()) if told.any() else float("nan")


# ---------------------------------------------------------------------- lift and exploitability


class _Gain(NamedTuple):
    """Imagined and true gains, state by state (S,)."""

    imagined: np.ndarray
    true: np.ndarray


def _gains(proposals: Proposals, base: Both, improved: Mapping[str, Both]) -> dict[str, _Gain]:
    """Gains over the base by name: of the proposal that is imagined best, and of improved policies."""
    rows = np.arange(len(proposals.imagined))
    chosen = proposals.imagined.argmax(axis=1)
    count = proposals.imagined.shape[1]
    found = {
        _BEST_OF.format(count): _Gain(
            *(one[rows, chosen] - one.mean(axis=1) for one in (proposals.imagined, proposals.true))
        )
    }
    for name, one in improved.items():
        found[name] = _Gain(
            *(
                after.level[:, -1] - before.level[:, -1]
                for after, before in ((one.imagined, base.imagined), (one.true, base.true))
            )
        )
    return found


def lift(proposals: Proposals, base: Both, improved: Mapping[str, Both]) -> Heading:
    """Whether what improves in imagination improves in truth."""
    states, rows, figures, told = np.arange(len(proposals.true)), {}, [], []
    for name, gain in _gains(proposals, base, improved).items():
        means = {"imagined": mean_over_groups(gain.imagined, states), "true": mean_over_groups(gain.true, states)}
        rows[name] = means
        what = (
            "advantage of the chunk imagined best less the mean of its state"
            if name not in improved
            else ("end of the course less that of the base, state by state")
        )
        figures += [Figure(f"{world.capitalize()} gain, {name}", one, what, "", 3) for world, one in means.items()]
        told.append((name, means))
    best = mean_over_groups(proposals.true.max(axis=1) - proposals.true.mean(axis=1), states)
    figures.append(
        Figure(
            "True gain, truly best proposal", best, "what a perfect imagination would gain by choosing: a bound", "", 3
        )
    )
    name, means = told[-1]  # an improved policy, where there is one
    answer, good = {1: ("yes", True), 0: ("cannot be told", None), -1: ("no: it gets worse", False)}[
        means["true"].direction
    ]
    if means["imagined"].direction <= 0:
        answer, good = "nothing gained in imagination", None
    verdict = " ".join(
        f"{name[0].upper() + name[1:]}: imagined gain {ranged(one['imagined'], 3, True)}, true gain "
        f"{ranged(one['true'], 3, True)}."
        for name, one in told
    )
    shown = intervals(
        "Gain over the base, in both worlds",
        "gain",
        rows,
        "A true gain right of 0 is real. The further it lies left of the imagined one, the more is flattery.",
    )
    notes = (
        []
        if improved
        else ["No improved policy was named (--improved RUN): the lift is that of choosing among the base's proposals."]
    )
    return Heading("optimisation_lift", answer, good, verdict, figures, [shown], notes)


def exploitability(proposals: Proposals, base: Both, improved: Mapping[str, Both]) -> Heading:
    """How much of the imagined gain is real."""
    states, figures, told = np.arange(len(proposals.true)), [], []
    for name, gain in _gains(proposals, base, improved).items():
        share = bootstrap(functools.partial(_share, gain), states)
        figures.append(Figure(f"Share that is real, {name}", share, "true gain divided by imagined gain"))
        told.append((name, share, mean_over_groups(gain.imagined, states)))
    chosen = proposals.imagined.argmax(axis=1)
    error = proposals.imagined - proposals.true
    flattery = mean_over_groups(error[states, chosen], states)
    figures += [
        Figure(
            "Flattery of chosen proposals",
            flattery,
            "imagined less true advantage of the proposal imagined best",
            "",
            3,
        ),
        Figure(
            "Flattery of all proposals",
            mean_over_groups(error.mean(axis=1), states),
            "the same over all proposals; what the chosen have beyond it, choosing has found",
            "",
            3,
        ),
    ]
    name, share, imagined = told[-1]
    _, good = graded(share, 0.5, 0.5)
    answer = {True: "mostly real", False: "mostly not real", None: "cannot be told"}[good]
    if imagined.direction <= 0:
        answer, good = "nothing gained in imagination", None
    word = "worse" if flattery.mean >= 0 else "better"
    verdict = (
        f"Of the imagined gain of {name}, {ranged(share)} is real (1: all, 0: none). Proposals that are chosen for "
        f"their imagined advantage are {said(abs(flattery.mean), 3)} {word} than imagined."
    )
    pressure = _pressure(proposals)
    shown = chart(
        "The harder one chooses",
        "proposals to choose from",
        "gain over a random one",
        pressure,
        "Solid: what imagination promises. Dashed: what it keeps. Dotted: what the truly best proposal would bring.",
    )
    return Heading("exploitability", answer, good, verdict, figures, [shown])


def _share(gain: _Gain, rows: np.ndarray) -> float:
    below = float(gain.imagined[rows].mean())
    return float(gain.true[rows].mean()) / below if below > 0 else float("nan")


def _pressure(found: Proposals) -> dict[str, list[tuple[float, float]]]:
    """Mean gain of the best of m of the proposals, for every m, over all ways to leave the others out."""
    count = found.imagined.shape[1]
    lines: dict[str, list[tuple[float, float]]] = {"imagined": [], "true": [], "truly best": []}
    by_guess, by_truth = (np.argsort(one, axis=1) for one in (found.imagined, found.true))
    for m in range(1, count + 1):
        # The proposal of rank i (from 0) is the best of m that are drawn if the other m - 1 are of the i below it.
        weight = np.array([comb(i, m - 1) for i in range(count)]) / comb(count, m)
        for name, values, order in (
            ("imagined", found.imagined, by_guess),
            ("true", found.true, by_guess),
            ("truly best", found.true, by_truth),
        ):
            gain = (np.take_along_axis(values, order, axis=1) * weight).sum(axis=1) - values.mean(axis=1)
            lines[name].append((float(m), float(gain.mean())))
    return lines
