"""Scripted policies of box closing: the expert succeeds, each kind of operator fails in its own way."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest

from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.corrections import TakeoverGate
from rise_robot.cell.tasks.box_closing.operators import OPERATORS


@functools.cache
def shared_cell(*overrides: str) -> WorkCell:
    return WorkCell(*load_cell("box_closing", "tiny", overrides))


def outcome(cell: WorkCell, policy: str, seed: int, execute: int = 8) -> str:
    cell.reset(np.random.default_rng(seed))
    scripted = cell.task.scripted(policy, seed)
    score = 0.0
    while not cell.status.finished and cell.steps < cell.spec.max_steps:
        for target in scripted.plan(execute):
            status = cell.step(target)
            assert status.score >= score
            score = status.score
            assert cell.clamped == 0
            if status.finished:
                break
    return "success" if cell.status.success else cell.status.failure_mode


@pytest.mark.parametrize(
    ("overrides", "execute"),
    [((), 1), (("cell.difficulty=hard",), 4), (("cell.difficulty=easy", "cell.variation.enabled=true"), 8)],
    ids=["normal", "hard", "variation"],
)
def test_the_expert_closes_the_box(overrides: tuple[str, ...], execute: int) -> None:
    cell = shared_cell(*overrides)
    assert sum(outcome(cell, "expert", seed, execute) == "success" for seed in range(3)) == 3
    assert cell.status.score == 10


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("impatient", "flap_sprang_back"), ("forgetful", "tab_beside"), ("clumsy", "box_pushed"), ("hasty", "cup_tipped")],
)
def test_each_kind_fails_as_it_claims(kind: str, mode: str) -> None:
    found = Counter(outcome(shared_cell(), f"operator-{kind}", seed, 1) for seed in range(4))
    assert found[mode], found
    assert found[mode] == max(count for name, count in found.items() if name != "success"), found


def test_who_sees_a_mistake_mends_it() -> None:
    cell = shared_cell()
    for seed in range(20):
        cell.reset(np.random.default_rng(seed))
        operator = cell.task.scripted("operator-forgetful", seed)
        if operator.habit.learns:
            break
    assert outcome(cell, "operator-forgetful", seed, 1) == "success"


@pytest.mark.parametrize("kind", [None, *OPERATORS])
def test_operators_repeat_per_seed_and_episode(kind: str | None) -> None:
    cell = shared_cell()

    def targets(seed: int) -> np.ndarray:
        cell.reset(np.random.default_rng(3))
        operator, rows = cell.task.operator(kind, seed), []
        for _ in range(3):
            rows.append(operator.plan(2))
            cell.step(rows[-1][0])
        return np.concatenate(rows)

    np.testing.assert_array_equal(targets(0), targets(0))
    assert not np.array_equal(targets(0), targets(1))


def test_plans_depend_on_the_state_alone() -> None:
    cell = shared_cell()
    cell.reset(np.random.default_rng(2))
    expert = cell.task.expert()
    for _ in range(45):
        cell.step(expert.plan(1)[0])
    plan = expert.plan(16)
    np.testing.assert_array_equal(plan, cell.task.expert().plan(16))
    np.testing.assert_array_equal(plan[:5], expert.plan(5))
    assert ((plan >= cell.spec.layout.low) & (plan <= cell.spec.layout.high)).all()


@pytest.mark.parametrize(("drift", "taken"), [(None, True), (0.06, False)])
def test_it_is_corrected_sooner_than_a_task_of_centimetres(
    drift: float | None, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = shared_cell()
    cell.reset(np.random.default_rng(2))
    if drift is not None:
        monkeypatch.setattr(cell.task, "drift", drift, raising=False)
    plan = cell.task.expert().plan(8)
    aside = plan.copy()
    aside[:, 0] += 0.1  # the left arm, 3 cm
    assert TakeoverGate(cell).decide(aside, plan, 8) is taken
