"""What figures mean in words: better, worse, not told; believed, or not, or unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rise_agents.evaluation.recorded import ChunkErrors
from rise_agents.evaluation.verdict import judge_policy, judge_recorded, judge_world_model, summarise_verdict
from rise_env.metrics.agreement import Mean, mean_over_groups

BETTER, WORSE, OPEN = Mean(0.1, 0.05, 0.15, 9), Mean(-0.1, -0.2, -0.05, 9), Mean(0.1, -0.1, 0.3, 9)


def figures(**changes: Any) -> dict[str, Any]:
    """Of a world model that is good in everything."""
    gain = {"mean": 4.0, "low": 3.0, "high": 5.0, "groups": 9}
    quality = {"imagined": 24.0, "copy": 20.0, "other_actions": 19.0, "gain": gain}
    value = {"episodes": 9, "correlation": 0.7, "least_correlation": 0.2, "separation": 0.9, "problem": None,
             "calibration": None}  # fmt: skip
    dynamics = {"windows": 64, "psnr": quality, "flow_error": {"imagined": 1.0, "copy": 2.0},
                "reaction": {**gain, "ignored": False}}  # fmt: skip
    for name, change in changes.items():
        part = value if name in value else dynamics
        part[name] = {**part[name], **change} if isinstance(part[name], dict) else change
    return {"value": value, "dynamics": dynamics, "not_measured": {}}


@pytest.mark.parametrize(
    ("change", "answer", "good"),
    [(BETTER, "yes", True), (WORSE, "no", False), (OPEN, "cannot be told", None),
     (Mean(0.001, 0.0005, 0.0015, 9), "hardly changed", None)],
)  # fmt: skip
def test_whether_the_policy_got_better(change: Mean, answer: str, good: bool | None) -> None:
    found = judge_policy(change, 0.1, 0.2, 64, 4.8)
    assert (found.answer, found.good) == (answer, good)


@pytest.mark.parametrize(
    ("changes", "answers", "belief"),
    [
        ({}, ["yes"] * 3, "this imagination holds"),
        ({"problem": "it ranks nothing"}, ["no", "yes", "yes"], "not to be believed: .* the value does not rank"),
        ({"psnr": {"gain": {"mean": -1.0, "low": -2.0, "high": -0.5, "groups": 9}}}, ["yes", "no", "yes"],
         "no more than a copy"),
        ({"psnr": {"gain": {"mean": 1.0, "low": -2.0, "high": 4.0, "groups": 2}}}, ["yes", "cannot be told", "yes"],
         "not known in full"),
        ({"reaction": {"ignored": True}}, ["yes", "yes", "no"], "it ignores actions"),
    ],
)  # fmt: skip
def test_whether_imagination_is_believed(changes: dict[str, Any], answers: list[str], belief: str) -> None:
    world = judge_world_model(figures(**changes), None)
    assert [one.answer for one in world] == answers
    summary = summarise_verdict(judge_policy(BETTER, 0.1, 0.2, 64, 4.8), world)
    assert summary.startswith("In imagination the policy got better, ")
    assert np.char.find(summary, belief.split(": .* ")[-1]) >= 0
    assert "Nothing was executed" in summary
    assert "that it has not seen" in summary or "not known" in summary
    assert "not seen" not in summarise_verdict(judge_policy(BETTER, 0.1, 0.2, 64, 4.8), world, unseen=False)


def test_what_is_missing_is_unknown() -> None:
    found = {**figures(), "dynamics": None, "not_measured": {"dynamics": "no chunk fits"}}
    assert [one.answer for one in judge_world_model(found, None)] == ["yes", "unknown"]
    starts = {"states": 9, "correlation": 0.5, "reaction": {"other_actions": 9.0, "other_noise": 1.0}}
    assert [one.answer for one in judge_world_model(None, starts)] == ["unknown", "unknown", "yes"]
    assert judge_recorded(None, "there are none").text == "there are none"


def test_whether_the_policy_left_what_succeeded() -> None:
    def moved(after: float, change: Mean) -> list[ChunkErrors]:
        return [ChunkErrors("left angles", "rad", 0.1, after, 0.2, change)]

    assert judge_recorded(moved(0.09, WORSE), "here").answer == "yes"
    assert judge_recorded(moved(0.101, Mean(0.001, 0.0009, 0.0011, 9)), "here").answer == "yes"  # certain, and nothing
    assert judge_recorded(moved(0.15, BETTER), "here").answer == "farther than before"
    open_ = judge_recorded(moved(0.15, OPEN), "here")
    assert (open_.answer, open_.good) == ("cannot be told", None)
    assert "not told from before" in open_.text
    assert judge_recorded(moved(0.25, OPEN), "here").answer == "no"  # a robot that holds still may be nearer now
    lost = judge_recorded(moved(0.3, BETTER), "here")
    assert (lost.answer, lost.good) == ("no", False)
    assert "look at the films" in lost.text


def test_windows_of_one_episode_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(0)
    episodes = rng.normal(0.3, 1.0, 6)
    found = mean_over_groups(np.repeat(episodes, 50), np.repeat(np.arange(6), 50))
    half = 2.571 * episodes.std(ddof=1) / np.sqrt(6)  # Student's, five degrees of freedom
    assert found.mean == pytest.approx(episodes.mean())
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx((half, half), rel=1e-6)
    assert found.groups == 6
    alone = mean_over_groups(np.ones(50), np.zeros(50))
    assert (alone.direction, alone.groups, alone.low) == (0, 1, float("-inf"))
    assert mean_over_groups(np.ones(50), np.arange(50)).direction == 1
