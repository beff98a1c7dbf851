"""An expert that takes over when a policy drifts."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.corrections import SupervisedPolicy
from rise_robot.cell.env import CellEnv
from rise_robot.cell.scripted import ScriptedPolicy
from rise_robot.cell.tasks.brick_sorting.expert import BrickExpert

SEEDS = range(20)


@functools.cache
def cell() -> WorkCell:
    return WorkCell(*load_cell("brick_sorting", "tiny"))


@functools.cache
def results(name: str) -> list[tuple[bool, list[bool]]]:
    """Success and intervention flags, per chunk, of an episode per seed."""
    shared, rows = cell(), []
    for seed in SEEDS:
        shared.reset(np.random.default_rng(seed))
        policy = shared.task.scripted(name, seed=1)
        policy.reset()
        flags = []
        while not shared.status.finished and shared.steps < shared.spec.max_steps:
            plan = policy.plan(4)
            assert plan.shape == (4, 14)
            flags.append(policy.intervening)
            for target in plan:
                shared.step(target)
                if shared.status.finished:
                    break
        rows.append((shared.status.success, flags))
    return rows


def test_corrections_help_on_the_same_episodes() -> None:
    alone = sum(success for success, _ in results("operator"))
    corrected = sum(success for success, _ in results("corrected"))
    assert alone <= len(SEEDS) - 4
    assert corrected >= alone + 3


def test_flags_tell_who_acts() -> None:
    flags = [flags for _, flags in results("corrected")]
    share = np.mean([flag for episode in flags for flag in episode])
    assert 0.02 < share < 0.8
    assert any(not any(episode) for episode in flags)
    assert any(a and not b for episode in flags for a, b in itertools.pairwise(episode)), "no hand back"
    assert not any(flag for _, episode in results("operator") for flag in episode)


def test_the_expert_is_never_corrected() -> None:
    shared = cell()
    for seed in range(4):
        for horizon in (1, 4, 8):
            shared.reset(np.random.default_rng(seed))
            expert = BrickExpert(shared, shared.task)
            policy = SupervisedPolicy(shared, expert, BrickExpert(shared, shared.task))
            policy.reset()
            while not shared.status.finished:
                plan = policy.plan(horizon)
                assert not policy.intervening
                np.testing.assert_array_equal(plan, expert.plan(horizon))
                for target in plan:
                    shared.step(target)


class Idle(ScriptedPolicy):
    """Does nothing."""

    name = "idle"

    def plan(self, horizon: int) -> np.ndarray:
        return np.repeat(cell().command[None], horizon, axis=0)


def test_an_intervention_is_the_experts_plan_and_lasts() -> None:
    """A policy that does nothing is taken over, for a while at least; a reset hands control back."""
    shared = cell()
    shared.reset(np.random.default_rng(0))
    expert = BrickExpert(shared, shared.task)
    policy = SupervisedPolicy(shared, Idle(), expert)
    began = None
    for _ in range(20):
        plan = policy.plan(1)
        assert len(plan) == 1
        if policy.intervening:
            began = shared.seconds if began is None else began
            np.testing.assert_array_equal(plan, expert.plan(1))
        else:
            assert began is None or shared.seconds - began >= 1.2
            np.testing.assert_array_equal(plan, Idle().plan(1))
        shared.step(plan[0])
    assert began is not None
    policy.reset()
    assert not policy.intervening


def test_corrected_chunks_do_not_depend_on_what_is_asked_besides() -> None:
    first = results("corrected")[0]
    shared = cell()
    shared.reset(np.random.default_rng(0))
    policy = shared.task.scripted("corrected", seed=1)
    policy.reset()
    flags = []
    while not shared.status.finished and shared.steps < shared.spec.max_steps:
        for target in policy.plan(4):
            shared.step(target)
            if shared.status.finished:
                break
        flags.append(policy.intervening)
    assert (shared.status.success, flags) == first


def test_the_gate_watches_any_policy() -> None:
    env = CellEnv(preset="tiny")
    env.reset(seed=3)
    hold = np.repeat(env.cell.command[None], env.task.chunk, axis=0).astype(np.float32)
    expert = env.scripted_chunk("expert")
    run, taken = env.supervised_chunk(expert)
    assert not taken
    np.testing.assert_array_equal(run, expert)
    flags = []
    for _ in range(5):
        run, taken = env.supervised_chunk(hold)
        np.testing.assert_array_equal(run, env.scripted_chunk("expert") if taken else hold)
        flags.append(taken)
        if env.step(run)[2]:
            break
    assert flags[0]  # the expert sets out, the policy does not
    env.reset(seed=3)
    assert not env.supervised_chunk(expert)[1]  # the policy has control of a new episode
    env.close()
